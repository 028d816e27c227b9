"""Boxes are drawn tight: an answer that stays short of a box's sides is stretched towards them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.prompts import Box, Prompt

PART = 0.5
"""How much of what an answer lacks to a side of the box it is stretched by: boxes are somewhat loose, too."""
MOST = 0.05
"""As a part of the box's side, one end of the answer moves by so much at most: what is thin at its ends, like a
hippocampus, is short of them without being too small elsewhere.
"""

TINY = 1e-6


def reach_for_box(answer: ObjectMask, prompts: Sequence[Prompt]) -> ObjectMask:
    """Stretches an answer along the axes of the one box that was drawn around it.

    That an object touches the sides of its box is the tightness prior of Lempitsky et al. (ICCV 2009). A network that
    has learnt from loose boxes, too, is rather careful at their sides, above all across slices.

    Args:
        answer: to a first question.
        prompts: what was said, in voxel indices.

    Returns:
        The answer itself where something else was said than one positive box (a click must stay what it says), or
        nothing lies where it was drawn.
    """
    box = prompts[0] if len(prompts) == 1 else None
    if not isinstance(box, Box) or not box.positive or answer.voxels == 0:
        return answer
    flat = box.flat_axis
    shown = answer.block
    if flat is not None:
        place = round(box.low[flat]) - answer.start_ijk[flat]
        if not 0 <= place < shown.shape[flat]:
            return answer
        shown = np.take(shown, [place], axis=flat)
    start, sources = list(answer.start_ijk), []
    for axis, size in enumerate(answer.block.shape):
        occupied = np.flatnonzero(shown.any(axis=tuple(a for a in range(3) if a != axis)))
        if axis == flat or len(occupied) == 0:
            sources.append(np.arange(size))
            continue
        ends = answer.start_ijk[axis] + occupied[[0, -1]]
        first, last = _moved(ends, np.ceil(box.low[axis]), np.floor(box.high[axis]))
        start[axis], source = _rows(answer.start_ijk[axis], size, ends, (first, last), answer.grid.shape[axis])
        sources.append(source)
    block = answer.block[np.ix_(*sources)]
    return ObjectMask.of(answer.object_id, answer.grid, block, answer.presence, (start[0], start[1], start[2]))


def _moved(ends: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Where the first and the last voxel of an answer belong, along one axis, given the box's."""
    most = MOST * (high - low + 1)
    first = ends[0] - min(PART * max(ends[0] - low, 0.0), most)
    last = ends[1] + min(PART * max(high - ends[1], 0.0), most)
    return float(first), float(last)


def _rows(
    start: int, size: int, ends: NDArray[np.int64], wanted: tuple[float, float], limit: int
) -> tuple[int, NDArray[np.int64]]:
    """Stretches one axis of a block so that ``ends`` come to lie where they are wanted.

    Returns:
        First voxel of the new block, and which row of the old one each of its rows is.
    """
    scale = (wanted[1] - wanted[0] + 1) / (ends[1] - ends[0] + 1)
    # Faces of voxels lie half a voxel beside their middles.
    low = wanted[0] - 0.5 + (start - ends[0]) * scale
    high = low + size * scale
    new = np.arange(max(0, int(np.ceil(low + TINY))), min(limit, int(np.floor(high - TINY)) + 1))
    if len(new) == 0:
        return start, np.arange(size)
    middles = (new - low) / scale - 0.5
    # In the middle between two rows it is the inner one, so that a mirrored answer gives the mirrored one.
    middles += TINY * np.sign((size - 1) / 2 - middles)
    return int(new[0]), np.clip(np.floor(middles + 0.5).astype(int), 0, size - 1)
