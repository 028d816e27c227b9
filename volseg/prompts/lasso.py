"""A closed outline on one slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts.base import Prompt, PromptKind, as_frame, as_positions, require_ijk, voxels_inside

SLICE_TOLERANCE = 0.5
"""All points of a lasso lie within this many voxels of one slice."""


@dataclass(frozen=True)
class Lasso(Prompt):
    """A polygon on one slice, closed by itself and filled.

    Attributes:
        points: three or more positions in ``frame``, in drawing order.
        frame: voxel index, or RAS or LPS mm.
        positive: whether the inside belongs to the object.

    Raises:
        PromptError: fewer than three positions, not finite, or an unknown frame.
    """

    tag: ClassVar[str] = "lasso"

    points: tuple[tuple[float, float, float], ...]
    frame: Frame
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", as_positions(self.points, "lasso", at_least=3))
        object.__setattr__(self, "frame", as_frame(self.frame))

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.LASSO``."""
        return PromptKind.LASSO

    def moved(self, source: Grid, target: Grid) -> Lasso:
        """See ``Prompt.moved``."""
        points = target.to_ijk(source.to_ras_mm(self.points, self.frame))
        return Lasso(as_positions(points, "lasso"), Frame.IJK, self.positive)

    def slice_ijk(self) -> tuple[int, int]:
        """The voxel axis the lasso is flat along, and the index of its slice there.

        Raises:
            PromptError: the points do not lie on one slice of the grid.
        """
        require_ijk(self.frame, "lasso")
        points = np.array(self.points)
        spread = np.ptp(points, axis=0)
        axis = int(spread.argmin())
        index = int(np.round(points[:, axis].mean()))
        if np.abs(points[:, axis] - index).max() > SLICE_TOLERANCE + 1e-3:
            raise PromptError(
                f"does not lie on one slice of the image: its points span {spread.round(2).tolist()} voxels; "
                "draw it on one slice"
            )
        return axis, index

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The voxels whose centres lie inside the outline or on it, [N, 3]."""
        from skimage.draw import polygon

        axis, index = self.slice_ijk()
        in_plane = [a for a in range(3) if a != axis]
        points = np.array(self.points)[:, in_plane]
        low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int)
        inside = np.zeros(tuple(high - low + 1), dtype=bool)
        inside[polygon(*(points - low).T, shape=inside.shape)] = True
        # The polygon filler keeps centres on some edges and drops them on others, which would depend on orientation.
        inside |= _on_outline(points - low, inside.shape)
        flat = np.argwhere(inside) + low
        voxels = np.full((len(flat), 3), index, dtype=np.int64)
        voxels[:, in_plane] = flat
        return voxels_inside(voxels, grid)

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
        return cls(data["points"], as_frame(data.get("frame")), bool(data.get("positive", True)))


def _on_outline(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    on_outline = np.zeros(shape, dtype=bool)
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(np.float64)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        along = end - start
        length_squared = max(float(along @ along), 1e-12)
        part = np.clip((centres - start) @ along / length_squared, 0, 1)
        distance = np.linalg.norm(centres - start - part[..., None] * along, axis=-1)
        on_outline |= distance <= 1e-6
    return on_outline
