"""The tracker on a network with known answers: what is computed, kept, stopped and corrected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tracking_fakes import SIDE, FakeNetwork, images

from volseg.errors import Cancelled, ModelError, PromptError
from volseg.inferers.tracking import (
    Direction,
    FeatureCache,
    FramePrompts,
    FrameResult,
    Precision,
    PromptedFrame,
    Track,
    Tracker,
    TrackRequest,
    TrackSettings,
)
from volseg.networks.sam2 import Sam2Spec
from volseg.networks.sam2.network import Sam2Network

CLICK = FramePrompts([[20, 8]], [1])
TWO_CLICKS = FramePrompts([[20, 8], [22, 8]], [1, 1])


def make(
    present: set[int], count: int = 20, *, budget: int = 1 << 20, key: str = "k", spill: Path | None = None, **settings
) -> tuple[Tracker, FeatureCache]:  # type: ignore[no-untyped-def]
    network = FakeNetwork()
    stack = images(count, present)
    source = FeatureCache(
        network,  # type: ignore[arg-type]
        lambda frame: stack[frame],
        count,
        key=key,
        byte_budget=budget,
        spill_folder=spill,
    )
    return Tracker(network, source, TrackSettings(**settings)), source  # type: ignore[arg-type]


def same(one: Track, other: Track) -> bool:
    """Bit for bit the same answer and the same state of both passes."""
    if one.reached() != other.reached() or set(one.prompted) != set(other.prompted):
        return False
    for mine, theirs in ((one.forward, other.forward), (one.backward, other.backward)):
        if set(mine) != set(theirs):
            return False
        for frame, result in mine.items():
            a, b = result.logits, theirs[frame].logits
            if (a is None) != (b is None) or result.score != theirs[frame].score:
                return False
            if a is not None and b is not None and not torch.equal(a, b):
                return False
    return True


def test_an_object_is_found_on_its_frames_and_nowhere_else() -> None:
    tracker, _ = make(set(range(5, 12)))
    track = tracker.track({"liver": TrackRequest({8: CLICK})})["liver"]
    with_mask = [frame for frame in range(20) if track.mask(frame).logits is not None]
    assert with_mask == list(range(5, 12))
    for frame in with_mask:
        logits = track.mask(frame).logits
        assert logits is not None
        expected = images(20, {frame})[frame, 0, 2::4, 2::4] > 0.5
        assert torch.equal(logits > 0, expected)
    presence = track.presence()
    assert {frame for frame, score in presence.items() if score > 0} == set(range(5, 12))


def test_passes_stop_after_the_object_has_ended() -> None:
    tracker, source = make(set(range(5, 12)), stop_after_empty=3)
    track = tracker.track({1: TrackRequest({8: CLICK})})[1]
    assert track.reached() == tuple(range(2, 15))
    assert source.encodes == 13
    thorough, _ = make(set(range(5, 12)), stop_after_empty=None)
    whole = thorough.track({1: TrackRequest({8: CLICK})})[1]
    assert whole.reached() == tuple(range(20))
    for frame in range(5, 12):
        a, b = track.mask(frame).logits, whole.mask(frame).logits
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_a_lost_object_is_found_again_at_its_next_prompt() -> None:
    tracker, source = make({*range(3), *range(15, 20)}, stop_after_empty=2)
    track = tracker.track({1: TrackRequest({1: CLICK, 16: CLICK})})[1]
    assert sorted(track.forward) == [2, 3, 4, 17, 18, 19]
    assert sorted(track.backward) == [0, 13, 14, 15]
    assert source.encodes == len(track.reached())


def test_limits_hold_but_prompts_stay() -> None:
    tracker, _ = make(set(range(20)))
    track = tracker.track({1: TrackRequest({8: CLICK, 15: CLICK}, first=6, last=10)})[1]
    assert track.reached() == (6, 7, 8, 9, 10, 15)


def test_each_frame_is_encoded_once_for_all_objects() -> None:
    tracker, source = make(set(range(20)))
    requests = {index: TrackRequest({index: CLICK}) for index in range(0, 12, 3)}
    tracker.track(requests)
    assert source.encodes == 20


def test_objects_and_directions_share_batches() -> None:
    tracker, _ = make(set(range(20)))
    tracker.track({index: TrackRequest({10: CLICK}) for index in range(4)})
    network = tracker.network
    assert isinstance(network, FakeNetwork)
    assert len(network.signatures) == 10
    assert [rows for rows, _, _ in network.signatures] == [8] * 9 + [4]
    # conditioning frame and up to six tracked ones; as many pointers as frames were seen
    assert [memories for _, memories, _ in network.signatures] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
    assert [pointers for _, _, pointers in network.signatures] == list(range(1, 11))


def test_together_is_as_one_by_one() -> None:
    requests = {
        "a": TrackRequest({4: CLICK}),
        "b": TrackRequest({9: TWO_CLICKS, 15: CLICK}),
        "c": TrackRequest({9: FramePrompts(mask=np.eye(SIDE, dtype=bool))}, first=3, last=12),
    }
    together = make(set(range(20)))[0].track(requests)
    for name, request in requests.items():
        assert same(together[name], make(set(range(20)))[0].track({name: request})[name])


def test_rows_of_the_real_network_do_not_influence_each_other() -> None:
    torch.manual_seed(1)
    network = Sam2Network(Sam2Spec.nano(128))
    stack = torch.nn.functional.interpolate(torch.randn(6, 3, 16, 16), (128, 128), mode="bilinear")
    requests = {i: TrackRequest({1 + i % 3: FramePrompts.box(9 * i, 20, 9 * i + 50, 80)}) for i in range(5)}
    requests[5] = TrackRequest({2: FramePrompts(mask=np.eye(128, dtype=bool)), 4: TWO_CLICKS})

    def run(some: dict[int, TrackRequest]) -> dict[int, Track]:
        source = FeatureCache(network, lambda frame: stack[frame], len(stack), key="k")
        return Tracker(network, source, TrackSettings(stop_after_empty=None, keep_logits=Precision.SINGLE)).track(some)

    together = run(requests)
    compared = 0
    for index, request in requests.items():
        alone = run({index: request})[index]
        for frame in range(6):
            a, b = together[index].mask(frame), alone.mask(frame)
            assert a.score == pytest.approx(b.score, abs=1e-4)
            assert (a.logits is None) == (b.logits is None)
            if a.logits is not None and b.logits is not None:
                assert torch.allclose(a.logits, b.logits, atol=1e-4)
                compared += 1
    assert compared > 12


def test_rows_are_limited() -> None:
    tracker, _ = make(set(range(20)), rows_per_batch=3)
    tracks = tracker.track({index: TrackRequest({10: CLICK}) for index in range(4)})
    network = tracker.network
    assert isinstance(network, FakeNetwork)
    assert max(rows for rows, _, _ in network.signatures) == 3
    assert same(tracks[0], make(set(range(20)))[0].track({0: TrackRequest({10: CLICK})})[0])


def test_between_prompts_both_passes_are_weighted_by_distance() -> None:
    def result(value: float) -> FrameResult:
        return FrameResult(torch.full((2, 2), value), value, torch.zeros(4))

    prompted = PromptedFrame(CLICK, result(1.0), torch.zeros(1))
    track = Track(
        "k",
        20,
        0,
        19,
        {2: prompted, 12: prompted},
        {4: result(8.0), 7: result(50.0), 11: result(6.0), 13: result(3.0)},
        {4: result(-2.0), 7: result(-4.0), 1: result(5.0)},
    )
    expected = {4: 0.8 * 8 - 0.2 * 2, 7: 0.5 * 10 - 0.5 * 4, 13: 3.0, 1: 5.0, 2: 1.0}
    for frame, value in expected.items():
        fused = track.mask(frame)
        assert fused.logits is not None
        assert torch.allclose(fused.logits, torch.tensor(value), atol=1e-5)
        assert fused.score == pytest.approx(value)
    # the forward pass alone came to 11: a pass that lost the object between two frames that show it has no say
    kept = track.mask(11).logits
    assert kept is not None
    assert torch.allclose(kept, torch.tensor(6.0))
    absent = replace(prompted, result=FrameResult(None, -3.0, torch.zeros(4)))
    ended = replace(track, prompted={2: prompted, 12: absent})
    # one tenth of the way to a frame without the object: there the pass that comes from it counts
    assert ended.mask(11).logits is None
    assert ended.mask(11).score == pytest.approx(0.1 * 6 - 0.9 * 10)
    assert track.mask(18).logits is None
    assert track.mask(18).score < 0


def test_a_click_on_a_tracked_frame_counts_and_undo_restores_every_bit() -> None:
    tracker, source = make(set(range(20)))
    first = tracker.track({1: TrackRequest({10: CLICK})})[1]
    before = {frame: first.mask(frame).logits for frame in range(20)}
    encodes = source.encodes
    second = tracker.track({1: TrackRequest({10: CLICK, 14: TWO_CLICKS}, previous=first)})[1]
    assert 14 in second.prompted
    changed = second.mask(14).logits
    assert changed is not None
    assert not torch.equal(changed, before[14])
    assert source.encodes == encodes, "encoded frames are used again"
    for frame, logits in before.items():
        again = first.mask(frame).logits
        assert logits is not None
        assert again is not None
        assert torch.equal(again, logits)


def test_exact_correction_is_a_fresh_run() -> None:
    tracker, _ = make(set(range(3, 17)))
    first = tracker.track({1: TrackRequest({10: CLICK})})[1]
    prompts = {10: CLICK, 13: TWO_CLICKS, 5: CLICK}
    corrected = tracker.track({1: TrackRequest(prompts, previous=first, exact=True)})[1]
    assert corrected.prompted[10] is first.prompted[10], "unchanged prompts are not decoded again"
    assert same(corrected, make(set(range(3, 17)))[0].track({1: TrackRequest(prompts)})[1])


def test_unchanged_requests_cost_nothing() -> None:
    tracker, _ = make(set(range(20)))
    first = tracker.track({1: TrackRequest({10: CLICK}), 2: TrackRequest({4: CLICK})})
    network = tracker.network
    assert isinstance(network, FakeNetwork)
    network.decoded_rows = 0
    second = tracker.track(
        {
            index: TrackRequest(dict(one), previous=first[index])
            for index, one in ((1, {10: FramePrompts([[20, 8]], [1])}), (2, {4: CLICK}))
        }
    )
    assert second[1] is first[1]
    assert second[2] is first[2]
    assert network.decoded_rows == 0


def test_outward_correction_stops_where_masks_do_not_change() -> None:
    tracker, _ = make(set(range(60)), 60, stop_after_unchanged=2)
    first = tracker.track({1: TrackRequest({10: CLICK})})[1]
    network = tracker.network
    assert isinstance(network, FakeNetwork)
    network.decoded_rows = 0
    corrected = tracker.track({1: TrackRequest({10: CLICK, 40: CLICK}, previous=first)})[1]
    # the masks of this network do not depend on prompts: one prompt and two frames either way
    assert network.decoded_rows == 5
    assert corrected.reached() == tuple(range(60))
    assert corrected.forward[20] is first.forward[20]
    assert corrected.forward[41] is not first.forward[41]
    # behind the new prompt the backward pass agreed with the forward pass, which stands in for it
    assert corrected.backward[20] is first.forward[20]
    assert corrected.backward[39] is not first.forward[39]
    assert sorted(corrected.backward) == [*range(10), *range(11, 40)]
    for frame in range(60):
        one, other = corrected.mask(frame).logits, first.mask(frame).logits
        assert one is not None
        assert other is not None
        assert torch.equal(one > 0, other > 0)


def test_outward_correction_computes_what_a_removed_prompt_held() -> None:
    tracker, _ = make(set(range(20)))
    both = tracker.track({1: TrackRequest({5: CLICK, 12: TWO_CLICKS})})[1]
    one = tracker.track({1: TrackRequest({5: CLICK}, previous=both)})[1]
    assert one.reached() == tuple(range(20))
    assert 12 in one.forward
    assert not any(frame > 5 for frame in one.backward)
    other = tracker.track({1: TrackRequest({12: TWO_CLICKS}, previous=both)})[1]
    assert other.reached() == tuple(range(20))
    assert 5 in other.backward
    assert min(other.forward) == 13


def test_outward_correction_follows_wider_limits_and_an_earlier_prompt() -> None:
    tracker, _ = make(set(range(20)))
    narrow = tracker.track({1: TrackRequest({10: CLICK}, first=8, last=12)})[1]
    wide = tracker.track({1: TrackRequest({10: CLICK}, first=4, last=15, previous=narrow)})[1]
    assert wide.reached() == tuple(range(4, 16))
    assert wide.forward[11] is narrow.forward[11]
    earlier = tracker.track({1: TrackRequest({6: CLICK, 10: CLICK}, first=4, last=15, previous=wide)})[1]
    assert sorted(earlier.forward) == [7, 8, 9, 11, 12, 13, 14, 15]
    shorter = tracker.track({1: TrackRequest({10: CLICK}, first=9, last=11, previous=wide)})[1]
    assert shorter.reached() == (9, 10, 11)


def test_a_track_of_other_frames_is_not_reused() -> None:
    first = make(set(range(20)), key="one image")[0].track({1: TrackRequest({10: CLICK})})[1]
    other = make(set(range(5, 15)), key="another image")[0]
    track = other.track({1: TrackRequest({10: CLICK}, previous=first)})[1]
    assert track.source_key == "another image"
    assert same(track, make(set(range(5, 15)), key="another image")[0].track({1: TrackRequest({10: CLICK})})[1])


def test_no_prompts_give_an_empty_track() -> None:
    tracker, _ = make(set(range(20)))
    first = tracker.track({1: TrackRequest({10: CLICK})})[1]
    assert tracker.track({1: TrackRequest({}, previous=first)})[1].reached() == ()
    assert tracker.track({1: TrackRequest({})})[1].reached() == ()


def test_masks_appear_as_they_are_made() -> None:
    tracker, source = make(set(range(20)))
    steps = tracker.stream({1: TrackRequest({10: CLICK})})
    first = next(steps)
    assert (first.frame, first.direction) == (10, None)
    assert source.encodes == 1
    seen = {(update.frame, update.direction) for update in steps}
    assert seen == {(f, Direction.FORWARD if f > 10 else Direction.BACKWARD) for f in range(20) if f != 10}


def test_progress_rises_to_one_and_can_cancel() -> None:
    tracker, source = make(set(range(20)))
    fractions: list[float] = []
    tracker.track({1: TrackRequest({10: CLICK})}, lambda fraction, _: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    tracker, source = make(set(range(20)))
    with pytest.raises(Cancelled):
        tracker.track({1: TrackRequest({10: CLICK})}, lambda fraction, _: fraction < 0.3)
    assert source.encodes < 12


def test_state_is_small() -> None:
    tracker, _ = make(set(range(20)))
    track = tracker.track({1: TrackRequest({10: CLICK})})[1]
    spec = tracker.network.spec
    a_frame = spec.mask_size**2 * 2 + spec.width * 4
    assert track.nbytes == 20 * a_frame + spec.embedding_size**2 * 64 * 2


def test_feature_cache_keeps_to_its_budget() -> None:
    _, source = make(set(range(20)), budget=0)
    source.features([3, 3])
    assert (source.encodes, source.hits, source.nbytes) == (2, 0, 0)
    one = source.features([0]).nbytes
    _, source = make(set(range(20)), budget=3 * one)
    source.features([0, 1, 2])
    source.features([0])
    source.features([3])
    assert source.nbytes == 3 * one
    source.features([0, 2, 3])
    assert (source.encodes, source.hits) == (4, 4)
    source.features([1])
    assert source.encodes == 5


def test_features_come_back_from_disk(tmp_path: Path) -> None:
    _, source = make(set(range(20)), budget=0, spill=tmp_path)
    fresh = source.features([4])
    _, again = make(set(range(20)), budget=0, spill=tmp_path)
    stored = again.features([4])
    assert (again.encodes, again.disk_hits) == (0, 1)
    assert torch.equal(stored.level0, fresh.level0)
    assert torch.equal(stored.embedding, fresh.embedding)
    _, other = make(set(range(20)), budget=0, spill=tmp_path, key="another image")
    other.features([4])
    assert other.encodes == 1
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"broken")
    _, third = make(set(range(20)), budget=0, spill=tmp_path)
    assert torch.equal(third.features([4]).level0, fresh.level0)
    assert third.encodes == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (TrackRequest({20: CLICK}), "frame 20; expected 0 to 19"),
        (TrackRequest({0: FramePrompts(mask=np.ones((8, 8)))}), r"\(8, 8\) on frame 0.*\(64, 64\)"),
        (TrackRequest({0: CLICK}, first=5, last=2), "5 to 2"),
    ],
)
def test_impossible_requests_are_refused(request_: TrackRequest, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        make(set(range(20)))[0].track({1: request_})


@pytest.mark.parametrize(
    ("points", "labels", "mask"),
    [
        ([[1, 2]], [1, 0], None),
        ([[1, 2]], [5], None),
        ([[1, 2], [3, 4], [5, 6]], [1, 2, 3], None),
        ([[1, 2]], [2], None),
        ([[np.nan, 2]], [1], None),
        ([], [], None),
        ([], [], np.ones((4, 6))),
    ],
)
def test_impossible_prompts_are_refused(points: list[list[float]], labels: list[int], mask: object) -> None:
    with pytest.raises(PromptError):
        FramePrompts(points, labels, mask)  # type: ignore[arg-type]


def test_prompts_cannot_be_changed_afterwards() -> None:
    points = np.array([[1.0, 2.0]], np.float32)
    prompts = FramePrompts(points, np.array([1]))
    points[0, 0] = 9
    assert prompts == FramePrompts([[1, 2]], [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read-only"):
        prompts.points_xy[0, 0] = 3


@pytest.mark.parametrize(
    "settings",
    [{"max_conditioning_frames": 1}, {"stop_after_empty": 0}, {"stop_after_unchanged": 0}, {"unchanged_dice": 0}],
)
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ModelError):
        TrackSettings(**settings)  # type: ignore[arg-type]
