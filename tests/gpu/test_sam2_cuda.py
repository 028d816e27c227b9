"""SAM 2 on CUDA (bfloat16) gives the masks it gives on a CPU (float32)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from volseg.inferers.tracking import FeatureCache, FramePrompts, Track, Tracker, TrackRequest, TrackSettings
from volseg.networks.sam2.config import Sam2Spec, Sam2Variant
from volseg.networks.sam2.network import Sam2Network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, and there is none"),
]

SIDE, COUNT, MIDDLE = 256, 12, 6
SMALLEST_DICE = 0.98
BOX = FramePrompts.box(70, 70, 160, 160)
CLICK = FramePrompts([[115, 115]], [1])


def balls() -> Tensor:
    """Frames ``[N, 3, S, S]`` of a bright ball with a smooth edge."""
    axes = [torch.linspace(-1, 1, COUNT), torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    radius = ((z / 1.6) ** 2 + ((y + 0.1) / 0.35) ** 2 + ((x + 0.1) / 0.35) ** 2).sqrt()
    grey = 0.3 + 0.4 * torch.sigmoid((1 - radius) * 40)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (grey[:, None] - mean[:, None, None]) / std[:, None, None]


def track(network: Sam2Network, images: Tensor, prompts: dict[int, dict[int, FramePrompts]]) -> dict[int, Track]:
    source = FeatureCache(network, lambda frame: images[frame], len(images), key="balls")
    settings = TrackSettings(stop_after_empty=None)
    return Tracker(network, source, settings).track({name: TrackRequest(one) for name, one in prompts.items()})


def volume(found: Track) -> Tensor:
    """``[N, S / 4, S / 4]`` bool."""
    empty = torch.full((SIDE // 4, SIDE // 4), -1.0)
    masks = [found.mask(frame).logits for frame in range(COUNT)]
    return torch.stack([empty if mask is None else mask for mask in masks]) > 0


def test_masks_equal_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    network = Sam2Network(Sam2Spec.nano(SIDE))
    images = balls()
    prompts = {1: {MIDDLE: BOX}, 2: {MIDDLE: CLICK}, 3: {2: BOX, 9: CLICK}}
    on_cpu = track(network, images, prompts)
    on_cuda = track(network.cuda(), images, prompts)
    for name, expected in on_cpu.items():
        assert on_cuda[name].reached() == expected.reached() == tuple(range(COUNT))
        want, got = volume(expected), volume(on_cuda[name])
        assert 0.01 < float(want.float().mean()) < 0.9, "a mask of nothing or of everything proves nothing"
        assert 2 * int((want & got).sum()) >= SMALLEST_DICE * int(want.sum() + got.sum()), name


@pytest.mark.parametrize("variant", [Sam2Variant.TINY, Sam2Variant.LARGE])
def test_hiera_tracks_and_corrects(variant: Sam2Variant) -> None:
    torch.manual_seed(0)
    network = Sam2Network(Sam2Spec(variant, image_size=SIDE)).cuda()
    images = balls()
    source = FeatureCache(network, lambda frame: images[frame], COUNT, key="balls")
    tracker = Tracker(network, source, TrackSettings(stop_after_empty=None))
    first = tracker.track({1: TrackRequest({2: BOX})})[1]
    assert first.reached() == tuple(range(COUNT))
    after = tracker.track({1: TrackRequest({2: BOX, 8: CLICK}, previous=first, exact=True)})[1]
    assert set(after.prompted) == {2, 8}
    assert source.encodes == COUNT, "a correction encodes nothing again"
    for one in (first, after):
        scores = torch.tensor(list(one.presence().values()))
        assert bool(torch.isfinite(scores).all())
