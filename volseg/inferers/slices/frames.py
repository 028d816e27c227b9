"""Slices as the tensors a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.inferers.slices.crop import Crop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from volseg.transforms.windows import IntensityWindow


class Channels(StrEnum):
    """What the three input channels show."""

    GREY = "grey"
    """The slice on all three, as SAM 2 and MedSAM2 take it."""
    NEIGHBOURS = "neighbours"
    """The slice before, the slice, the slice after; the first and last slices stand in for those beyond."""


@dataclass(frozen=True)
class FrameFormat:
    """How a checkpoint wants its images.

    Attributes:
        image_size: side of the square frame in pixels.
        channels: what the three channels show.
        mean: subtracted from intensities in [0, 1], per channel.
        std: divides them afterwards.
    """

    image_size: int
    channels: Channels = Channels.GREY
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def make_frames(
    slices: NDArray[Any], indices: Sequence[int], crop: Crop, window: IntensityWindow, frame_format: FrameFormat
) -> Tensor:
    """Windows, crops and resizes slices.

    Args:
        slices: [slices, rows, columns] in the image's units, only read.
        indices: which slices.
        crop: the part of the slice to show; beyond the slice it is as dark as the window's low end.
        window: the intensities that become 0 and 1.
        frame_format: size, channels and normalisation.

    Returns:
        [N, 3, S, S] float32 on the CPU.
    """
    import torch
    from torch.nn.functional import interpolate

    wanted = sorted({i for index in indices for i in _channel_slices(index, len(slices), frame_format.channels)})
    source_rows, source_columns, rows, columns = crop.inside((slices.shape[1], slices.shape[2]))
    grey = np.zeros((len(wanted), crop.rows, crop.columns), dtype=np.float32)
    for place, index in enumerate(wanted):
        grey[place, rows, columns] = window.apply(np.ascontiguousarray(slices[index, source_rows, source_columns]))
    size = frame_format.image_size
    resized = interpolate(
        torch.from_numpy(grey)[:, None], (size, size), mode="bilinear", align_corners=False, antialias=True
    )[:, 0]
    place_of = {index: place for place, index in enumerate(wanted)}
    order = [[place_of[i] for i in _channel_slices(index, len(slices), frame_format.channels)] for index in indices]
    mean = torch.tensor(frame_format.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(frame_format.std).reshape(1, 3, 1, 1)
    frames: Tensor = (resized[torch.tensor(order)] - mean) / std
    return frames


def _channel_slices(index: int, count: int, channels: Channels) -> tuple[int, int, int]:
    if channels is Channels.GREY:
        return index, index, index
    return max(0, index - 1), index, min(count - 1, index + 1)
