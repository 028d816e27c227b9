"""How large an object is, and how bright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import LabelMap
from volseg.data.object_mask import ObjectMask
from volseg.errors import GeometryError
from volseg.geometry import Grid

if TYPE_CHECKING:
    from monai.data import MetaTensor


@dataclass(frozen=True)
class ObjectMeasurements:
    """One object in numbers; without voxels there are no diameters and intensities (None).

    Attributes:
        object_id: the label's value.
        name: the label's name.
        volume_ml: number of voxels times their volume.
        longest_in_plane_mm: longest diameter within one slice of the acquisition plane.
        longest_3d_mm: longest diameter. A diameter is the distance between two points of the object's surface, which
            lie halfway between a voxel inside and its neighbour outside, so that a row of n voxels is n spacings long.
        mean: intensity, as all below in the image's unit (HU in CT).
        std: standard deviation of the object's voxels (divisor n).
        minimum: smallest.
        maximum: largest.
        median: the middle one, or the mean of the two in the middle.
        presence: see ``Label``.
    """

    object_id: int
    name: str
    volume_ml: float
    longest_in_plane_mm: float | None
    longest_3d_mm: float | None
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None
    median: float | None
    presence: float | None = None


def measure(labels: LabelMap, image: MetaTensor) -> tuple[ObjectMeasurements, ...]:
    """Measures every object of a label map.

    Args:
        labels: the objects.
        image: [1, I, J, K] on the label map's grid.

    Returns:
        One for each label, in the order of their values.

    Raises:
        GeometryError: the image has several channels or another grid.
    """
    if not Grid.of(image).same_as(labels.grid) or image.shape[0] != 1:
        raise GeometryError(
            f"expected an image of one channel on the label map's grid of {labels.grid.shape} voxels, "
            f"got {tuple(image.shape)}"
        )
    voxels = image.detach().cpu().as_tensor().numpy()[0]
    axis = labels.grid.axis_of(labels.grid.acquisition_plane())
    result = []
    for label in labels.labels:
        mask = ObjectMask.of(label.value, labels.grid, labels.mask(label.value), label.presence)
        block = mask.block
        values = voxels[mask.slices][block].astype(np.float64)
        there = values.size > 0
        result.append(
            ObjectMeasurements(
                object_id=label.value,
                name=label.name,
                volume_ml=mask.volume_ml,
                longest_in_plane_mm=_longest_in_plane(block, labels.grid, axis) if there else None,
                longest_3d_mm=_longest(_surface(block, (0, 1, 2)), labels.grid) if there else None,
                mean=float(values.mean()) if there else None,
                std=float(values.std()) if there else None,
                minimum=float(values.min()) if there else None,
                maximum=float(values.max()) if there else None,
                median=float(np.median(values)) if there else None,
                presence=label.presence,
            )
        )
    return tuple(result)


def _longest_in_plane(block: NDArray[np.bool_], grid: Grid, axis: int) -> float:
    within = tuple(other for other in range(3) if other != axis)
    lengths = []
    for index in range(block.shape[axis]):
        plane = np.take(block, [index], axis=axis)
        if plane.any():
            lengths.append(_longest(_surface(plane, within), grid, within))
    return max(lengths)


def _surface(block: NDArray[np.bool_], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Points halfway between voxels inside and their neighbours outside along ``axes``, in voxel index, [N, 3].

    Of each row of voxels only the two outermost are kept: no point between two others is further from anything.
    """
    points = []
    for axis in axes:
        occupied = np.argwhere(block.any(axis=axis))
        first = block.argmax(axis=axis)[tuple(occupied.T)] - 0.5
        flipped = np.flip(block, axis).argmax(axis=axis)[tuple(occupied.T)]
        last = block.shape[axis] - flipped - 0.5
        points += [np.insert(occupied.astype(np.float64), axis, ends, axis=1) for ends in (first, last)]
    return np.concatenate(points)


def _longest(points_ijk: NDArray[np.float64], grid: Grid, axes: tuple[int, ...] = (0, 1, 2)) -> float:
    """The largest distance between two of the points in mm; the two are corners of the convex hull."""
    from scipy.spatial import ConvexHull

    # The hull is the same in voxel index, where numbers are halves and so exact.
    hull = points_ijk[ConvexHull(points_ijk[:, axes]).vertices] if len(points_ijk) > 50 else points_ijk
    points_mm = hull @ grid.affine_ras[:3, :3].T
    longest = 0.0
    for start in range(0, len(points_mm), 256):
        part: Any = points_mm[start : start + 256, None] - points_mm[None, start:]
        longest = max(longest, float(np.einsum("abi,abi->ab", part, part).max()))
    return float(np.sqrt(longest))
