"""Networks that are given the mask of the frame before: what they get; corrections still agree with fresh runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from tracking_fakes import SIDE, FakeNetwork, images

from volseg.inferers.slices.crop import Crop
from volseg.inferers.tracking import FeatureCache, FramePrompts, FrameResult, PromptedFrame, Tracker, TrackRequest
from volseg.inferers.tracking.reach import Reach
from volseg.networks.sam2 import Sam2Spec
from volseg.networks.sam2.carry import (
    FADE,
    LOGIT_LIMIT,
    MAX_TRAVELLED,
    RADII,
    SHORTEST_REACH,
    carried_mask,
    expected_reach,
)
from volseg.networks.sam2.features import FrameOutput
from volseg.networks.sam2.network import Sam2Network

CLICK = FramePrompts([[20, 8]], [1])
COUNT, STEP = 16, 4.0


class Listening(FakeNetwork):
    """Remembers the mask prompts that it was given, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, carry_mask=True)
        self.carried: list[Tensor] = []
        self.known: list[list[bool]] = []

    def decode(self, features, *, mask_logits=None, known=None, **others) -> FrameOutput:  # type: ignore[no-untyped-def]
        if mask_logits is not None:
            self.carried.append(mask_logits)
        if known is not None:
            self.known.append(known.tolist())
        return super().decode(features, mask_logits=mask_logits, **others)


def tracker(network: FakeNetwork | Sam2Network, present: set[int]) -> Tracker:
    stack = images(COUNT, present)
    source = FeatureCache(network, lambda frame: stack[frame], COUNT, key="k", step_pixels=STEP)  # type: ignore[arg-type]
    return Tracker(network, source)  # type: ignore[arg-type]


def test_reach_is_counted_in_radii_of_the_mask() -> None:
    side = 32
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = torch.where((rows - 16) ** 2 + (columns - 16) ** 2 <= 10**2, 7.0, -7.0)[None, None]
    # Mask pixels are four frame pixels wide: the radius is 40, ten frames of 4 pixels.
    assert float(expected_reach(disc, torch.tensor([STEP]))) == pytest.approx(RADII * 10, rel=0.02)
    assert float(expected_reach(-disc.abs(), torch.tensor([STEP]))) == SHORTEST_REACH


def test_carried_masks_fade_with_distance() -> None:
    logits = torch.tensor([30.0, -2.0, -1024.0]).reshape(3, 1, 1, 1)
    faded = carried_mask(logits, torch.tensor([0.0, 2.0, 50.0])).flatten()
    assert faded.tolist() == [LOGIT_LIMIT, -2.0 - 2 * FADE, -LOGIT_LIMIT - 4 * FADE]


def test_each_frame_is_given_the_mask_before_it() -> None:
    network = Listening()
    track = tracker(network, set(range(COUNT))).track({1: TrackRequest({0: CLICK})})[1]
    assert len(network.carried) == COUNT - 1
    prompted = track.prompted[0].result.logits
    assert prompted is not None
    area = int((prompted > 0).sum()) * 16
    reach = RADII * math.sqrt(area / math.pi) / STEP
    for frame, given in enumerate(network.carried, 1):
        before = track.mask(frame - 1).logits
        assert before is not None
        faded = FADE * min(4.0, frame / reach)
        assert torch.allclose(given[0, 0], before.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) - faded, atol=1e-4)


def test_a_limit_is_where_the_object_is_expected_to_end() -> None:
    network = Listening()
    track = tracker(network, set(range(COUNT))).track({1: TrackRequest({4: CLICK}, first=4, last=8)})[1]
    before = track.prompted[4].result.logits
    assert before is not None
    assert len(network.carried) == 4
    assert torch.allclose(network.carried[0][0, 0], before.float().clamp(-10, 10) - FADE / 4.5, atol=1e-4)


def test_an_absent_object_is_carried_as_an_empty_mask() -> None:
    network = Listening()
    tracker(network, {0, 1}).track({1: TrackRequest({0: CLICK})})
    seen, gone = network.carried[1], network.carried[2]
    assert float(seen.max()) > float(seen.min())
    assert float(gone.max()) == float(gone.min()) <= -LOGIT_LIMIT


def test_an_object_on_two_frames_is_known_to_be_on_those_between() -> None:
    network = Listening()
    tracker(network, set(range(COUNT))).track({1: TrackRequest({4: CLICK, 7: CLICK})})
    # Both passes come by frames 5 and 6; beyond the prompts there is one pass each.
    assert sum(all(one) for one in network.known) == 2
    assert sum(one == [True, True] for one in network.known) + sum(one == [True] for one in network.known) >= 2
    assert sum(value for one in network.known for value in one) == 4


def test_a_pass_that_lost_the_object_between_two_prompts_has_no_say() -> None:
    tracks = tracker(FakeNetwork(), {*range(9), 12, 13}).track({1: TrackRequest({2: CLICK, 13: CLICK})})
    assert [f for f in range(COUNT) if tracks[1].mask(f).logits is not None] == [*range(9), 12, 13]


def test_reach_follows_from_corrections() -> None:
    def frame(pixels: int) -> PromptedFrame:
        logits = torch.full((32, 32), -5.0)
        logits.view(-1)[:pixels] = 5.0
        result = FrameResult(logits if pixels else None, 3.0 if pixels else -3.0, torch.zeros(8))
        return PromptedFrame(CLICK, result, torch.zeros(64, 64))

    own = RADII * math.sqrt(400 * 16 / math.pi) / STEP
    alone = Reach({10: frame(400)}, {10}, None, None, STEP)
    assert alone.travelled(13) == pytest.approx(3 / own)
    # Half the area at six frames: an ellipsoid that ends at 6 / sqrt(1 / 2).
    thinner = Reach({10: frame(400), 16: frame(200)}, {10}, None, None, STEP)
    assert thinner.travelled(16) == pytest.approx(math.sqrt(0.5))
    assert thinner.travelled(7) == pytest.approx(3 / own)
    ended = Reach({10: frame(400), 14: frame(0)}, {10}, None, None, STEP)
    assert ended.travelled(14) == pytest.approx(1.0)
    limited = Reach({10: frame(400), 16: frame(200)}, {10}, 5, None, STEP)
    assert limited.travelled(5) == pytest.approx(5 / 5.5)
    assert Reach({10: frame(0)}, {10}, None, None, STEP).travelled(11) == MAX_TRAVELLED


def test_corrections_agree_with_fresh_runs() -> None:
    torch.manual_seed(0)
    network = Sam2Network(replace(Sam2Spec.nano(SIDE), carry_mask=True))
    plain = Sam2Network(Sam2Spec.nano(SIDE), network.weights())
    tracks = tracker(network, set(range(COUNT)))
    first = tracks.track({1: TrackRequest({8: CLICK})})[1]
    prompts = {8: CLICK, 11: FramePrompts([[30, 30]], [0])}
    corrected = tracks.track({1: TrackRequest(prompts, previous=first, exact=True)})[1]
    fresh = tracks.track({1: TrackRequest(prompts)})[1]
    without = tracker(plain, set(range(COUNT))).track({1: TrackRequest(prompts)})[1]
    differs = False
    for frame in range(COUNT):
        one, other, third = (t.mask(frame).logits for t in (corrected, fresh, without))
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)
        differs |= (one is None) != (third is None) or (one is not None and not torch.equal(one, third))  # type: ignore[arg-type]
    assert differs


def test_distance_between_slices_in_pixels_of_the_frame() -> None:
    assert Crop(0, 0, 40, 20).step_pixels((3.0, 1.0, 2.0), 128) == pytest.approx(3 * 128 / 40)
