"""What a phrase means, in a form that a model can carry out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from volseg.text.vocabulary import Laterality, Vocabulary, load_vocabulary


class SelectorKind(StrEnum):
    """Ways to take a part of a mask; sides and directions are the patient's."""

    LARGEST = "largest"
    SMALLEST = "smallest"
    LEFT = "left"
    """What lies left of the midline."""
    RIGHT = "right"
    """What lies right of the midline."""
    UPPER = "upper"
    """The upper half of the whole mask, by its extent."""
    LOWER = "lower"
    ANTERIOR = "anterior"
    POSTERIOR = "posterior"
    UPPERMOST = "uppermost"
    """The connected component whose centre is highest."""
    LOWERMOST = "lowermost"
    FOREMOST = "foremost"
    REARMOST = "rearmost"
    LEFTMOST = "leftmost"
    RIGHTMOST = "rightmost"
    WITHIN = "within"
    """The components that lie mostly in another structure."""


@dataclass(frozen=True)
class Selector:
    """One step that narrows a mask.

    Attributes:
        kind: how.
        count: how many components, for the kinds that pick components.
        region: where the components have to lie, for ``WITHIN``.
    """

    kind: SelectorKind
    count: int = 1
    region: Query | None = None


@dataclass(frozen=True)
class Query:
    """One object that was asked for.

    Its mask is the union of ``include`` less the union of ``exclude``, narrowed by the selectors one after the other.

    Attributes:
        text: the words it comes from.
        include: ids of the concepts.
        exclude: ids of concepts to take away.
        laterality: the side that was said; ``NONE`` where none was, so that "kidney" is both without having said so.
        selectors: in the order they apply.
        attributes: descriptions such as ``hypodense`` or ``2.3 cm``, for models that can use them.
        corrections: (written, read) for words whose spelling was mended.
        notes: sentences a person should see, such as how an ambiguity was settled.
    """

    text: str
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    laterality: Laterality = Laterality.NONE
    selectors: tuple[Selector, ...] = ()
    attributes: tuple[str, ...] = ()
    corrections: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def concept_ids(self) -> tuple[str, ...]:
        """Every concept whose mask is needed, each once."""
        regions = (item.region.concept_ids for item in self.selectors if item.region is not None)
        return tuple(dict.fromkeys((*self.include, *self.exclude, *(one for ids in regions for one in ids))))

    def describe(self, vocabulary: Vocabulary | None = None) -> str:
        """The query in volseg's own words, such as ``largest left lung nodule``."""
        known = vocabulary or load_vocabulary()
        name = " and ".join(known.by_id(concept_id).name for concept_id in self.include)
        for selector in self.selectors:
            if selector.region is not None:
                name = f"{name} in {selector.region.describe(known)}"
            else:
                number = f"{selector.count} " if selector.count > 1 else ""
                name = f"{number}{selector.kind} {name}"
        if self.exclude:
            name += " without " + " and ".join(known.by_id(concept_id).name for concept_id in self.exclude)
        return name

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "text": self.text,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "laterality": str(self.laterality),
            "selectors": [
                {
                    "kind": str(item.kind),
                    "count": item.count,
                    "region": None if item.region is None else item.region.to_json(),
                }
                for item in self.selectors
            ],
            "attributes": list(self.attributes),
            "corrections": [list(pair) for pair in self.corrections],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Recipe:
    """How to make a concept's mask from what a model offers.

    Attributes:
        parts: ids the model offers; their union is the concept, or holds it where a side is to be taken.
        side: ``LEFT`` or ``RIGHT`` where only both sides together are offered, else ``NONE``.
    """

    parts: tuple[str, ...]
    side: Laterality = Laterality.NONE


def recipe(concept_id: str, offered: Collection[str], vocabulary: Vocabulary | None = None) -> Recipe | None:
    """How a model that offers some concepts can make another one.

    Args:
        concept_id: what is wanted.
        offered: ids the model can segment.
        vocabulary: volseg's own if not given.

    Returns:
        The concept itself, or its parts, or one side of what is offered for both; None if there is no way.
    """
    known = vocabulary or load_vocabulary()
    parts = known.cover(concept_id, offered)
    if parts:
        return Recipe(parts)
    concept = known.by_id(concept_id)
    if concept.base != concept_id:
        whole = known.cover(concept.base, offered)
        if whole:
            return Recipe(whole, concept.laterality)
    return None


def with_notes(query: Query, *notes: str) -> Query:
    """The same query with more for a person to read."""
    return replace(query, notes=(*query.notes, *(note for note in notes if note not in query.notes)))
