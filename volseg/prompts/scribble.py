"""A free-hand line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts.base import (
    Prompt,
    PromptKind,
    as_frame,
    as_positions,
    as_radius_mm,
    as_sign,
    require_ijk,
    voxels_inside,
)
from volseg.prompts.rasterize import voxels_near_line, voxels_on_line

MAX_SAMPLES = 1_000_000
"""A line that needs more samples than this leaves every image far behind."""


@dataclass(frozen=True)
class Scribble(Prompt):
    """A polyline with a radius.

    Attributes:
        points: two or more positions in ``frame``.
        frame: voxel index, or RAS or LPS mm.
        positive: whether the line belongs to the object.
        radius_mm: half of the pen's width; 0 covers just the voxels the line runs through.

    Raises:
        PromptError: fewer than two positions, not finite, a negative radius, an unknown frame, or a sign that is
            neither true nor false.
    """

    tag: ClassVar[str] = "scribble"

    points: tuple[tuple[float, float, float], ...]
    frame: Frame
    positive: bool = True
    radius_mm: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", as_positions(self.points, "scribble", at_least=2))
        object.__setattr__(self, "frame", as_frame(self.frame))
        object.__setattr__(self, "positive", as_sign(self.positive, "scribble"))
        object.__setattr__(self, "radius_mm", as_radius_mm(self.radius_mm, "scribble"))

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.SCRIBBLE``."""
        return PromptKind.SCRIBBLE

    def moved(self, source: Grid, target: Grid) -> Scribble:
        """See ``Prompt.moved``."""
        points = target.to_ijk(source.to_ras_mm(self.points, self.frame))
        return Scribble(as_positions(points, "scribble"), Frame.IJK, self.positive, self.radius_mm)

    def sampled_ijk(self, step_voxels: float) -> NDArray[np.float64]:
        """Positions along the line no more than ``step_voxels`` apart, [N, 3] in voxel index, ends included.

        Raises:
            PromptError: the line is longer than any image.
        """
        require_ijk(self.frame, "scribble")
        points = np.array(self.points)
        length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        if length > MAX_SAMPLES * step_voxels:
            raise PromptError(f"a scribble of {length:.3g} voxels is longer than any image; check its frame and unit")
        pieces = [points[:1]]
        for start, end in zip(points[:-1], points[1:], strict=True):
            count = max(1, int(np.ceil(np.linalg.norm(end - start) / step_voxels)))
            pieces.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
        return np.concatenate(pieces)

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The voxels the line runs through and those whose centres lie within the radius of it, [N, 3]."""
        require_ijk(self.frame, "scribble")
        points = np.array(self.points)
        on_line = voxels_on_line(points, grid)
        if self.radius_mm == 0:
            return voxels_inside(on_line, grid)
        return voxels_inside(np.concatenate([on_line, voxels_near_line(points, self.radius_mm, grid)]), grid)

    def to_json(self) -> dict[str, Any]:
        """See ``Prompt.to_json``."""
        return {
            "type": self.tag,
            "points": [list(point) for point in self.points],
            "frame": str(self.frame),
            "positive": self.positive,
            "radius_mm": self.radius_mm,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scribble:
        """See ``Prompt.from_json``."""
        if "points" not in data:
            raise PromptError("a scribble has points")
        return cls(
            data["points"],
            as_frame(data.get("frame")),
            data.get("positive", True),
            data.get("radius_mm", 0.0),
        )
