"""Where an object is: boxes and the slice that shows most of it, in patient millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid, Plane

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class AxisBox:
    """The smallest box along the patient's axes that holds every voxel whole.

    Attributes:
        low_ras_mm: the corner furthest left, posterior and inferior.
        high_ras_mm: the corner furthest right, anterior and superior.
        low_ijk: smallest voxel index along i, j, k.
        high_ijk: largest voxel index along i, j, k, inclusive.
    """

    low_ras_mm: Vector
    high_ras_mm: Vector
    low_ijk: tuple[int, int, int]
    high_ijk: tuple[int, int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "low_ras_mm": list(self.low_ras_mm),
            "high_ras_mm": list(self.high_ras_mm),
            "low_ijk": list(self.low_ijk),
            "high_ijk": list(self.high_ijk),
        }


@dataclass(frozen=True)
class OrientedBox:
    """A small box in any direction that holds every voxel whole.

    Attributes:
        center_ras_mm: its middle.
        axes_ras: three unit vectors at right angles, the longest side first, right-handed.
        size_mm: lengths along the axes, longest first.
    """

    center_ras_mm: Vector
    axes_ras: tuple[Vector, Vector, Vector]
    size_mm: Vector

    @property
    def volume_ml(self) -> float:
        """Volume of the box."""
        return float(np.prod(self.size_mm)) / 1000.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "center_ras_mm": list(self.center_ras_mm),
            "axes_ras": [list(axis) for axis in self.axes_ras],
            "size_mm": list(self.size_mm),
        }


@dataclass(frozen=True)
class KeySlice:
    """The acquired slice with the largest cut through the object.

    Attributes:
        plane: the anatomical plane it lies closest to.
        axis: voxel axis (0 i, 1 j, 2 k) the slices are stacked along.
        index: of the slice along that axis.
        area_mm2: of the cut.
        center_ras_mm: middle of the cut.
    """

    plane: Plane
    axis: int
    index: int
    area_mm2: float
    center_ras_mm: Vector

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "plane": str(self.plane),
            "axis": "ijk"[self.axis],
            "index": self.index,
            "area_mm2": self.area_mm2,
            "center_ras_mm": list(self.center_ras_mm),
        }


def axis_box(mask: ObjectMask) -> AxisBox | None:
    """The box along the patient's axes; None for an empty mask."""
    if mask.voxels == 0:
        return None
    low, high = _extent(_border_ras_mm(mask), np.eye(3), mask.grid)
    start = mask.start_ijk
    stop = tuple(a + n - 1 for a, n in zip(start, mask.shape, strict=True))
    return AxisBox(_vector(low), _vector(high), start, (stop[0], stop[1], stop[2]))


def oriented_box(mask: ObjectMask) -> OrientedBox | None:
    """A box in any direction; None for an empty mask.

    The smallest by volume among boxes along the patient's axes, along the voxels' axes, along the principal axes, and
    along one principal axis with the best turn about it. The smallest of all (O'Rourke 1985) may be smaller still.
    """
    if mask.voxels == 0:
        return None
    points = _border_ras_mm(mask)
    best: tuple[float, NDArray[Any], NDArray[Any], NDArray[Any]] | None = None
    for axes in _candidates(points, mask.grid):
        low, high = _extent(points, axes, mask.grid)
        volume = float(np.prod(high - low))
        # A later candidate has to be smaller by more than rounding, so that a straight box stays straight.
        if best is None or volume < best[0] * (1 - 1e-6):
            best = volume, axes, low, high
    if best is None:
        return None
    _, axes, low, high = best
    order = np.argsort(-(high - low).round(6), kind="stable")
    turned = axes[order]
    # Each axis points where its largest part is positive; the last one makes the three right-handed.
    signs = [1.0 if axis[np.abs(axis).argmax()] > 0 else -1.0 for axis in turned]
    turned = turned * np.array(signs)[:, None]
    if np.linalg.det(turned) < 0:
        turned[2] *= -1
    center = axes.T @ ((low + high) / 2)
    first, second, third = (_vector(axis, 6) for axis in turned)
    return OrientedBox(_vector(center), (first, second, third), _vector((high - low)[order]))


def key_slice(mask: ObjectMask) -> KeySlice | None:
    """The slice with the largest cut, the one nearest to the object's middle among equals; None for an empty mask."""
    if mask.voxels == 0:
        return None
    grid = mask.grid
    plane = grid.acquisition_plane()
    axis = grid.axis_of(plane)
    counts = mask.block.sum(axis=tuple(other for other in range(3) if other != axis))
    middle = float((counts * np.arange(len(counts))).sum() / counts.sum())
    largest = np.flatnonzero(counts == counts.max())
    place = int(largest[np.abs(largest - middle).round(6).argmin()])
    cut = np.argwhere(np.take(mask.block, [place], axis=axis))
    cut[:, axis] = place
    center = grid.to_ras_mm(cut.mean(axis=0) + mask.start_ijk)
    sides = [grid.affine_ras[:3, other] for other in range(3) if other != axis]
    pixel_mm2 = float(np.linalg.norm(np.cross(sides[0], sides[1])))
    return KeySlice(
        plane, axis, place + mask.start_ijk[axis], round(float(counts.max()) * pixel_mm2, 3), _vector(center)
    )


def _border_ras_mm(mask: ObjectMask) -> NDArray[np.float64]:
    """Centres [N, 3] of voxels with a neighbour outside; the others cannot touch a box."""
    from scipy.ndimage import binary_erosion

    border = mask.block & ~binary_erosion(mask.block)
    return mask.grid.to_ras_mm(np.argwhere(border) + np.array(mask.start_ijk))


def _extent(
    points: NDArray[np.float64], axes: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest position [3] of whole voxels along three directions, the rows of ``axes``."""
    along = points @ axes.T
    half = 0.5 * np.abs(axes @ grid.affine_ras[:3, :3]).sum(axis=1)
    return along.min(axis=0) - half, along.max(axis=0) + half


def _candidates(points: NDArray[np.float64], grid: Grid) -> list[NDArray[np.float64]]:
    voxels = grid.affine_ras[:3, :3] / np.array(grid.spacing_mm)
    candidates = [np.eye(3)]
    if np.allclose(voxels.T @ voxels, np.eye(3), atol=1e-6):  # sheared grids have no box along their axes
        candidates.append(voxels.T)
    centred = points - points.mean(axis=0)
    _, principal = np.linalg.eigh(centred.T @ centred + 1e-9 * np.eye(3))
    principal = principal.T
    candidates.append(principal)
    for axis in range(3):
        first, second = (principal[other] for other in range(3) if other != axis)
        flat = np.stack([centred @ first, centred @ second], axis=1)
        for angle in _edge_angles(flat):
            turned = np.cos(angle) * first + np.sin(angle) * second
            candidates.append(np.stack([principal[axis], turned, np.cross(principal[axis], turned)]))
    return candidates


def _edge_angles(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions of the edges of the hull of points [N, 2]: the smallest rectangle has a side along one of them."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = flat[ConvexHull(flat).vertices]
    except (QhullError, ValueError):  # points on a line
        return np.zeros(0)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2)
    return np.unique(angles.round(6))


def _vector(values: NDArray[np.float64], decimals: int = 3) -> Vector:
    x, y, z = (np.asarray(values, dtype=np.float64).round(decimals) + 0.0).tolist()
    return x, y, z
