"""The words volseg knows: anatomical structures and lesions, as data files with their source.

Every structure that comes in pairs is three concepts: ``kidney`` is both kidneys together, ``kidney_left`` and
``kidney_right`` are one each. The files in ``volseg/text/data`` list such a structure once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from types import MappingProxyType

from volseg.data.labelmap import SnomedCode, default_color_rgb
from volseg.data.modality import Modality
from volseg.errors import PromptError
from volseg.text.tables import rows


class Laterality(StrEnum):
    """The side of the body a concept is on; the patient's own left and right."""

    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"
    """A structure that comes in pairs, both together."""
    NONE = "none"
    """There is one of it, or its side is part of the name alone: the "left" atrium is a chamber of the heart."""


class ConceptKind(StrEnum):
    """What sort of thing a concept is."""

    STRUCTURE = "structure"
    """Normal anatomy."""
    LESION = "lesion"
    """An abnormality; there may be none or many in an image."""
    FLUID = "fluid"
    """A collection of fluid."""
    DEVICE = "device"
    """Something foreign, such as an implant."""


@dataclass(frozen=True)
class Concept:
    """One thing that can be asked for by name.

    Attributes:
        id: stable, of lower-case letters, digits and underscores, such as ``kidney_left``.
        name: what volseg calls it, in English, such as ``left kidney``.
        synonyms: other names and abbreviations, English and Latin, without the side where ``laterality`` gives one.
        laterality: see ``Laterality``.
        base: id of the concept for both sides together; its own id where there are no sides.
        parents: ids of wider concepts, which it is a part or a kind of.
        parts: alternatives, each a tuple of ids whose union is this concept.
        modalities: where it can be seen.
        snomed: the SNOMED CT concept, without the side; None where no checked code is known.
        color_rgb: red, green, blue in 0..255.
        kind: see ``ConceptKind``.
        source: where name and code come from.
    """

    id: str
    name: str
    synonyms: tuple[str, ...]
    laterality: Laterality
    base: str
    parents: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    modalities: frozenset[Modality]
    snomed: SnomedCode | None
    color_rgb: tuple[int, int, int]
    kind: ConceptKind
    source: str


@dataclass(frozen=True)
class Vocabulary:
    """Concepts, found by id or by relation.

    Attributes:
        concepts: all of them, in the order of the file; both sides together, then left, then right.
    """

    concepts: tuple[Concept, ...]

    @cached_property
    def _by_id(self) -> dict[str, Concept]:
        return {concept.id: concept for concept in self.concepts}

    @cached_property
    def _children(self) -> dict[str, tuple[str, ...]]:
        children: dict[str, list[str]] = {}
        for concept in self.concepts:
            for parent in concept.parents:
                children.setdefault(parent, []).append(concept.id)
        return {parent: tuple(ids) for parent, ids in children.items()}

    def __contains__(self, concept_id: object) -> bool:
        return concept_id in self._by_id

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    def by_id(self, concept_id: str) -> Concept:
        """The concept with an id.

        Raises:
            PromptError: there is none.
        """
        try:
            return self._by_id[concept_id]
        except KeyError:
            raise PromptError(f"the vocabulary has no concept with the id {concept_id!r}") from None

    def sided(self, concept_id: str, laterality: Laterality) -> Concept | None:
        """The same structure on another side, or None where it has no such side.

        Args:
            concept_id: of any side.
            laterality: ``BOTH`` and ``NONE`` give the concept without a side.
        """
        base = self.by_id(concept_id).base
        if laterality in (Laterality.LEFT, Laterality.RIGHT):
            return self._by_id.get(f"{base}_{laterality}")
        return self._by_id[base]

    def children(self, concept_id: str) -> tuple[str, ...]:
        """Ids of the parts and kinds one level below."""
        return self._children.get(concept_id, ())

    def ancestors(self, concept_id: str) -> frozenset[str]:
        """Ids of everything it is a part or a kind of, itself not included."""
        found: set[str] = set()
        waiting = list(self.by_id(concept_id).parents)
        while waiting:
            parent = waiting.pop()
            if parent not in found:
                found.add(parent)
                waiting.extend(self.by_id(parent).parents)
        return frozenset(found)

    def cover(self, concept_id: str, offered: Collection[str]) -> tuple[str, ...]:
        """The offered concepts whose union is a concept.

        Args:
            concept_id: what is wanted.
            offered: ids that a model can segment.

        Returns:
            The id itself where it is offered, else the parts that make it up, else nothing: a union with a part missing
            would pass for the whole.
        """
        if concept_id in offered:
            return (concept_id,)
        for parts in self.by_id(concept_id).parts:
            covers = [self.cover(part, offered) for part in parts]
            if all(covers):
                return tuple(dict.fromkeys(part for cover in covers for part in cover))
        return ()


@cache
def load_vocabulary() -> Vocabulary:
    """The vocabulary that volseg ships, read once."""
    structures = rows("concepts.csv")
    paired = frozenset(row["id"] for row in structures if row["paired"])
    concepts = (concept for number, row in enumerate(structures, 1) for concept in _expand(row, number, paired))
    return Vocabulary(tuple(concepts))


@cache
def load_dataset_labels(dataset: str) -> Mapping[int, str]:
    """What the label values of a data set stand for.

    Args:
        dataset: one of ``list_datasets()``.

    Returns:
        The concept's id for each value; background is not listed.

    Raises:
        PromptError: there is no such data set.
    """
    labels = {int(row["value"]): row["concept"] for row in _dataset_rows() if row["dataset"] == dataset}
    if not labels:
        raise PromptError(f"there is no label table {dataset!r}; known are {', '.join(list_datasets())}")
    return MappingProxyType(labels)


def list_datasets() -> tuple[str, ...]:
    """Names of the data sets whose label values are known."""
    return tuple(dict.fromkeys(row["dataset"] for row in _dataset_rows()))


@cache
def _dataset_rows() -> tuple[dict[str, str], ...]:
    return tuple(rows("dataset_labels.csv"))


def _expand(row: Mapping[str, str], number: int, paired: Collection[str]) -> Iterable[Concept]:
    """One row of the file to one concept, or three for a structure that comes in pairs."""
    base, name = row["id"], row["name"]
    parents, parts = tuple(row["parents"].split()), tuple(row["parts"].split())
    synonyms = tuple(filter(None, row["synonyms"].split("|")))
    modalities = frozenset(Modality(text) for text in row["modalities"].split())
    snomed = SnomedCode(row["snomed_code"], row["snomed_meaning"]) if row["snomed_code"] else None
    color = _color(row["rgb"]) if row["rgb"] else default_color_rgb(number)
    kind, source = ConceptKind(row["kind"]), row["source"]
    plain = tuple(synonym for synonym in synonyms if "{" not in synonym)
    sides = (f"{base}_left", f"{base}_right")
    unions = ((sides,) if row["paired"] else ()) + ((parts,) if parts else ())
    both = Laterality.BOTH if row["paired"] else _side_of_id(base)
    yield Concept(base, name, plain, both, base, parents, unions, modalities, snomed, color, kind, source)
    if not row["paired"]:
        return
    for side, other in ((Laterality.LEFT, "_right"), (Laterality.RIGHT, "_left")):
        own_parts = tuple(f"{part}_{side}" if part in paired else part for part in parts if not part.endswith(other))
        own_parents = (base, *(f"{parent}_{side}" for parent in parents if parent in paired))
        yield Concept(
            f"{base}_{side}",
            f"{side} {name}",
            tuple(synonym.replace("{side}", side).replace("{S}", side[0].upper()) for synonym in synonyms),
            side,
            base,
            own_parents,
            (own_parts,) if own_parts else (),
            modalities,
            snomed,
            # The right side is darker, as in TotalSegmentator's table.
            color if side is Laterality.LEFT else (color[0] * 3 // 4, color[1] * 3 // 4, color[2] * 3 // 4),
            kind,
            source,
        )


def _side_of_id(concept_id: str) -> Laterality:
    """The middle lobe of the lung is on the right only; chambers of the heart have their side in the name alone."""
    return Laterality.RIGHT if concept_id == "lung_middle_lobe_right" else Laterality.NONE


def _color(text: str) -> tuple[int, int, int]:
    red, green, blue = map(int, text.split())
    return red, green, blue
