"""Free-hand lines within a part of a slice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE_POINTS = 5
"""Tries at a straight line that stays inside, before the centre line is drawn instead."""

CONTOUR_PART = (0.3, 1.0)
"""How much of a contour is drawn."""

LEAST_DEPTH = 0.5
"""A contour runs where the depth is this part of the largest, so that it lies inside."""


def scribble_positions(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A line, a centre line or a contour inside a 2D mask that is not empty, equally likely.

    Args:
        rng: draws.
        mask: bool [A, B].

    Returns:
        [N, 2] positions in order, each in a voxel of the mask; one alone where the mask is too small for a line.
    """
    draw = (straight_line, centre_line, contour)[rng.integers(3)]
    line = draw(rng, mask)
    if len(line) < 2:
        line = centre_line(rng, mask)
    return line if len(line) >= 2 else np.argwhere(mask)[:1].astype(np.float64)


def straight_line(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From one voxel to another so that all between lies inside too; empty where none is found."""
    voxels = np.argwhere(mask)
    for _ in range(LINE_POINTS):
        ends = voxels[rng.integers(len(voxels), size=2)]
        steps = int(np.abs(ends[1] - ends[0]).max()) * 2 + 1
        between = np.round(np.linspace(ends[0], ends[1], steps)).astype(int)
        if steps > 1 and mask[tuple(between.T)].all():
            return ends.astype(np.float64)
    return np.empty((0, 2))


def centre_line(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The longest of the shortest ways along the skeleton, from one of its ends."""
    from skimage.graph import MCP
    from skimage.morphology import skeletonize

    skeleton = skeletonize(mask)
    voxels = np.argwhere(skeleton)
    if not len(voxels):
        return np.empty((0, 2))
    costs = np.where(skeleton, 1.0, np.inf)
    # The voxel furthest from any voxel is an end of the longest way; the one furthest from that, the other.
    _, end = _furthest(costs, voxels[0], MCP)
    walk, other = _furthest(costs, end, MCP)
    return np.array(walk.traceback(tuple(other)), dtype=np.float64)


def contour(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A part of a line along the border, inside it; empty where there is none."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import find_contours

    depth = distance_transform_edt(np.pad(mask, 1))
    lines = find_contours(depth, max(1.0, LEAST_DEPTH * float(depth.max())) - 1e-3)
    if not lines:
        return np.empty((0, 2))
    line = max(lines, key=len) - 1
    count = max(2, round(len(line) * rng.uniform(*CONTOUR_PART)))
    start = rng.integers(len(line))
    part = np.round(np.roll(line, -start, axis=0)[:count])
    inside = mask[tuple(np.clip(part.astype(int), 0, np.array(mask.shape) - 1).T)]
    kept = part[inside]
    changed = np.ones(len(kept), dtype=bool)
    changed[1:] = (np.diff(kept, axis=0) != 0).any(axis=1)
    result: NDArray[np.float64] = kept[changed]
    return result


def _furthest(costs: NDArray[np.float64], start: NDArray[np.int64], kind: type) -> tuple[Any, NDArray[np.int64]]:
    walk = kind(costs, fully_connected=True)
    reached, _ = walk.find_costs([tuple(start)])
    reached = np.where(np.isfinite(reached), reached, -1.0)
    return walk, np.array(np.unravel_index(int(reached.argmax()), reached.shape))
