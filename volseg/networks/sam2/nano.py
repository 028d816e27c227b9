"""sam2-nano's image trunk: residual convolutions where SAM 2 has a Hiera transformer.

A Hiera trunk trained from scratch on small data stays blind to the image for a long time; convolutions learn within
minutes. Everything above the trunk (feature pyramid, prompt encoder, mask decoder, memory) is SAM 2's own, so the
network is used and tracked exactly like Meta's.
"""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn

from volseg.networks.sam2.config import NANO_WIDTHS

NORM_GROUPS = 8
BLOCKS_PER_STAGE = (1, 2, 2, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm beside a (projected) shortcut.

    Args:
        channels_in: channels of the input ``[N, channels_in, H, W]``.
        channels_out: channels of the output ``[N, channels_out, H / stride, W / stride]``.
        stride: stride of the first convolution, 1 or 2.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, channels_out)
        self.activation = nn.GELU()
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """``[N, channels_in, H, W]`` to ``[N, channels_out, H / stride, W / stride]``."""
        hidden = self.activation(self.norm1(self.conv1(image)))
        output: Tensor = self.activation(self.norm2(self.conv2(hidden)) + self.shortcut(image))
        return output


class ConvTrunk(nn.Module):
    """A small residual network giving feature maps at strides 4, 8, 16 and 32.

    Its three input channels may be neighbouring slices: nothing here assumes colour.

    Args:
        channels_in: channels of the input image.
    """

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        half = NANO_WIDTHS[0] // 2
        self.stem = nn.Sequential(
            nn.Conv2d(channels_in, half, 3, 2, 1, bias=False),
            nn.GroupNorm(NORM_GROUPS, half),
            nn.GELU(),
            nn.Conv2d(half, NANO_WIDTHS[0], 3, 2, 1, bias=False),
            nn.GroupNorm(NORM_GROUPS, NANO_WIDTHS[0]),
            nn.GELU(),
        )
        stages = []
        width = NANO_WIDTHS[0]
        for index, (width_out, blocks) in enumerate(zip(NANO_WIDTHS, BLOCKS_PER_STAGE, strict=True)):
            layers = [ResidualBlock(width, width_out, 1 if index == 0 else 2)]
            layers += [ResidualBlock(width_out, width_out, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            width = width_out
        self.stages = nn.ModuleList(stages)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """``[N, C, S, S]`` to four maps ``[N, S / stride, S / stride, channels]`` (channels last)."""
        hidden = self.stem(pixel_values)
        maps = []
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden.permute(0, 2, 3, 1))
        return maps


class ConvVisionEncoder(nn.Module):
    """`ConvTrunk` under SAM 2's own feature pyramid; stands where transformers' ``Sam2VisionModel`` stands.

    Args:
        neck: the feature pyramid of a transformers ``Sam2VisionModel``.
    """

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.backbone = ConvTrunk()
        self.neck = neck

    def forward(self, pixel_values: Tensor, **_: object) -> SimpleNamespace:
        """Feature maps at strides 4, 8 and 16, named as transformers names them."""
        maps, positions = self.neck(self.backbone(pixel_values))
        return SimpleNamespace(fpn_hidden_states=maps[-3:][::-1], fpn_position_encoding=positions[-3:][::-1])
