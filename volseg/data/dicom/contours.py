"""Outlines of masks on one slice, and back.

An outline runs halfway between voxel centres inside and outside (marching squares), so filling it by the even-odd rule
at the voxel centres gives the mask again, exactly. A hole is tied to its outline by a keyhole: the outline goes to the
hole and around it and comes back on the same line (DICOM PS3.3 C.8.8.6.3), which every reader understands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The outlines of a mask, one for each island, holes tied in.

    Args:
        mask: bool [I, J].

    Returns:
        For each island its vertices [N, 2] in voxel index, open: the last is not the first again.
    """
    from skimage.measure import find_contours

    # Voxels that touch at a corner only are separate islands, so that no outline touches itself.
    padded = np.pad(mask, 1).astype(np.float32)
    loops = [loop[:-1] - 1.0 for loop in find_contours(padded, 0.5, fully_connected="low")]
    if not loops:
        return []
    areas = np.array([_signed_area(loop) for loop in loops])
    outer = areas * np.sign(areas[np.abs(areas).argmax()]) > 0  # the largest loop is an outer one
    return [_without_straight(loop) for loop in _with_keyholes(mask, loops, outer)]


def filled(outline: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The voxels whose centres lie inside an outline by the even-odd rule.

    Args:
        outline: vertices [N, 2] in voxel index, closed or open; it may run along a line twice (keyholes).
        shape: of the result.

    Returns:
        bool [I, J]; parts of the outline beyond it are cut off.
    """
    start, stop = outline, np.roll(outline, -1, axis=0)
    # An edge has one direction, so that a keyhole's way there and way back are rounded alike and cancel.
    swap = (start[:, 0] > stop[:, 0]) | ((start[:, 0] == stop[:, 0]) & (start[:, 1] > stop[:, 1]))
    low, high = np.where(swap[:, None], stop, start), np.where(swap[:, None], start, stop)
    # The rows i whose line an edge crosses: a vertex on a line counts for one of the two edges that meet there.
    first = np.clip(np.ceil(low[:, 0]), 0, shape[0]).astype(np.int64)
    last = np.clip(np.ceil(high[:, 0]), 0, shape[0]).astype(np.int64)
    crossings = last - first
    edges = np.repeat(np.arange(len(low)), crossings)
    rows = np.arange(crossings.sum()) - np.repeat(np.cumsum(crossings) - crossings, crossings) + first[edges]
    slope = (high[edges, 1] - low[edges, 1]) / (high[edges, 0] - low[edges, 0])
    places = low[edges, 1] + slope * (rows - low[edges, 0])
    columns = np.clip(np.ceil(places), 0, shape[1]).astype(np.int64)
    toggles = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    np.add.at(toggles, (rows, columns), 1)
    inside: NDArray[np.bool_] = (np.cumsum(toggles[:, :-1], axis=1) % 2).astype(bool)
    return inside


def united(parts: Sequence[NDArray[np.bool_]], *, exclusive: bool) -> NDArray[np.bool_]:
    """Several filled outlines on one slice as one mask.

    Args:
        parts: bool [I, J] each, at least one.
        exclusive: by the exclusive-or rule (CLOSEDPLANAR_XOR). Else (CLOSED_PLANAR) they are united, except that an
            outline wholly inside another is a hole, as much software writes holes without keyholes.
    """
    if exclusive:
        return np.asarray(np.logical_xor.reduce(parts))
    result: NDArray[np.bool_] = np.logical_or.reduce(parts)
    if np.count_nonzero(result) == sum(int(np.count_nonzero(part)) for part in parts):
        return result
    result[:] = False
    kept: list[NDArray[np.bool_]] = []
    for part in sorted(parts, key=np.count_nonzero, reverse=True):
        if not part.any() or any(np.array_equal(part, other) for other in kept):
            continue  # the same outline twice is one object, not a hole
        kept.append(part)
        if result[part].all():
            result &= ~part
        else:
            result |= part
    return result


def _with_keyholes(
    mask: NDArray[np.bool_], loops: list[NDArray[np.float64]], outer: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """The outer loops, each with its holes tied in.

    From a hole's leftmost vertex, which lies between two voxels of a row, the tie runs left inside the object to the
    next vertex of another loop: straight through the object, so it crosses nothing, and without a search.
    """
    if outer.all():
        return loops
    # A vertex between two voxels of a row is known by the row and the voxel on its left.
    home = {
        (int(row), math.floor(column)): (index, place)
        for index, loop in enumerate(loops)
        for place, (row, column) in enumerate(loop.tolist())
        if row == int(row)
    }
    tied: dict[int, list[tuple[int, int, int]]] = {}  # loop: (its place, the hole, the hole's place)
    for hole in np.flatnonzero(~outer).tolist():
        place = int(np.lexsort((loops[hole][:, 0], loops[hole][:, 1]))[0])
        row, left = int(loops[hole][place, 0]), math.floor(loops[hole][place, 1])
        background = np.flatnonzero(~mask[row, : left + 1])
        parent, at = home[(row, int(background[-1]) if background.size else -1)]
        tied.setdefault(parent, []).append((at, hole, place))
    return [_assembled(loops, tied, int(index)) for index in np.flatnonzero(outer)]


def _assembled(
    loops: list[NDArray[np.float64]], tied: dict[int, list[tuple[int, int, int]]], index: int
) -> NDArray[np.float64]:
    """A loop with everything that is tied to it, without recursion, as holes can hang on one another in long chains."""
    pieces: list[NDArray[np.float64]] = []
    open_: list[Iterator[NDArray[np.float64] | tuple[int, int]]] = [_walk(loops, tied, index, 0)]
    while open_:
        step = next(open_[-1], None)
        if step is None:
            open_.pop()
        elif isinstance(step, tuple):
            open_.append(_walk(loops, tied, *step))
        else:
            pieces.append(step)
    return np.concatenate(pieces)[:-1]


def _walk(
    loops: list[NDArray[np.float64]], tied: dict[int, list[tuple[int, int, int]]], index: int, start: int
) -> Iterator[NDArray[np.float64] | tuple[int, int]]:
    """Pieces of a loop once around from ``start`` to ``start``; (hole, place) where a hole is to be visited."""
    loop = np.roll(loops[index], -start, axis=0)
    loop = np.concatenate((loop, loop[:1]))
    count = len(loop) - 1
    here = 0
    for place, hole, own in sorted(((at - start) % count, hole, own) for at, hole, own in tied.get(index, ())):
        yield loop[here : place + 1]
        yield hole, own
        here = place
    yield loop[here:]


def _signed_area(loop: NDArray[np.float64]) -> float:
    x, y = loop[:, 0], loop[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _without_straight(loop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops vertices between two edges of one direction; all coordinates are halves, so this is exact."""
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = loop[turns]
    return corners
