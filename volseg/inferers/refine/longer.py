"""Long thin objects: an answer that ends abruptly is made longer, and looked at once more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.prompts import Prompt, PromptKind

TIMES = 3
"""How often an answer is made longer, at most."""
SLENDER = 2.0
"""Only objects that are so many times longer than wide are: what is compact ends somewhere, as a rule."""
BLUNT = 0.3
"""An end is abrupt where the last two slices hold at least this part of the object's median slice."""
BY = 0.25
"""As a part of the object's length, so much is added to such an end; the look that follows shortens it again."""
LEAST_SLICES = 6
MORE = 2
"""With fewer slices more than before, an answer has not become longer."""


def prolonged(answer: ObjectMask, prompts: Sequence[Prompt]) -> ObjectMask | None:
    """An answer with its abrupt ends continued straight, as a draft for another look.

    A tracker that has lost a cord or a vessel leaves an end as wide as the rest, where a true end tapers, and a network
    that is shown such a draft takes the end for true. It has learnt to shorten drafts that run on.

    Args:
        answer: to a first question.
        prompts: what was said.

    Returns:
        None where nothing ends abruptly within the image, or a 3D box says where the object ends.
    """
    if answer.voxels == 0 or any(one.kind is PromptKind.BOX_3D for one in prompts):
        return None
    axis, first, last = _reach(answer)
    sides_mm = np.multiply(answer.shape, answer.grid.spacing_mm)
    sides_mm[axis] = (last - first + 1) * answer.grid.spacing_mm[axis]
    if sides_mm[axis] < SLENDER * np.delete(sides_mm, axis).max() or last - first + 1 < LEAST_SLICES:
        return None
    areas = _areas(answer, axis)[first : last + 1]
    blunt = BLUNT * float(np.median(areas))
    start, size = answer.start_ijk[axis] + first, last - first + 1
    by = max(LEAST_SLICES // 2, round(BY * size))
    before = min(by, start) if areas[:2].mean() >= blunt else 0
    after = min(by, answer.grid.shape[axis] - start - size) if areas[-2:].mean() >= blunt else 0
    if before + after == 0:
        return None
    rows = np.clip(np.arange(first - before, last + 1 + after), first, last)
    i, j, k = (place + (first - before) * (one == axis) for one, place in enumerate(answer.start_ijk))
    block = np.take(answer.block, rows, axis=axis)
    return ObjectMask.of(answer.object_id, answer.grid, block, answer.presence, (i, j, k))


def is_longer(answer: ObjectMask, before: ObjectMask) -> bool:
    """Whether an answer has become longer; specks beyond its end do not count."""
    if answer.voxels == 0:
        return False
    _, first, last = _reach(answer)
    _, old_first, old_last = _reach(before)
    return last - first >= old_last - old_first + MORE


def _reach(answer: ObjectMask) -> tuple[int, int, int]:
    """The longest axis, and first and last slice across it without a gap around the largest, in the answer's block."""
    axis = int(np.multiply(answer.shape, answer.grid.spacing_mm).argmax())
    areas = _areas(answer, axis)
    middle = int(areas.argmax())
    empty = np.flatnonzero(areas == 0)
    first = max((int(one) + 1 for one in empty[empty < middle]), default=0)
    last = min((int(one) - 1 for one in empty[empty > middle]), default=len(areas) - 1)
    return axis, first, last


def _areas(answer: ObjectMask, axis: int) -> NDArray[np.int64]:
    """Voxels of each slice across an axis."""
    areas: NDArray[np.int64] = answer.block.sum(axis=tuple(one for one in range(3) if one != axis))
    return areas
