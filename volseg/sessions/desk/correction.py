"""Brush strokes on a result, as prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import CapabilityError, PromptError
from volseg.models.card import ModelCard
from volseg.prompts import MaskPrompt, Prompt, PromptKind


def correction_prompts(
    card: ModelCard, mask: ObjectMask, added_ijk: NDArray[np.int64], removed_ijk: NDArray[np.int64]
) -> tuple[Prompt, ...]:
    """What a person means who paints on a result.

    A model that takes negative masks is told what to add and what to remove. One that does not is given, on the slices
    that were painted, the whole mask as it is now.

    Args:
        card: of the model.
        mask: the object's mask before the stroke.
        added_ijk: voxels that were painted, [N, 3].
        removed_ijk: voxels that were erased, [N, 3].

    Raises:
        CapabilityError: the model takes no masks.
        PromptError: the stroke changes nothing, or erases all that was on its slice for a model that must be shown
            what remains.
    """
    if PromptKind.MASK not in card.positive:
        raise CapabilityError(f"model {card.name} takes no masks, so the brush cannot correct it; use clicks")
    painted = np.concatenate([added_ijk, removed_ijk])
    if len(painted) == 0:
        raise PromptError("the stroke changes nothing")
    # Only the painted slices are looked at, so a stroke costs the same on an image of any size.
    axis = int(np.ptp(painted, axis=0).argmin())
    start, stop = painted.min(axis=0), painted.max(axis=0) + 1
    for other in set(range(3)) - {axis}:
        if mask.size:
            start[other] = min(start[other], mask.slices[other].start)
            stop[other] = max(stop[other], mask.slices[other].stop)
    old = _part(mask, start, stop)
    added, removed = np.zeros_like(old), np.zeros_like(old)
    added[tuple((added_ijk - start).T)] = True
    removed[tuple((removed_ijk - start).T)] = True
    added &= ~old
    removed &= old
    if not added.any() and not removed.any():
        raise PromptError("the stroke changes nothing")
    grid = mask.grid.cropped(start.tolist(), old.shape)
    if PromptKind.MASK in card.negative:
        signed = ((added, True), (removed, False))
        return tuple(MaskPrompt(voxels, grid, positive) for voxels, positive in signed if voxels.any())
    now = (old | added) & ~removed
    if not now.any():
        raise PromptError(
            f"nothing is left on the slice, and model {card.name} must be shown what remains; use a negative click"
        )
    return (MaskPrompt(now, grid),)


def painted_mask(mask: ObjectMask, added_ijk: NDArray[np.int64], removed_ijk: NDArray[np.int64]) -> ObjectMask:
    """The mask with a stroke in it, to be seen until the model has answered."""
    start, stop = np.array(mask.start_ijk), np.add(mask.start_ijk, mask.shape)
    if len(added_ijk):
        low, high = added_ijk.min(axis=0), added_ijk.max(axis=0) + 1
        start, stop = (np.minimum(start, low), np.maximum(stop, high)) if mask.size else (low, high)
    block = _part(mask, start, stop)
    block[tuple((added_ijk - start).T)] = True
    inside = ((removed_ijk >= start) & (removed_ijk < stop)).all(axis=1)
    block[tuple((removed_ijk[inside] - start).T)] = False
    return ObjectMask.of(mask.object_id, mask.grid, block, mask.presence, (int(start[0]), int(start[1]), int(start[2])))


def _part(mask: ObjectMask, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The voxels of a mask from ``start`` up to ``stop``."""
    part = np.zeros(stop - start, dtype=bool)
    here, inside = [], []
    for first, last, block in zip(start.tolist(), stop.tolist(), mask.slices, strict=True):
        low, high = max(first, block.start), min(last, block.stop)
        if low >= high:
            return part
        here.append(slice(low - first, high - first))
        inside.append(slice(low - block.start, high - block.start))
    part[tuple(here)] = mask.part(tuple(inside))
    return part
