"""How the text-query network looks for structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from volseg.errors import ModelError


@dataclass(frozen=True)
class SearchSettings:
    """At which spacing each structure is looked for, and with which windows.

    Attributes:
        spacing_mm: of the network's grid, by concept id.
        window: voxels along right, anterior, superior of a window, by spacing.
        overlap: part of a window that the next one repeats.
        queries: the network's query embeddings whose answers together are a structure, where that is not its own.
        bias: added to a structure's mask logits.
        whole: the structure that another is a part of. Where it is not in the image, its parts are not looked for.
        least_part: pieces of a structure that are smaller than this part of its largest piece are left out.
        least: voxels of the smallest window that the network has learnt from, by spacing. A window shrinks to what is
            smaller, but no further: networks with instance norm and attention see thin slabs in thin windows otherwise
            than in those they know. Where it is not given, two voxels of the coarsest level are enough.
        presence: a structure whose presence is below it is not there.

    Raises:
        ModelError: a spacing has no window, a whole is not looked for, or a number is out of range.
    """

    spacing_mm: Mapping[str, float]
    window: Mapping[float, tuple[int, int, int]]
    overlap: float = 0.25
    presence: float = 0.5
    least_part: float = 0.0
    queries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[float, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = set(self.spacing_mm.values()) - set(self.window)
        if missing:
            raise ModelError(f"structures are looked for at {sorted(missing)} mm, where no window is given")
        strangers = ({*self.whole} | {*self.whole.values()}) - set(self.spacing_mm)
        if strangers or set(self.whole) & set(self.whole.values()):
            raise ModelError(f"parts and wholes are looked for, and no part has parts; got {dict(self.whole)}")
        if not 0 <= self.overlap < 1 or not 0 <= self.presence <= 1 or not 0 <= self.least_part <= 1:
            got = (self.overlap, self.presence, self.least_part)
            raise ModelError(f"overlap, presence and least part lie from 0 to 1, got {got}")

    @property
    def concepts(self) -> tuple[str, ...]:
        """What can be looked for."""
        return tuple(self.spacing_mm)

    def queries_of(self, concept: str) -> tuple[str, ...]:
        """The query embeddings that a structure is made of."""
        return self.queries.get(concept, (concept,))

    def by_spacing(self, concepts: tuple[str, ...]) -> dict[float, tuple[str, ...]]:
        """Concepts that are looked for together."""
        found: dict[float, tuple[str, ...]] = {}
        for concept in concepts:
            spacing = self.spacing_mm[concept]
            found[spacing] = (*found.get(spacing, ()), concept)
        return found
