"""A 3D network that looks at an object once more: image, draft mask and prompts in, a better mask out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn

from volseg.errors import ModelError

PRIOR_SCALE = 2.0
"""Logit that a voxel of the draft starts with."""


class Channel(IntEnum):
    """The input channels, in their order."""

    IMAGE = 0
    """Intensities in units of the window, centred and scaled."""
    RELATIVE = 1
    """Intensities against those inside of the draft."""
    DRAFT = 2
    """The draft: 1 inside, -1 outside."""
    INSIDE = 3
    """Clicks and scribbles on the object: 1 at the place, falling off around it."""
    OUTSIDE = 4
    """Clicks and scribbles beside the object."""
    BOX = 5
    """1 in a box, -1 elsewhere on the slices that it speaks of, 0 on all others."""
    DRAWN = 6
    """1 in a mask or lasso drawn on a slice, -1 elsewhere on it, 0 on all other slices."""


@dataclass(frozen=True)
class RefineSpec:
    """The refining network, completely described: with a state dict it can be built.

    Attributes:
        width: channels at full resolution; each halving doubles them. Divisible by 8 (groups of the norms).
        blocks_down: residual blocks of the encoder, finest level first.
        blocks_up: residual blocks of the decoder, coarsest level first; one level less.

    Raises:
        ModelError: the numbers do not fit together.
    """

    width: int = 16
    blocks_down: tuple[int, ...] = (1, 2, 2, 2)
    blocks_up: tuple[int, ...] = (1, 1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks_down", tuple(self.blocks_down))
        object.__setattr__(self, "blocks_up", tuple(self.blocks_up))
        if self.width < 8 or self.width % 8 or min(*self.blocks_down, *self.blocks_up) < 1:
            raise ModelError(f"the width is a multiple of 8 and every level has a block, got {self}")
        if len(self.blocks_down) < 2 or len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ModelError(f"the decoder has one level less than the encoder, got {self}")

    @property
    def multiple(self) -> int:
        """The sides of an input are multiples of this."""
        return int(2 ** (len(self.blocks_down) - 1))


class RefineNetwork(nn.Module):
    """MONAI's SegResNet (Myronenko, BrainLes 2018) on the channels of `Channel`; its answer is added to the draft.

    Args:
        spec: what to build.
        state: weights under this module's names; None for random ones.

    Raises:
        ModelError: tensors of ``state`` are missing, unexpected or of another shape.
    """

    def __init__(self, spec: RefineSpec, state: Mapping[str, Tensor] | None = None) -> None:
        from monai.networks.nets import SegResNet

        super().__init__()
        self.spec = spec
        self.body = SegResNet(
            spatial_dims=3,
            init_filters=spec.width,
            in_channels=len(Channel),
            out_channels=1,
            norm=("GROUP", {"num_groups": 8}),
            blocks_down=spec.blocks_down,
            blocks_up=spec.blocks_up,
        )
        self.draft_scale = nn.Parameter(torch.tensor(PRIOR_SCALE))
        if state is not None:
            try:
                self.load_state_dict(dict(state))
            except RuntimeError as error:
                raise ModelError(f"the weights do not fit the refining network: {error}") from error
            self.eval()

    def forward(self, channels: Tensor) -> Tensor:
        """Logits.

        Args:
            channels: [B, 7, A, B, C] in the order of `Channel`; sides are multiples of ``spec.multiple``.

        Returns:
            [B, 1, A, B, C] float32.
        """
        draft = channels[:, Channel.DRAFT, None].float()
        logits: Tensor = self.body(channels).float() + self.draft_scale * draft
        return logits
