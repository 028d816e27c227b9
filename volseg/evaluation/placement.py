"""Where a simulated annotator points: boxes, middle slices, deepest voxels.

Everything is found in RAS order and in mm, so that the way a file is stored does not change where one points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, MaskPrompt, Point

CANONICAL = "RAS"

DEPTH_DIGITS = 6
"""Depths in mm that agree to so many digits are equal: the order of a sum of squares must not decide."""

FACE = 0.4
"""Sides of boxes that would be a single voxel's centre get this much to both sides: still that voxel alone."""

NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Canonical:
    """A grid's voxels seen in RAS order.

    Attributes:
        grid: as stored.
    """

    grid: Grid

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along the three axes of the view."""
        return self.grid.reoriented(CANONICAL).spacing_mm

    def view(self, volume: NDArray[Any]) -> NDArray[Any]:
        """A view of ``volume`` [I, J, K] in RAS order; nothing is copied."""
        matrix = self.grid.reorientation(CANONICAL)[:3, :3]
        order = np.abs(matrix).argmax(axis=0)
        flips = tuple(axis for axis in range(3) if matrix[order[axis], axis] < 0)
        return np.flip(volume.transpose(*order), flips)

    def axis(self, stored_axis: int) -> int:
        """The view's axis that is ``stored_axis`` in the file."""
        return int(np.abs(self.grid.reorientation(CANONICAL)[stored_axis, :3]).argmax())

    def stored(self, position: Any) -> tuple[float, float, float]:
        """A position of the view as voxel index of the file."""
        matrix = self.grid.reorientation(CANONICAL)
        i, j, k = matrix[:3, :3] @ np.asarray(position, dtype=np.float64) + matrix[:3, 3]
        return float(i), float(j), float(k)


@dataclass(frozen=True)
class KeySlice:
    """The middle one of the slices that show an object.

    Attributes:
        axis: stored axis the slices are stacked along.
        index: along it.
    """

    axis: int
    index: int


def acquisition_axis(grid: Grid) -> int:
    """The stored axis the slices were acquired along."""
    return grid.axis_of(grid.acquisition_plane())


def key_slice(truth: ObjectMask) -> KeySlice:
    """Of the n occupied slices along the acquisition axis, in RAS order from 0, number n // 2."""
    canonical = Canonical(truth.grid)
    stored_axis = acquisition_axis(truth.grid)
    axis = canonical.axis(stored_axis)
    occupied = np.flatnonzero(canonical.view(truth.full()).any(axis=tuple(a for a in range(3) if a != axis)))
    position = np.zeros(3)
    position[axis] = occupied[len(occupied) // 2]
    return KeySlice(stored_axis, round(canonical.stored(position)[stored_axis]))


def slice_mask(truth: ObjectMask, key: KeySlice) -> NDArray[np.bool_]:
    """The object on one slice, bool of the grid's shape."""
    full = truth.full()
    cut = np.zeros_like(full)
    where: list[Any] = [slice(None)] * 3
    where[key.axis] = key.index
    cut[tuple(where)] = full[tuple(where)]
    return cut


def box_2d(truth: ObjectMask, key: KeySlice) -> Box:
    """The tight box of the object on one slice."""
    voxels = np.argwhere(slice_mask(truth, key))
    return box_between(voxels.min(axis=0), voxels.max(axis=0), flat_axis=key.axis)


def box_3d(truth: ObjectMask) -> Box:
    """The tight box of the object."""
    start = np.array(truth.start_ijk)
    return box_between(start, start + truth.shape - 1)


def box_between(first: NDArray[Any], last: NDArray[Any], flat_axis: int | None = None) -> Box:
    """The box from voxel ``first`` to ``last``, both [3] and inclusive; 2D where ``flat_axis`` is given."""
    low, high = first.astype(np.float64), last.astype(np.float64)
    thin = (low == high) & (np.arange(3) != flat_axis)
    low, high = low - FACE * thin, high + FACE * thin
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]), Frame.IJK)


def key_mask(truth: ObjectMask, key: KeySlice) -> MaskPrompt:
    """The object on one slice, as a mask."""
    return MaskPrompt(slice_mask(truth, key), truth.grid)


def centre_click(truth: ObjectMask, key: KeySlice) -> Point:
    """A click on the voxel of one slice that is furthest from the object's border there, in mm."""
    canonical = Canonical(truth.grid)
    cut = canonical.view(slice_mask(truth, key))
    return Point(canonical.stored(deepest(cut, canonical.spacing_mm, flat_axis=canonical.axis(key.axis))), Frame.IJK)


def error_click(answer: ObjectMask, truth: ObjectMask) -> Point | None:
    """A click where the answer is most wrong, None where it is right.

    The largest 26-connected part of the voxels in which answer and truth differ (the first among equals), there the
    voxel furthest from the part's border in mm. Positive where the object is.
    """
    canonical = Canonical(truth.grid)
    wanted = canonical.view(truth.full())
    part = largest_part(wanted != canonical.view(answer.full()))
    if part is None:
        return None
    voxel = deepest(part, canonical.spacing_mm)
    return Point(canonical.stored(voxel), Frame.IJK, bool(wanted[tuple(voxel)]))


def largest_part(error: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The largest 26-connected part of a mask, None of an empty one."""
    from scipy.ndimage import label

    if not error.any():
        return None
    parts, _ = label(error, NEIGHBOURS_26)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = parts == sizes.argmax()
    return largest


def deepest(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], flat_axis: int | None = None
) -> NDArray[np.int64]:
    """The voxel furthest from the border of a mask, [3]; the first among equals.

    Args:
        mask: bool [A, B, C], not empty. Beyond the array is outside.
        spacing_mm: along its axes.
        flat_axis: distances are measured within slices stacked along this axis.
    """
    from scipy.ndimage import distance_transform_edt

    voxels = np.argwhere(mask)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    block = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    if flat_axis is None:
        depth = distance_transform_edt(np.pad(block, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    else:
        in_plane = [one for axis, one in enumerate(spacing_mm) if axis != flat_axis]
        slices = [
            distance_transform_edt(np.pad(plane, 1), sampling=in_plane)[1:-1, 1:-1]
            for plane in np.moveaxis(block, flat_axis, 0)
        ]
        depth = np.stack(slices, axis=flat_axis)
    place = np.unravel_index(int(depth.round(DEPTH_DIGITS).argmax()), depth.shape)
    deepest: NDArray[np.int64] = np.array(place, dtype=np.int64) + low
    return deepest
