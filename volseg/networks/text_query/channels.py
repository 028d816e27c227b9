"""What a text-query network is shown of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from volseg.data.modality import Modality

NARROW = (0.0, 1.0)
"""First channel: the image's default window (see ``volseg.transforms.choose_window``); for CT, soft tissue."""

WIDE = (-2.1, 3.35)
"""Second channel, in units of that window: -1000 to 1500 HU for CT, from air to bone; for MR, the same image, paler."""

RANGE = (-8.0, 16.0)
"""Intensities are cut off far outside the window."""


def pad_value(modality: Modality) -> float:
    """What lies outside an image, in units of the default window: air for CT, black for everything else."""
    return -2.5 if modality is Modality.CT else 0.0


def make_channels(values: Tensor) -> Tensor:
    """Two channels from one.

    Args:
        values: [B, 1, ...] intensities in units of the default window: 0 is black, 1 is white.

    Returns:
        [B, 2, ...] from -2 to 2.
    """
    return torch.cat([_scaled(values, *NARROW), _scaled(values, *WIDE)], dim=1)


def values_of(channels: Tensor) -> Tensor:
    """The way back: intensities [B, ...] in units of the default window, within `WIDE`, from [B, 2, ...]."""
    low, high = WIDE
    return (channels[:, 1] / 4 + 0.5) * (high - low) + low


def _scaled(values: Tensor, low: float, high: float) -> Tensor:
    return values.sub(low).div_(high - low).clamp_(0, 1).sub_(0.5).mul_(4)
