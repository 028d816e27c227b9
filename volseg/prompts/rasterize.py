"""Which voxels lie on a line, near a line, or in a polygon.

Work and memory are bounded by the grid, however far the shapes reach beyond it, and the answers do not depend on the
order of the grid's axes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import POSITION_TOLERANCE, Grid

CHUNK_VOXELS = 250_000
"""Distances are computed for this many voxels at a time."""

MIN_PIECE_VOXELS = 16.0
"""Long segments are worked on in pieces, so that the blocks around them stay slim; shorter pieces cost more calls."""


def voxels_on_line(points_ijk: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    """The voxels that a polyline runs through, [N, 3]; some may repeat or lie outside ``grid``.

    Args:
        points_ijk: [M, 3] corners of the polyline in voxel index.
        grid: the voxels. A part that runs along the face between two voxels counts as ``Grid.nearest_voxels`` says.
    """
    found = [grid.nearest_voxels(points_ijk)]
    slack = 0.5 + POSITION_TOLERANCE
    low, high = np.full(3, -slack), np.array(grid.shape) - 1 + slack
    for start, end in zip(points_ijk[:-1], points_ijk[1:], strict=True):
        part = _part_within(start, end, low, high)
        if part is None:
            continue
        along = end - start
        cuts = [np.array(part)]
        for axis in np.flatnonzero(along):
            a, b = sorted(start[axis] + np.array(part) * along[axis])
            faces = np.arange(np.ceil(a - 0.5), np.floor(b - 0.5) + 1) + 0.5
            cuts.append((faces - start[axis]) / along[axis])
        ordered = np.sort(np.concatenate(cuts))
        # Between two cuts the line stays in one voxel; what is shorter than the tolerance merely touches it.
        inside = np.diff(ordered) * np.linalg.norm(along) > POSITION_TOLERANCE
        middles = (ordered[:-1] + np.diff(ordered) / 2)[inside]
        found.append(grid.nearest_voxels(start + middles[:, None] * along))
    return np.concatenate(found)


def voxels_near_line(points_ijk: NDArray[np.float64], radius_mm: float, grid: Grid) -> NDArray[np.int64]:
    """The voxels of ``grid`` whose centres lie within ``radius_mm`` of a polyline, [N, 3], each once.

    Args:
        points_ijk: [M, 3] corners of the polyline in voxel index.
        radius_mm: the largest distance.
        grid: the voxels.
    """
    limit_mm = radius_mm + POSITION_TOLERANCE * min(grid.spacing_mm)
    # How far a ball of that radius reaches along each voxel axis, also where the axes are not at right angles.
    reach = limit_mm * np.linalg.norm(np.linalg.inv(grid.affine_ras[:3, :3]), axis=1)
    covered = np.zeros(grid.shape, dtype=bool)
    last = np.array(grid.shape) - 1
    for start, end in zip(points_ijk[:-1], points_ijk[1:], strict=True):
        part = _part_within(start, end, -reach, last + reach)
        if part is None:
            continue
        for piece_start, piece_end in _pieces(start, end, part, max(MIN_PIECE_VOXELS, float(reach.max()))):
            ends = np.stack([piece_start, piece_end])
            low = np.clip(np.ceil(ends.min(axis=0) - reach), 0, grid.shape).astype(int)
            stop = np.clip(np.floor(ends.max(axis=0) + reach) + 1, 0, grid.shape).astype(int)
            _cover(covered, low, stop, grid.to_ras_mm(ends), limit_mm, grid)
    return np.argwhere(covered).astype(np.int64)


def centres_in_polygon(
    points: NDArray[np.float64], low: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """The whole-numbered positions of a window that lie in a closed polygon or on its outline, bool of ``shape``.

    Where the outline crosses itself, parts enclosed twice are outside (even-odd rule).

    Args:
        points: [M, 2] corners in drawing order.
        low: [2] the window's first position.
        shape: number of positions of the window along both axes.
    """
    height, width = shape
    toggles = np.zeros((height, width + 1), dtype=bool)
    on_outline = np.zeros(shape, dtype=bool)
    corners = points - low
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = _whole_numbers(np.ceil(start[0]), np.ceil(end[0]), height)
        if rows.size:
            columns = start[1] + (rows - start[0]) / (end[0] - start[0]) * (end[1] - start[1])
            toggles[rows, np.clip(np.floor(columns) + 1, 0, width).astype(int)] ^= True
        _mark_edge(on_outline, start, end)
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(toggles, axis=1)[:, :width]
    return inside | on_outline


def _mark_edge(on_outline: NDArray[np.bool_], start: NDArray[np.float64], end: NDArray[np.float64]) -> None:
    """Marks the positions that an edge runs through, one for each step along its longer side."""
    major = int(np.abs(end - start).argmax())
    if start[major] > end[major]:
        start, end = end, start
    first = np.ceil(start[major] - POSITION_TOLERANCE)
    steps = _whole_numbers(first, np.floor(end[major] + POSITION_TOLERANCE) + 1, on_outline.shape[major])
    length = max(float(end[major] - start[major]), POSITION_TOLERANCE)
    across = start[1 - major] + np.clip((steps - start[major]) / length, 0, 1) * (end[1 - major] - start[1 - major])
    nearest = np.round(across)
    hit = (np.abs(across - nearest) <= POSITION_TOLERANCE) & (nearest >= 0) & (nearest < on_outline.shape[1 - major])
    on_outline.swapaxes(0, major)[steps[hit], nearest[hit].astype(int)] = True


def _whole_numbers(first: float, stop: float, size: int) -> NDArray[np.int64]:
    """Those from ``first`` to before ``stop``, in either order, that lie in [0, size)."""
    low, high = np.clip(sorted((first, stop)), 0, size)
    return np.arange(int(low), int(high))


def _part_within(
    start: NDArray[np.float64], end: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[float, float] | None:
    """From which to which fraction a segment runs through a box, or None."""
    first, last = 0.0, 1.0
    for origin, step, a, b in zip(start, end - start, low, high, strict=True):
        if abs(step) < 1e-9:  # Parallel to these faces; dividing by less would overflow.
            if not a <= origin <= b:
                return None
            continue
        enters, leaves = sorted(((a - origin) / step, (b - origin) / step))
        first, last = max(first, enters), min(last, leaves)
    return (float(first), float(last)) if first <= last else None


def _pieces(
    start: NDArray[np.float64], end: NDArray[np.float64], part: tuple[float, float], length_voxels: float
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    total = float(np.linalg.norm(end - start)) * (part[1] - part[0])
    fractions = np.linspace(part[0], part[1], max(1, int(np.ceil(total / length_voxels))) + 1)
    corners = start + fractions[:, None] * (end - start)
    yield from zip(corners[:-1], corners[1:], strict=True)


def _cover(
    covered: NDArray[np.bool_],
    low: NDArray[np.int64],
    stop: NDArray[np.int64],
    ends_mm: NDArray[np.float64],
    limit_mm: float,
    grid: Grid,
) -> None:
    """Sets the voxels of the block [low, stop) that lie within ``limit_mm`` of the segment ``ends_mm`` [2, 3]."""
    if (stop <= low).any():
        return
    rows = max(1, CHUNK_VOXELS // int((stop - low)[1:].prod()))
    along = ends_mm[1] - ends_mm[0]
    length_squared = float(along @ along)
    for first in range(int(low[0]), int(stop[0]), rows):
        block = covered[first : min(first + rows, stop[0]), low[1] : stop[1], low[2] : stop[2]]
        if block.all():
            continue
        # Contiguous, as the matrix products below are several times slower otherwise.
        indices = np.ascontiguousarray(np.moveaxis(np.indices(block.shape, dtype=np.float64), 0, -1))
        indices += np.array([first, low[1], low[2]])
        offset = grid.to_ras_mm(indices) - ends_mm[0]
        fraction = np.clip(offset @ along / length_squared, 0, 1) if length_squared > 0 else np.zeros(block.shape)
        block |= np.linalg.norm(offset - fraction[..., None] * along, axis=-1) <= limit_mm
