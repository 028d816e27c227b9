"""Boxes are drawn tight: an answer that stays short of a box's sides goes on to what the network believes of there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.inferers.refine.lattice import Lattice
from volseg.prompts import Box, Prompt

NEAR = 0.15
"""As a part of the box's side, an answer that comes so near to it is near enough to leave its threshold alone."""
LOWEST = 1.0
"""The threshold on logits is lowered by so much at most: a side where the network believes in less is a thin tip's that
it has missed, such as a vertebra's, or the box is loose there, and all the rest would grow in vain.
"""
ABOVE = 0.01
"""A logit that is surely inside."""
PART = 0.5
"""How much of what an answer lacks to a side of the box it is stretched by: boxes are somewhat loose, too."""
MOST = 0.05
"""As a part of the box's side, one end of the answer moves by so much at most: what is thin at its ends, like a
hippocampus, is short of them without being too small elsewhere.
"""

TINY = 1e-6


def lowered_for_box(logits: Tensor, lattice: Lattice, prompts: Sequence[Prompt]) -> Tensor:
    """Logits raised until what is above 0 comes near to every side of the one box that was drawn around the object.

    The tightness prior of Lempitsky et al. (ICCV 2009), as a threshold. Where one half of a tumour shines and the other
    does not, a network may be sure of the one and only doubtful of the other, and the box tells that both are meant.

    Args:
        logits: of a first answer, on the lattice.
        lattice: where they are.
        prompts: what was said, in voxel indices.

    Returns:
        The logits themselves where they come near enough, or cannot, or something else was said than one positive box.
    """
    box = _only_box(prompts)
    if box is None:
        return logits
    faces = lattice.positions(np.array([np.array(box.low) - 0.5, np.array(box.high) + 0.5]))
    low, high = faces.min(axis=0), faces.max(axis=0)
    # A flat box is about one slice, whatever the distance of samples.
    flat = None if box.flat_axis is None else int(lattice.grid.axis_order[box.flat_axis])
    inside = [_samples(a, b, n) for a, b, n in zip(low, high, logits.shape, strict=True)]
    if flat is not None:
        middle = (low[flat] + high[flat]) / 2
        inside[flat] = _samples(round(middle), round(middle), logits.shape[flat])
    weakest = ABOVE
    for axis in (axis for axis in range(3) if axis != flat):
        near = NEAR * (high[axis] - low[axis])
        for first, last in ((low[axis], low[axis] + near), (high[axis] - near, high[axis])):
            slab = [*inside]
            slab[axis] = _samples(first, last, logits.shape[axis])
            weakest = min(weakest, float(logits[tuple(slab)].max()))
    return logits + (ABOVE - weakest) if weakest >= -LOWEST else logits


def _samples(low: float, high: float, count: int) -> slice:
    """The samples between two places, at least one."""
    first, last = (int(np.clip(one, 0, count - 1)) for one in (np.ceil(low), np.floor(high)))
    return slice(min(first, last), max(first, last) + 1)


def _only_box(prompts: Sequence[Prompt]) -> Box | None:
    """The positive box that is all that was said: a click must stay what it says."""
    box = prompts[0] if len(prompts) == 1 else None
    return box if isinstance(box, Box) and box.positive else None


def reach_for_box(answer: ObjectMask, prompts: Sequence[Prompt]) -> ObjectMask:
    """Stretches an answer along the axes of the one box that was drawn around it.

    A network that has learnt from loose boxes, too, is rather careful at their sides, above all across slices.

    Args:
        answer: to a first question.
        prompts: what was said, in voxel indices.

    Returns:
        The answer itself where something else was said than one positive box, or nothing lies where it was drawn.
    """
    box = _only_box(prompts)
    if box is None or answer.voxels == 0:
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
