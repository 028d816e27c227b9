"""Scores of an answer whose parts are instances of one kind of object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask

MATCH_IOU = 0.5


def instance_scores(answer: NDArray[np.bool_], truths: Sequence[ObjectMask]) -> tuple[float, float]:
    """F1 at IoU 0.5 of the answer's 6-connected parts against instances, and the mean Dice of matched pairs.

    Pairs are matched so that their IoU adds up to the most (Hungarian algorithm); a pair counts from IoU 0.5 on.

    Args:
        answer: bool [I, J, K].
        truths: the instances, which do not overlap, on the answer's grid.

    Returns:
        F1, 1 where there is nothing in both; Dice, 0 where no pair counts.
    """
    from scipy.ndimage import label
    from scipy.optimize import linear_sum_assignment

    parts, count = label(answer)
    if not count or not truths:
        return (1.0, 1.0) if not count and not truths else (0.0, 0.0)
    shared = np.zeros((count + 1, len(truths) + 1), dtype=np.int64)
    shared[:, 0] = np.bincount(parts.ravel(), minlength=count + 1)
    for number, truth in enumerate(truths, start=1):
        inside = parts[truth.slices][truth.block]
        shared[:, number] = np.bincount(inside, minlength=count + 1)
    shared[:, 0] -= shared[:, 1:].sum(axis=1)
    both = shared[1:, 1:]
    sizes = shared[1:].sum(axis=1)[:, None] + shared[:, 1:].sum(axis=0)[None]
    iou = both / (sizes - both)
    rows, columns = linear_sum_assignment(-iou)
    matched = iou[rows, columns] >= MATCH_IOU
    found = int(matched.sum())
    dices = 2 * both[rows, columns][matched] / sizes[rows, columns][matched]
    return 2 * found / (count + len(truths)), float(dices.mean()) if found else 0.0
