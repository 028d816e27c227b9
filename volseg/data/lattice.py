"""The same voxels on another grid: axes in another order or direction, a part of a larger image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import LabelMap
from volseg.errors import GeometryError
from volseg.geometry import Grid

LATTICE_TOLERANCE = 1e-2
"""Voxels whose centres differ by less than this part of their spacing are the same voxels; formats round affines."""


def on_lattice(labelmap: LabelMap, grid: Grid) -> LabelMap:
    """The label map on another grid whose voxels are the same: nothing is resampled.

    The grids may differ in the order and direction of their axes, and one may be a part of the other.

    Args:
        labelmap: what to move.
        grid: where to.

    Raises:
        GeometryError: the voxels do not coincide, or labelled ones lie outside of ``grid``.
    """
    if labelmap.grid == grid:
        return labelmap
    matrix = grid.ijk_from(labelmap.grid)
    axes = np.round(matrix[:3, :3])
    corners = labelmap.grid.corners_ijk()
    moved = corners @ matrix[:3, :3].T + matrix[:3, 3]
    shift = np.round(matrix[:3, 3])
    permutes = (np.abs(axes).sum(axis=0) == 1).all() and (np.abs(axes).sum(axis=1) == 1).all()
    off = np.abs(moved - (corners @ axes.T + shift)).max()
    if not permutes or off > LATTICE_TOLERANCE:
        raise GeometryError(
            f"the labels lie on another grid: {_described(labelmap.grid)}, expected the voxels of "
            f"{_described(grid)}; make them on this image, or resample them first"
        )
    order = [int(axis) for axis in np.abs(axes).argmax(axis=1)]
    flipped = tuple(int(axis) for axis in np.flatnonzero(axes.sum(axis=1) < 0))
    start = np.round((corners @ axes.T + shift).min(axis=0)).astype(int)
    layers = tuple(_placed(np.flip(layer.transpose(order), flipped), start, grid) for layer in labelmap.layers)
    return LabelMap(grid, layers, labelmap.labels, labelmap.provenance)


def _placed(part: NDArray[Any], start: NDArray[np.int64], grid: Grid) -> NDArray[Any]:
    """``part``, whose first voxel is ``start`` in ``grid``, on the whole of ``grid``."""
    low = np.maximum(start, 0)
    high = np.maximum(np.minimum(start + part.shape, grid.shape), low)
    inside = part[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
    lost = int(np.count_nonzero(part)) - int(np.count_nonzero(inside))
    if lost:
        raise GeometryError(f"{lost} labelled voxels lie outside of the image's {grid.shape} voxels")
    if inside.shape == grid.shape:
        return np.asfortranarray(inside)
    whole = np.zeros(grid.shape, dtype=part.dtype, order="F")
    whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = inside
    return whole


def _described(grid: Grid) -> str:
    shape = " x ".join(map(str, grid.shape))
    spacing = " x ".join(f"{spacing:.4g}" for spacing in grid.spacing_mm)
    origin = ", ".join(f"{value:.2f}" for value in grid.affine_ras[:3, 3])
    return f"{shape} voxels of {spacing} mm, {grid.axcodes}, first at ({origin}) mm"
