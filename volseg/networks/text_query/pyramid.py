"""MONAI's encoder-decoders as feature pyramids: the decoder's features at every resolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from volseg.networks.text_query.config import Backbone, TextQuerySpec


def make_pyramid(spec: TextQuerySpec) -> nn.Module:
    """A module that takes windows [B, C, I, J, K] to features, a list from full resolution down."""
    makers: dict[Backbone, Callable[[TextQuerySpec], nn.Module]] = {
        Backbone.DYNUNET: DynUNetPyramid,
        Backbone.SEGRESNET: SegResNetPyramid,
        Backbone.SWIN_UNETR: SwinUnetrPyramid,
    }
    return makers[spec.backbone](spec)


class DynUNetPyramid(nn.Module):
    """``monai.networks.nets.DynUNet`` without its output."""

    def __init__(self, spec: TextQuerySpec) -> None:
        super().__init__()
        from monai.networks.nets import DynUNet

        down = spec.levels - 1
        net: Any = DynUNet(
            spatial_dims=3,
            in_channels=spec.in_channels,
            out_channels=1,
            kernel_size=[3] * spec.levels,
            strides=[1] + [2] * down,
            upsample_kernel_size=[2] * down,
            filters=list(spec.widths),
            norm_name=("INSTANCE", {"affine": True}),
        )
        # The parts are called one by one below; MONAI's recursion over the same parts would store them twice.
        self.input_block = net.input_block
        self.downsamples = net.downsamples
        self.bottleneck = net.bottleneck
        self.upsamples = net.upsamples

    def forward(self, windows: Tensor) -> list[Tensor]:
        """See ``make_pyramid``."""
        skips = [self.input_block(windows)]
        for block in self.downsamples:
            skips.append(block(skips[-1]))
        features = [self.bottleneck(skips[-1])]
        for up, skip in zip(self.upsamples, reversed(skips), strict=True):
            features.append(up(features[-1], skip))
        return features[::-1]


class SegResNetPyramid(nn.Module):
    """``monai.networks.nets.SegResNet`` without its output."""

    def __init__(self, spec: TextQuerySpec) -> None:
        super().__init__()
        from monai.networks.nets import SegResNet

        self.net: Any = SegResNet(
            spatial_dims=3,
            init_filters=spec.widths[0],
            in_channels=spec.in_channels,
            norm=("GROUP", {"num_groups": 8}),
            use_conv_final=False,
            blocks_down=(1,) * (spec.levels - 2) + (2, 2),
            blocks_up=(1,) * (spec.levels - 1),
        )
        self.net.conv_final = nn.Identity()

    def forward(self, windows: Tensor) -> list[Tensor]:
        """See ``make_pyramid``."""
        x, skips = self.net.encode(windows)
        features = [x]
        for up, block, skip in zip(self.net.up_samples, self.net.up_layers, skips[-2::-1], strict=True):
            features.append(block(up(features[-1]) + skip))
        return features[::-1]


class SwinUnetrPyramid(nn.Module):
    """``monai.networks.nets.SwinUNETR`` without its output and its coarsest stage, which has no decoder of its own."""

    def __init__(self, spec: TextQuerySpec) -> None:
        super().__init__()
        from monai.networks.nets import SwinUNETR

        self.net: Any = SwinUNETR(
            in_channels=spec.in_channels, out_channels=1, feature_size=spec.widths[0], spatial_dims=3
        )
        self.net.out = nn.Identity()

    def forward(self, windows: Tensor) -> list[Tensor]:
        """See ``make_pyramid``."""
        net = self.net
        hidden = net.swinViT(windows, net.normalize)
        coarse = net.decoder5(net.encoder10(hidden[4]), hidden[3])
        features = [coarse]
        skips = (net.encoder4(hidden[2]), net.encoder3(hidden[1]), net.encoder2(hidden[0]), net.encoder1(windows))
        for up, skip in zip((net.decoder4, net.decoder3, net.decoder2, net.decoder1), skips, strict=True):
            features.append(up(features[-1], skip))
        return features[::-1]
