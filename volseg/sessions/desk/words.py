"""Words that a model serves, for people who type them."""

from __future__ import annotations

from dataclasses import dataclass

from volseg.errors import CapabilityError
from volseg.models.card import ModelCard
from volseg.prompts import PromptKind


@dataclass(frozen=True)
class Term:
    """A name that may be typed.

    Attributes:
        words: the name, such as ``left kidney``.
        reason: why the model does not serve it; empty where it does.
    """

    words: str
    reason: str = ""


@dataclass(frozen=True)
class Asked:
    """One thing that a phrase lists.

    Attributes:
        name: what volseg calls it.
        words: that ask for it alone.
    """

    name: str
    words: str


def known_terms(card: ModelCard) -> tuple[Term, ...]:
    """What can be offered while a person types: what the model serves first, then the rest of the vocabulary.

    Names stand before synonyms, and those of the model's own table before all.

    Args:
        card: of a model that takes words; one without a label table serves every name.
    """
    from volseg.text.query import recipe
    from volseg.text.vocabulary import load_vocabulary

    offered = _offered(card)
    own = {label.name: place for place, label in enumerate(card.labels)}
    ranked: dict[str, tuple[bool, int, int, str]] = {}
    for concept in load_vocabulary():
        refused = offered is not None and recipe(concept.id, offered) is None
        synonyms = concept.synonyms if concept.base == concept.id else ()
        for words in (concept.name, *synonyms):
            rank = (refused, own.get(words, len(own)), int(words != concept.name), words.lower())
            ranked[words] = min(rank, ranked.get(words, rank))  # a name may stand for several concepts
    reason = f"{card.name} was not trained for it"
    return tuple(Term(words, reason if ranked[words][0] else "") for words in sorted(ranked, key=ranked.__getitem__))


def read_phrase(text: str, card: ModelCard) -> tuple[Asked, ...]:
    """The things that a phrase asks a model for, each with words of its own.

    Args:
        text: as typed, such as ``spleen and left kidney``.
        card: of the model that shall find them.

    Raises:
        PromptError: words that are unknown, with the nearest terms, or that can mean several things.
        CapabilityError: the model takes no words, or does not serve what they name.
    """
    from volseg.text.phrases import resolve
    from volseg.text.query import recipe
    from volseg.text.vocabulary import load_vocabulary

    if PromptKind.TEXT not in card.positive:
        raise CapabilityError(f"{card.name} takes no words; choose a model that does, or click")
    offered = _offered(card)
    queries = resolve(text, among=offered)
    if offered is not None:
        for query in queries:
            for concept in query.concept_ids:
                if recipe(concept, offered) is None:
                    served = ", ".join(label.name for label in card.labels[:12])
                    name = load_vocabulary().by_id(concept).name
                    raise CapabilityError(f"{card.name} was not trained for {name!r}; it serves {served}")
    if len(queries) == 1:
        return (Asked(queries[0].describe(), text),)
    return tuple(Asked(query.describe(), query.describe()) for query in queries)


def _offered(card: ModelCard) -> frozenset[str] | None:
    """Ids of the concepts in a model's label table; None without one."""
    from volseg.text.offered import offered_concepts

    return frozenset(offered_concepts(card.labels)) if card.labels else None
