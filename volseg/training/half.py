"""When training computes in bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volseg.inferers.half import half_is_fast
from volseg.training.config import Precision

if TYPE_CHECKING:
    import torch


def in_half(precision: Precision, device: torch.device) -> bool:
    """Whether bfloat16 is wanted and the device multiplies it in hardware; elsewhere it takes many times as long."""
    return precision is Precision.BFLOAT16 and half_is_fast(device)
