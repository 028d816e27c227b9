"""Frames as the network takes them."""

from __future__ import annotations

from torch import Tensor

from volseg.inferers.slices.frames import Channels
from volseg.training.config import TrainConfig


def normalised(frames: Tensor, config: TrainConfig) -> Tensor:
    """Frames as `inferers.slices.frames.make_frames` would make them.

    Args:
        frames: [..., 3, S, S] from 0 to 1: the slice before, the slice, the slice after.
        config: says what the channels show, mean and standard deviation.

    Returns:
        The same shape.
    """
    if config.channels is Channels.GREY:
        frames = frames[..., 1:2, :, :].expand_as(frames)
    mean, std = (frames.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
    return (frames - mean) / std
