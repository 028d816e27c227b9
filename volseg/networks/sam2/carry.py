"""The mask of the frame before as a mask prompt that fades: the second documented extension of sam2-nano.

SAM 2 knows how many frames ago a memory was made, but not how far that is in the object's own size, and so cannot
expect an end. Most anatomy is about as long as it is wide. Here the carried mask grows fainter with the distance from
the prompted frame, so that an object must be seen to be followed further than its width lets expect.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOGIT_LIMIT = 10.0
"""Logits are cut to so much before they are carried, so that an absent object is a mask without a pixel."""
FADE = 5.0
"""What carried logits lose on the way to where the object is expected to end."""
MAX_TRAVELLED = 4.0
RADII = 1.4
"""Objects are expected to reach so many radii of their prompted mask to either side (the median of 26 sarcomas on CT
and MR and of 16 hippocampi is 1.6, from slices that were not chosen for being in the middle of anything)."""
SHORTEST_REACH = 0.5


def expected_reach(low_res_logits: Tensor, step_pixels: Tensor) -> Tensor:
    """Frames from a prompted frame to the expected end of its object, half a frame at least.

    Args:
        low_res_logits: ``[R, 1, S / 4, S / 4]`` of the prompted frame.
        step_pixels: ``[R]`` distance between neighbouring frames, in pixels of the frame.

    Returns:
        ``[R]`` float32.
    """
    area = low_res_logits.gt(0).flatten(1).sum(dim=1).float() * 16
    return (RADII * (area / math.pi).sqrt() / step_pixels).clamp(min=SHORTEST_REACH)


def reach_of(area_pixels: float, step_pixels: float) -> float:
    """`expected_reach` of a mask of so many pixels of the frame."""
    return max(SHORTEST_REACH, RADII * math.sqrt(area_pixels / math.pi) / step_pixels)


def carried_mask(previous_logits: Tensor, travelled: Tensor) -> Tensor:
    """The mask prompt of tracked frames.

    Args:
        previous_logits: ``[R, 1, S / 4, S / 4]`` of the frame before, in the order of tracking.
        travelled: ``[R]`` frames from the prompted frame, divided by its expected reach.

    Returns:
        ``[R, 1, S / 4, S / 4]`` logits.
    """
    faded = FADE * travelled.clamp(max=MAX_TRAVELLED).reshape(-1, 1, 1, 1)
    return torch.clamp(previous_logits, -LOGIT_LIMIT, LOGIT_LIMIT) - faded
