"""3D convolutions of a single volume, on processors without bfloat16 arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

NATIVE_UP_TO = 20_480
"""Up to so many batch x channels x slices x rows PyTorch leaves oneDNN aside in float32 unless there are groups, a rule
made for images, by which a volume of 16 x 32 x 40 x 40 takes several times as long (`use_mkldnn` in ATen's
Convolution.cpp, PyTorch 2.15)."""


class SingleConv3d(nn.Conv3d):
    """A `Conv3d` that PyTorch always gives to oneDNN on the CPU.

    Where PyTorch would not, the input is shown twice and each half of the output channels looks at one copy: the same
    sums, written as a convolution with two groups. Parameters, their names and the answer stay the same.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        left_out = input.shape[:4].numel() <= NATIVE_UP_TO and input.dim() == 5 and len(input) == 1
        if not left_out or not _in_float32_on_cpu(input):
            result: Tensor = super()._conv_forward(input, weight, bias)
            return result
        twice = torch.cat([input, input], dim=1)
        stride: Any = self.stride
        return conv3d(twice, weight, bias, stride, self.padding, self.dilation, groups=2)


def with_single_convs(network: nn.Module) -> None:
    """Replaces convolutions of a network by `SingleConv3d` where these can do the same.

    Args:
        network: changed in place; its state dict stays as it is.
    """
    for name, child in list(network.named_children()):
        with_single_convs(child)
        if type(child) is nn.Conv3d and _can(child):
            setattr(network, name, _like(child))


def as_single(volumes: Tensor) -> Tensor:
    """Volumes [B, C, I, J, K] with channels last in memory, where `SingleConv3d` helps; there it is faster still."""
    return volumes.contiguous(memory_format=torch.channels_last_3d) if _in_float32_on_cpu(volumes) else volumes


def _in_float32_on_cpu(values: Tensor) -> bool:
    half = torch.is_autocast_enabled("cpu")
    return values.device.type == "cpu" and values.dtype == torch.float32 and not half


def _can(conv: nn.Conv3d) -> bool:
    """Wide enough to be worth it, and nothing that `SingleConv3d` leaves out."""
    return (
        conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.out_channels % 16 == 0
        and conv.kernel_size != (1,) * 3
    )


def _like(conv: nn.Conv3d) -> SingleConv3d:
    sides: dict[str, Any] = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
    sides |= {"dilation": conv.dilation, "bias": conv.bias is not None}
    result = SingleConv3d(conv.in_channels, conv.out_channels, **sides, device="meta")
    result.weight, result.bias = conv.weight, conv.bias
    return result.train(conv.training)
