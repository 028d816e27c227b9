"""A 3D network that looks at an object once more: image, draft mask and prompts in, a better mask out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from torch import Tensor, nn

from volseg.errors import ModelError
from volseg.networks.refine.config import RefineSpec
from volseg.networks.single_conv import as_single, with_single_convs


class Channel(IntEnum):
    """The input channels, in their order."""

    IMAGE = 0
    """Intensities in units of the window, centred and scaled."""
    RELATIVE = 1
    """Intensities against those inside of the draft."""
    DRAFT = 2
    """The draft: 1 inside, -1 outside."""
    INSIDE = 3
    """Clicks and scribbles on the object: high at the place, falling off around it."""
    OUTSIDE = 4
    """Clicks and scribbles beside the object."""
    BOX = 5
    """1 in a box, -1 elsewhere on its slice, or anywhere else if it is 3D; 0 where no box says anything."""
    DRAWN = 6
    """1 in a mask or lasso drawn on a slice."""
    LIKE_INSIDE = 7
    """1 where intensities are those at a click on the object and the click is near, falling to 0."""
    LIKE_OUTSIDE = 8
    """The same for clicks beside the object."""


class RefineNetwork(nn.Module):
    """MONAI's SegResNet (Myronenko, BrainLes 2018) on the channels of `Channel`.

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
            out_channels=2 if spec.walk else 1,
            norm=("GROUP", {"num_groups": 8}),
            blocks_down=spec.blocks_down,
            blocks_up=spec.blocks_up,
        )
        with_single_convs(self.body)
        if state is not None:
            try:
                self.load_state_dict(dict(state))
            except RuntimeError as error:
                raise ModelError(f"the weights do not fit the refining network: {error}") from error
            self.eval()

    def forward(self, channels: Tensor) -> Tensor:
        """Logits.

        Args:
            channels: [B, 9, A, B, C] in the order of `Channel`; sides are multiples of ``spec.multiple``.

        Returns:
            [B, 1, A, B, C] float32; with ``spec.walk`` [B, 2, A, B, C], the second how far to trust the first.
        """
        logits: Tensor = self.body(as_single(channels)).float()
        return logits
