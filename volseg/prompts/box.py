"""A box on one slice or around a block."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import POSITION_TOLERANCE, Frame, Grid
from volseg.prompts.base import Prompt, PromptKind, as_frame, as_positions, as_sign, require_ijk, size_text

FLAT_TOLERANCE = 1e-6
"""Corner coordinates closer than this are equal: the box is 2D."""


@dataclass(frozen=True)
class Box(Prompt):
    """An axis-aligned box from the centre of its first voxel to the centre of its last (both inclusive).

    A box whose corners share one coordinate is 2D: it lies on one slice. A box in mm is aligned with the axes of its
    frame; on an oblique grid it becomes the smallest index-aligned box around it (a 2D one stays on the slice through
    its middle).

    Attributes:
        low: the smaller corner, three coordinates in ``frame`` (corners given in another order are sorted).
        high: the larger corner.
        frame: voxel index, or RAS or LPS mm.
        positive: whether the object lies in the box, or the box holds none of it.

    Raises:
        PromptError: not two finite corners, equal in more than one coordinate, an unknown frame, or a sign that is
            neither true nor false.
    """

    tag: ClassVar[str] = "box"

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    frame: Frame
    positive: bool = True

    def __post_init__(self) -> None:
        corners = np.array(as_positions([self.low, self.high], "box", at_least=2))
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (high - low <= FLAT_TOLERANCE).sum() > 1:
            raise PromptError(
                f"a box is equal in at most one coordinate (then it is 2D), got corners "
                f"{low.tolist()} and {high.tolist()}; "
                "use a point for a single voxel"
            )
        object.__setattr__(self, "low", tuple(low.tolist()))
        object.__setattr__(self, "high", tuple(high.tolist()))
        object.__setattr__(self, "frame", as_frame(self.frame))
        object.__setattr__(self, "positive", as_sign(self.positive, "box"))

    @property
    def flat_axis(self) -> int | None:
        """The axis along which a 2D box has no extent, or None for a 3D box."""
        flat = np.array(self.high) - np.array(self.low) <= FLAT_TOLERANCE
        return int(flat.argmax()) if flat.any() else None

    @property
    def kind(self) -> PromptKind:
        """``BOX_2D`` or ``BOX_3D``."""
        return PromptKind.BOX_3D if self.flat_axis is None else PromptKind.BOX_2D

    def moved(self, source: Grid, target: Grid) -> Box:
        """See ``Prompt.moved``."""
        corners = np.array(list(itertools.product(*zip(self.low, self.high, strict=True))))
        corners_ijk = target.to_ijk(source.to_ras_mm(corners, self.frame))
        low, high = corners_ijk.min(axis=0), corners_ijk.max(axis=0)
        if self.flat_axis is not None:
            normal_ras = source.to_ras_mm(np.eye(3)[self.flat_axis], self.frame) - source.to_ras_mm(
                np.zeros(3), self.frame
            )
            normal_ijk = np.linalg.inv(target.affine_ras[:3, :3]) @ normal_ras * np.array(target.spacing_mm)
            axis = int(np.abs(normal_ijk).argmax())
            low[axis] = high[axis] = corners_ijk[:, axis].mean()
        return Box(tuple(low), tuple(high), Frame.IJK, self.positive)

    def bounds_ijk(self, grid: Grid) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """First voxel and one past the last voxel of ``grid`` whose centres lie in the box; empty if outside.

        A box thinner than a voxel covers the voxel it lies in.
        """
        require_ijk(self.frame, "box")
        low, high = np.array(self.low), np.array(self.high)
        first = np.ceil(low - POSITION_TOLERANCE)
        last = np.floor(high + POSITION_TOLERANCE)
        between_centres = last < first
        middle = grid.nearest_voxels((low + high) / 2)
        first, last = np.where(between_centres, middle, first), np.where(between_centres, middle, last)
        start = np.clip(first, 0, grid.shape).astype(int)
        stop = np.clip(last + 1, 0, grid.shape).astype(int)
        return (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """See ``Prompt.voxels_ijk``."""
        ranges = [np.arange(start, stop) for start, stop in zip(*self.bounds_ijk(grid), strict=True)]
        return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)

    def check_inside(self, grid: Grid) -> None:
        """Raises ``PromptError`` when no voxel of ``grid`` is covered."""
        start, stop = self.bounds_ijk(grid)
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            raise PromptError(f"lies outside the volume of {size_text(grid)} voxels")

    def to_json(self) -> dict[str, Any]:
        """See ``Prompt.to_json``."""
        return {
            "type": self.tag,
            "low": list(self.low),
            "high": list(self.high),
            "frame": str(self.frame),
            "positive": self.positive,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Box:
        """See ``Prompt.from_json``."""
        if "low" not in data or "high" not in data:
            raise PromptError("a box has low and high corners")
        return cls(data["low"], data["high"], as_frame(data.get("frame")), data.get("positive", True))
