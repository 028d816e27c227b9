"""Overlap and surface scores of masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask

NSD_TOLERANCE_MM = 2.0
"""Surfaces nearer than this count as the same; the tolerance of the CVPR 2025 challenge."""


def dice(answer: ObjectMask, truth: ObjectMask) -> float:
    """Dice of two masks on one grid, in [0, 1]; 1 where both are empty."""
    total = answer.voxels + truth.voxels
    if total == 0:
        return 1.0
    one, other = _common(answer, truth)
    return 2 * int(np.count_nonzero(one & other)) / total


def surface_dice(answer: ObjectMask, truth: ObjectMask, tolerance_mm: float = NSD_TOLERANCE_MM) -> float:
    """Part of both surfaces that lies within ``tolerance_mm`` of the other one, in [0, 1].

    Nikolov et al., arXiv:1809.04430, with surface elements between voxels (MONAI, ``use_subvoxels``). What lies beyond
    the image counts as background. 1 where both are empty, 0 where one is.
    """
    if not answer.voxels or not truth.voxels:
        return float(answer.voxels == truth.voxels)
    import torch
    from monai.metrics import compute_surface_dice

    pair = [torch.from_numpy(np.pad(mask, 1))[None, None] for mask in _common(answer, truth)]
    score = compute_surface_dice(
        pair[0],
        pair[1],
        [tolerance_mm],
        include_background=True,
        spacing=list(truth.grid.spacing_mm),
        use_subvoxels=True,
    )
    return float(score)


def slices_past_ends(answer: ObjectMask, truth: ObjectMask, axis: int) -> float | None:
    """Slices along ``axis`` by which the answer runs past each end of the truth, mean of both; None where empty."""
    if not answer.voxels or not truth.voxels:
        return None
    start, stop = answer.start_ijk[axis], answer.start_ijk[axis] + answer.shape[axis]
    first, last = truth.start_ijk[axis], truth.start_ijk[axis] + truth.shape[axis]
    return float(max(0, first - start) + max(0, stop - last)) / 2


def within_extent(answer: ObjectMask, truth: ObjectMask, axis: int) -> ObjectMask:
    """The answer on the slices along ``axis`` that the truth spans."""
    first, last = truth.start_ijk[axis], truth.start_ijk[axis] + truth.shape[axis]
    begin = answer.start_ijk[axis]
    keep: list[slice] = [slice(None)] * 3
    keep[axis] = slice(max(0, first - begin), max(0, last - begin))
    start = list(answer.start_ijk)
    start[axis] = max(first, begin)
    block = answer.part(tuple(keep))
    if not block.size:
        return ObjectMask(answer.object_id, answer.grid, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool))
    return ObjectMask.of(answer.object_id, answer.grid, block, start_ijk=(start[0], start[1], start[2]))


def area_under_curve(scores: Sequence[float]) -> float:
    """Trapezoids over clicks 1, 2, ... one apart; of five clicks the maximum is 4 (CVPR 2025)."""
    return float(sum((a + b) / 2 for a, b in zip(scores[:-1], scores[1:], strict=True)))


def _common(one: ObjectMask, other: ObjectMask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks on the smallest block that holds them."""
    filled = [mask for mask in (one, other) if mask.voxels]
    low = np.min([mask.start_ijk for mask in filled], axis=0)
    high = np.max([np.add(mask.start_ijk, mask.shape) for mask in filled], axis=0)
    blocks = []
    for mask in (one, other):
        block = np.zeros(high - low, dtype=bool)
        if mask.voxels:
            begin = np.subtract(mask.start_ijk, low)
            block[tuple(slice(a, a + n) for a, n in zip(begin, mask.shape, strict=True))] = mask.block
        blocks.append(block)
    return blocks[0], blocks[1]
