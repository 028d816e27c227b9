"""A closed outline on one slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import POSITION_TOLERANCE, Frame, Grid
from volseg.prompts.base import Prompt, PromptKind, as_frame, as_positions, as_sign, require_ijk, voxels_inside
from volseg.prompts.rasterize import centres_in_polygon

SLICE_TOLERANCE = 0.5
"""All points of a lasso lie within this many voxels of one slice."""


@dataclass(frozen=True)
class Lasso(Prompt):
    """A polygon on one slice, closed by itself and filled (even-odd where it crosses itself).

    Attributes:
        points: three or more positions in ``frame``, in drawing order.
        frame: voxel index, or RAS or LPS mm.
        positive: whether the inside belongs to the object.

    Raises:
        PromptError: fewer than three positions, not finite, an unknown frame, or a sign that is neither true nor false.
    """

    tag: ClassVar[str] = "lasso"

    points: tuple[tuple[float, float, float], ...]
    frame: Frame
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", as_positions(self.points, "lasso", at_least=3))
        object.__setattr__(self, "frame", as_frame(self.frame))
        object.__setattr__(self, "positive", as_sign(self.positive, "lasso"))

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.LASSO``."""
        return PromptKind.LASSO

    def moved(self, source: Grid, target: Grid) -> Lasso:
        """See ``Prompt.moved``."""
        points = target.to_ijk(source.to_ras_mm(self.points, self.frame))
        return Lasso(as_positions(points, "lasso"), Frame.IJK, self.positive)

    def slice_ijk(self, grid: Grid | None = None) -> tuple[int, int]:
        """The voxel axis the lasso is flat along, and the index of its slice there.

        Args:
            grid: the grid that the voxel indices refer to. It decides to which slice a lasso midway between two
                belongs, as ``Grid.nearest_voxels`` does; without it, to the one of higher index.

        Raises:
            PromptError: the points do not lie on one slice of the grid.
        """
        require_ijk(self.frame, "lasso")
        points = np.array(self.points)
        spread = np.ptp(points, axis=0)
        axis = int(spread.argmin())
        middle = points.mean(axis=0)
        index = int(np.floor(middle + 0.5)[axis] if grid is None else grid.nearest_voxels(middle)[axis])
        if np.abs(points[:, axis] - index).max() > SLICE_TOLERANCE + 2 * POSITION_TOLERANCE:
            raise PromptError(
                f"does not lie on one slice of the image: its points span {spread.round(2).tolist()} voxels; "
                "draw it on one slice"
            )
        return axis, index

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The voxels whose centres lie inside the outline or on it, [N, 3]."""
        axis, index = self.slice_ijk(grid)
        in_plane = [a for a in range(3) if a != axis]
        points = np.array(self.points)[:, in_plane]
        sizes = np.array(grid.shape)[in_plane]
        low = np.clip(np.floor(points.min(axis=0)), 0, sizes).astype(np.int64)
        stop = np.clip(np.ceil(points.max(axis=0)) + 1, low, sizes).astype(np.int64)
        inside = centres_in_polygon(points, low, (int(stop[0] - low[0]), int(stop[1] - low[1])))
        flat = np.argwhere(inside) + low
        voxels = np.full((len(flat), 3), index, dtype=np.int64)
        voxels[:, in_plane] = flat
        return voxels_inside(voxels, grid)

    def check_inside(self, grid: Grid) -> None:
        """Raises ``PromptError`` when no voxel of ``grid`` is covered."""
        if len(self.voxels_ijk(grid)) == 0 and grid.contains_ijk(self.points).any():
            raise PromptError(f"encloses no voxel's centre; draw it larger or use a point; {self!r:.300}")
        super().check_inside(grid)

    def to_json(self) -> dict[str, Any]:
        """See ``Prompt.to_json``."""
        return {
            "type": self.tag,
            "points": [list(point) for point in self.points],
            "frame": str(self.frame),
            "positive": self.positive,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lasso:
        """See ``Prompt.from_json``."""
        if "points" not in data:
            raise PromptError("a lasso has points")
        return cls(data["points"], as_frame(data.get("frame")), data.get("positive", True))
