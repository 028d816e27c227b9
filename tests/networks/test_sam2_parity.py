"""Same masks as Meta's predictor and transformers' session, given the same weights and frames (fp32, 256 pixels)."""

from __future__ import annotations

import numpy as np
import pytest
from sam2_oracles import SIDE, frames, meta_pass, meta_predictor, transformers_pass, volseg_network
from torch import Tensor

from volseg.inferers.tracking import (
    FeatureCache,
    FramePrompts,
    Precision,
    Track,
    Tracker,
    TrackRequest,
    TrackSettings,
)

TOLERANCE = 1e-3
AS_REFERENCE = TrackSettings(max_conditioning_frames=None, stop_after_empty=None, keep_logits=Precision.SINGLE)

rectangle = np.zeros((SIDE, SIDE), bool)
rectangle[60:140, 80:190] = True
CLICK = FramePrompts([[100, 120]], [1])
CLICKS = FramePrompts([[100, 120], [50, 60.5]], [1, 0])
BOX = FramePrompts.box(60, 70, 180, 200, inside=[[100, 100]], outside=[[20, 30]])
MASK = FramePrompts(mask=rectangle)
MASK_AND_CLICK = FramePrompts([[30, 40]], [1], mask=rectangle)

CASES = [
    ("tiny", 5, {2: CLICK}),
    ("tiny", 9, {2: CLICKS, 5: BOX}),
    ("tiny", 5, {2: MASK}),
    ("tiny", 5, {1: MASK, 3: MASK_AND_CLICK}),
    ("tiny 2.0", 5, {1: CLICKS, 3: BOX}),
    ("tiny 2.0", 4, {1: MASK}),
    ("small", 4, {1: CLICK, 2: BOX}),
    ("base_plus", 4, {1: BOX, 2: MASK}),
    ("large", 3, {1: BOX}),
]


def volseg_track(name: str, images: Tensor, prompts: dict[int, FramePrompts]) -> Track:
    network = volseg_network(name)
    source = FeatureCache(network, lambda frame: images[frame], len(images), key="images")
    return Tracker(network, source, AS_REFERENCE).track({"object": TrackRequest(prompts)})["object"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "count", "prompts"), CASES)
def test_logits_equal_both_references(name: str, count: int, prompts: dict[int, FramePrompts]) -> None:
    images = frames(count)
    track = volseg_track(name, images, prompts)
    references = [meta_pass(meta_predictor(name), images, prompts, reverse) for reverse in (False, True)]
    if all(one.mask is None for one in prompts.values()):
        # transformers decodes mask prompts with three candidates, so its object pointers are not Meta's
        network = volseg_network(name)
        references += [transformers_pass(network, images, prompts, reverse) for reverse in (False, True)]
    compared = 0
    for number, reference in enumerate(references):
        passed = track.backward if number % 2 else track.forward
        assert set(reference) == {*passed, *track.prompted}
        for frame, expected in reference.items():
            result = track.prompted[frame].result if frame in prompts else passed[frame]
            if result.logits is None:
                assert float(expected.max()) <= 0
                continue
            assert float(expected.std()) > 0.1, "a constant mask proves nothing"
            assert float((result.logits - expected).abs().max()) < TOLERANCE
            compared += 1
    assert compared >= len(references) * count // 2


def test_masks_depend_on_memory() -> None:
    """Otherwise the parity above would not notice wrong memories."""
    images = frames(5)
    one = volseg_track("tiny", images, {2: CLICK}).forward[4].logits
    other = volseg_track("tiny", images, {2: MASK}).forward[4].logits
    assert one is not None
    assert other is not None
    assert float((one - other).abs().max()) > 100 * TOLERANCE
