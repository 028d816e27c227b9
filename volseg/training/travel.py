"""How far clips have come from their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from volseg.networks.sam2.carry import expected_reach
from volseg.training.sampling import Clip


@dataclass(frozen=True, eq=False)
class Travel:
    """Where the tracking of clips began and where it is expected to end; see `Clip`.

    Attributes:
        step_pixels: [N].
        start: [N].
        reach: [N].
    """

    step_pixels: Tensor
    start: Tensor
    reach: Tensor

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Travel:
        """Of clips in their order."""
        return cls(
            torch.tensor([clip.step_pixels for clip in clips]),
            torch.tensor([clip.start for clip in clips]),
            torch.tensor([clip.reach for clip in clips]),
        )

    def travelled(self, frame: int, first_logits: Tensor) -> Tensor:
        """What `networks.sam2.carry.carried_mask` wants to know.

        Args:
            frame: frames since the first one.
            first_logits: [N, 1, S / 4, S / 4], the answer on the first one.
        """
        device = first_logits.device
        expected = expected_reach(first_logits, self.step_pixels.to(device))
        reach = self.reach.to(device)
        return (self.start.to(device) + frame) / torch.where(reach.isnan(), expected, reach)
