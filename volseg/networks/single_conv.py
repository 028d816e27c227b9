"""3D convolutions of a single volume on the CPU: fast in float32, and with right gradients in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, pad

NATIVE_UP_TO = 20_480
"""Up to so many batch x channels x slices x rows PyTorch leaves oneDNN aside in float32 unless there are groups, a rule
made for images, by which a volume of 16 x 32 x 40 x 40 takes several times as long (`use_mkldnn` in ATen's
Convolution.cpp, PyTorch 2.15)."""

WRONG_DEPTH = 2
"""With so many slices oneDNN's gradient of the weights of a 3x3x3 convolution in bfloat16 is garbage, at times
infinite, on processors with AVX512-BF16 (PyTorch 2.15; ``tests/networks/test_single_conv.py`` compares with float32).
"""


class SingleConv3d(nn.Conv3d):
    """A `Conv3d` that PyTorch always gives to oneDNN on the CPU, and that learns what it should.

    Where PyTorch would not use oneDNN, the input is shown twice and each half of the output channels looks at one copy:
    the same sums, written as a convolution with two groups. Where oneDNN's gradient is wrong, a slice of zeros follows,
    as the padding does anyway. Parameters, their names and the answer stay the same.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.requires_grad and input.shape[2] == WRONG_DEPTH and self.padding[0] and _in_bfloat16_on_cpu(input):
            longer = pad(input, (0, 0, 0, 0, 0, 1))
            found = super()._conv_forward(longer, weight, bias)
            reach = self.dilation[0] * (self.kernel_size[0] - 1)
            depth = (WRONG_DEPTH + 2 * int(self.padding[0]) - reach - 1) // self.stride[0] + 1
            shortened: Tensor = found[:, :, :depth]
            return shortened
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


def _in_bfloat16_on_cpu(values: Tensor) -> bool:
    if values.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return values.dtype == torch.bfloat16


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
