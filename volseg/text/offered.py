"""What a model with a label table offers, in concepts."""

from __future__ import annotations

from collections.abc import Iterable

from volseg.data.labelmap import Label
from volseg.text.phrases import resolve
from volseg.text.problems import AmbiguousTermError, PhraseError, UnknownTermError
from volseg.text.vocabulary import load_vocabulary


def offered_concepts(labels: Iterable[Label]) -> dict[str, str]:
    """Concepts of a model's labels.

    Args:
        labels: a model's label table; names are concept ids or names in words.

    Returns:
        The label's name for each concept id. Labels that name no concept are left out; a name that is also a concept's
        id or a concept's own name is that concept even where the words could mean more.
    """
    vocabulary = load_vocabulary()
    own = {name: concept.id for concept in vocabulary for name in (concept.name, concept.id)}
    found: dict[str, str] = {}
    for label in labels:
        concept_id = own.get(label.name)
        if concept_id is None:
            try:
                queries = resolve(label.name)
            except (UnknownTermError, AmbiguousTermError, PhraseError):
                continue
            query = queries[0]
            if len(queries) > 1 or query.selectors or query.exclude or query.corrections:
                continue
            concept_id = query.include[0]
        found.setdefault(concept_id, label.name)
    return found
