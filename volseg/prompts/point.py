"""A click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts.base import Prompt, PromptKind, as_frame, as_positions, as_sign, require_ijk, voxels_inside


@dataclass(frozen=True)
class Point(Prompt):
    """One position inside (positive) or outside (negative) the object.

    Attributes:
        position: three coordinates in ``frame``.
        frame: voxel index, or RAS or LPS mm.
        positive: whether the position belongs to the object.

    Raises:
        PromptError: not three finite numbers, an unknown frame, or a sign that is neither true nor false.
    """

    tag: ClassVar[str] = "point"

    position: tuple[float, float, float]
    frame: Frame
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", as_positions([self.position], "point")[0])
        object.__setattr__(self, "frame", as_frame(self.frame))
        object.__setattr__(self, "positive", as_sign(self.positive, "point"))

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.POINT``."""
        return PromptKind.POINT

    def moved(self, source: Grid, target: Grid) -> Point:
        """See ``Prompt.moved``."""
        position = target.to_ijk(source.to_ras_mm(self.position, self.frame))
        return Point(tuple(position), Frame.IJK, self.positive)

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The voxel the position lies in, [1, 3], or [0, 3] outside the grid."""
        require_ijk(self.frame, "point")
        return voxels_inside(grid.nearest_voxels([self.position]), grid)

    def to_json(self) -> dict[str, Any]:
        """See ``Prompt.to_json``."""
        return {"type": self.tag, "position": list(self.position), "frame": str(self.frame), "positive": self.positive}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """See ``Prompt.from_json``."""
        if "position" not in data:
            raise PromptError("a point has a position")
        return cls(data["position"], as_frame(data.get("frame")), data.get("positive", True))
