"""From words on the command line to objects: one for each thing that is listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from volseg.cli.prompt_options import OpenObject, PromptFile, Statement
from volseg.errors import CapabilityError, PromptError

if TYPE_CHECKING:
    from volseg.models.card import ModelCard


def model_for(statements: Sequence[Statement], everything: bool) -> str:
    """The model that serves what was said, where none was named."""
    from volseg.models.registry import DEFAULT_MODEL, PIPELINE, TEXT_MODEL
    from volseg.prompts import Text

    said = [statement for statement in statements if not isinstance(statement, OpenObject)]
    words = [isinstance(statement, Text) for statement in said]
    if everything or (words and all(words)):
        return TEXT_MODEL
    return PIPELINE if any(words) else DEFAULT_MODEL


def spread_words(statements: Sequence[Statement], card: ModelCard) -> tuple[Statement, ...]:
    """Gives every thing that a phrase lists an object of its own, named in volseg's words.

    A phrase after ``--object`` speaks of that object, whatever it lists.

    Args:
        statements: from ``parse_options``.
        card: of the model; its label table settles what ambiguous words mean.

    Raises:
        PromptError: words that are unknown or ambiguous.
    """
    from volseg.prompts import Text
    from volseg.text.offered import offered_concepts
    from volseg.text.phrases import resolve

    offered = offered_concepts(card.labels)
    result: list[Statement] = []
    opened = False
    for statement in statements:
        if isinstance(statement, OpenObject):
            opened = True
        elif isinstance(statement, Text) and statement.positive and not opened:
            own = [one for one in result if not isinstance(one, OpenObject | PromptFile)]
            queries = resolve(statement.text, among=frozenset(offered) or None)
            if own and len(queries) == 1:
                result.append(statement)
                continue
            for query in queries:
                # Its own words where they say the same by themselves; else volseg's.
                alone = len(queries) == 1 or _same(query.text, query.include, offered)
                words = (statement.text if len(queries) == 1 else query.text) if alone else query.describe()
                result += [OpenObject(query.describe()), Text(words)]
            continue
        result.append(statement)
    return tuple(result)


def everything_offered(card: ModelCard) -> tuple[Statement, ...]:
    """An object for each structure of a model's label table.

    Raises:
        CapabilityError: the model has none.
    """
    from volseg.prompts import PromptKind, Text

    if not card.labels or PromptKind.TEXT not in card.positive:
        raise CapabilityError(f"--all takes a model that knows structures by name; {card.name} has no label table")
    return tuple(part for label in card.labels for part in (OpenObject(label.name), Text(label.name)))


def _same(text: str, include: tuple[str, ...], offered: dict[str, str]) -> bool:
    from volseg.text.phrases import resolve

    try:
        queries = resolve(text, among=frozenset(offered) or None)
    except PromptError:
        return False
    return len(queries) == 1 and queries[0].include == include
