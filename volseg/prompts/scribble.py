"""A free-hand line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts.base import Prompt, PromptKind, as_frame, as_positions, require_ijk, voxels_inside


@dataclass(frozen=True)
class Scribble(Prompt):
    """A polyline with a radius.

    Attributes:
        points: two or more positions in ``frame``.
        frame: voxel index, or RAS or LPS mm.
        positive: whether the line belongs to the object.
        radius_mm: half of the pen's width; 0 covers just the voxels the line runs through.

    Raises:
        PromptError: fewer than two positions, not finite, a negative radius, or an unknown frame.
    """

    tag: ClassVar[str] = "scribble"

    points: tuple[tuple[float, float, float], ...]
    frame: Frame
    positive: bool = True
    radius_mm: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", as_positions(self.points, "scribble", at_least=2))
        object.__setattr__(self, "frame", as_frame(self.frame))
        radius = float(self.radius_mm)
        if not np.isfinite(radius) or radius < 0:
            raise PromptError(f"a scribble's radius is 0 mm or more, got {self.radius_mm}")
        object.__setattr__(self, "radius_mm", radius)

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.SCRIBBLE``."""
        return PromptKind.SCRIBBLE

    def moved(self, source: Grid, target: Grid) -> Scribble:
        """See ``Prompt.moved``."""
        points = target.to_ijk(source.to_ras_mm(self.points, self.frame))
        return Scribble(as_positions(points, "scribble"), Frame.IJK, self.positive, self.radius_mm)

    def sampled_ijk(self, step_voxels: float) -> NDArray[np.float64]:
        """Positions along the line no more than ``step_voxels`` apart, [N, 3] in voxel index, ends included."""
        require_ijk(self.frame, "scribble")
        points = np.array(self.points)
        pieces = [points[:1]]
        for start, end in zip(points[:-1], points[1:], strict=True):
            count = max(1, int(np.ceil(np.linalg.norm(end - start) / step_voxels)))
            pieces.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
        return np.concatenate(pieces)

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The voxels on the line and those whose centres lie within the radius of it, [N, 3]."""
        samples = self.sampled_ijk(step_voxels=0.25)
        on_line = voxels_inside(np.round(samples).astype(np.int64), grid)
        if self.radius_mm == 0:
            return on_line
        from scipy.spatial import cKDTree

        samples_mm = grid.to_ras_mm(samples)
        reach = np.ceil(self.radius_mm / np.array(grid.spacing_mm)).astype(int)
        low = np.maximum(np.floor(samples.min(axis=0)).astype(int) - reach, 0)
        high = np.minimum(np.ceil(samples.max(axis=0)).astype(int) + reach + 1, grid.shape)
        if (high <= low).any():
            return on_line
        ranges = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
        near = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
        distance_mm, _ = cKDTree(samples_mm).query(grid.to_ras_mm(near), distance_upper_bound=self.radius_mm)
        return voxels_inside(np.concatenate([on_line, near[distance_mm <= self.radius_mm]]), grid)

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
            bool(data.get("positive", True)),
            data.get("radius_mm", 0.0),
        )
