from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from volseg.networks.refine.config import RefineSpec
from volseg.networks.refine.network import Channel, RefineNetwork
from volseg.networks.single_conv import SingleConv3d, with_single_convs

SLOW = "aten::slow_conv3d"
"""What PyTorch's operator without oneDNN is called."""


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, 16, 3, padding=1),
        nn.Conv3d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.Sequential(nn.Conv3d(32, 16, (1, 3, 3), padding=(0, 2, 2), dilation=(1, 2, 2))),
        nn.Conv3d(16, 1, 1),
    )


def _slow_calls(network: nn.Module, volumes: torch.Tensor) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        network(volumes).sum().backward()
    return sum(event.count for event in seen.key_averages() if event.key == SLOW)


def test_answers_and_gradients_stay_the_same() -> None:
    torch.manual_seed(0)
    plain = _network()
    single = copy.deepcopy(plain)
    with_single_convs(single)
    assert sum(isinstance(part, SingleConv3d) for part in single.modules()) == 3
    assert list(single.state_dict()) == list(plain.state_dict())
    for shape in ((1, 3, 9, 10, 11), (2, 3, 6, 7, 8), (1, 3, 8, 40, 80)):
        volumes = torch.randn(shape)
        answers = [network(volumes) for network in (plain, single)]
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)
        for network, answer in zip((plain, single), answers, strict=True):
            network.zero_grad()
            answer.square().mean().backward()
        for before, after in zip(plain.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(before.grad, after.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
def test_the_second_look_never_falls_back_to_slow_convolutions() -> None:
    volumes = torch.randn(1, len(Channel), 32, 40, 40)
    plain = nn.Conv3d(len(Channel), 16, 3, padding=1)
    assert _slow_calls(plain, volumes) == 1, "PyTorch's rule has changed; SingleConv3d may go"
    network = RefineNetwork(RefineSpec())
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv3d)]
    # Kernels of one voxel are plain products of matrices: there is nothing to gain.
    products = [part for part in convolutions if part.kernel_size == (1, 1, 1)]
    assert len(convolutions) > len(products) + 20
    assert _slow_calls(network, volumes) == len(products)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_in_bfloat16_are_those_in_float32(depth: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(32, 32, 3, stride=stride, padding=dilation, dilation=dilation))
    with_single_convs(network)
    volumes, weights = torch.randn(1, 32, depth, 6, 5), torch.randn(())
    found = []
    for half in (False, True):
        network.zero_grad()
        shown = volumes.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            answer = network(shown).float()
        (answer.square() * weights).sum().backward()
        found.append((answer.detach(), shown.grad, network[0].weight.grad, network[0].bias.grad))
    for exact, rounded in zip(*found, strict=True):
        assert exact.shape == rounded.shape
        assert float((exact - rounded).norm() / exact.norm()) < 0.02
