"""Windows are stitched as by brute force and as by MONAI, in memory for the live overlap zone only."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from monai.inferers.utils import compute_importance_map
from torch import Tensor

from volseg.errors import Cancelled, GeometryError, ModelError
from volseg.inferers.windows import Blending, DenseLogits, LabelVolume, SlidingWindows, WindowPlan, WindowSettings
from volseg.inferers.windows.inferer import EMPTY_LOGIT, cheaper
from volseg.inferers.windows.plan import importance
from volseg.inferers.windows.sinks import largest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def ramp(windows: Tensor) -> Tensor:
    """Three classes that depend on where in its window a voxel is, so that blending matters."""
    _, _, i, j, k = windows.shape
    place = torch.arange(i * j * k, device=windows.device).reshape(i, j, k).to(windows.dtype) / (i * j * k)
    return torch.cat([windows[:, :1] + place, windows[:, :1] * place, place.expand_as(windows[:, :1])], dim=1)


def brute_force(image: Tensor, cover: WindowSettings) -> Tensor:
    """Every window by itself, into arrays of the volume's size, with weights in float64."""
    shape = tuple(max(n, w) for n, w in zip(image.shape[1:], cover.window, strict=True))
    before = [(s - n) // 2 for s, n in zip(shape, image.shape[1:], strict=True)]
    padded = torch.zeros((1, *shape), dtype=image.dtype)
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    padded[(slice(None), *inner)] = image
    weights = torch.ones(cover.window, dtype=torch.float64)
    if cover.blending is Blending.GAUSSIAN:
        weights = compute_importance_map(cover.window, mode="gaussian", sigma_scale=0.125, dtype=torch.float32).double()
    starts = []
    for n, w in zip(shape, cover.window, strict=True):
        step = max(1, int(w * (1 - cover.overlap)))
        starts.append(sorted({min(s, n - w) for s in range(0, n - w + step, step)}))
    total, sums = torch.zeros(shape, dtype=torch.float64), torch.zeros((3, *shape), dtype=torch.float64)
    for start in itertools.product(*starts):
        block = tuple(slice(s, s + w) for s, w in zip(start, cover.window, strict=True))
        answer = ramp(padded[(slice(None), *block)][None])[0].double()
        sums[(slice(None), *block)] += answer * weights
        total[block] += weights
    return (sums / total)[(slice(None), *inner)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("blending", list(Blending))
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
def test_known_answers(device: str, dtype: torch.dtype, blending: Blending, overlap: float) -> None:
    cover = WindowSettings((6, 8, 4), overlap, blending, batch=3, query_batch=2)
    image = torch.rand((1, 13, 8, 11), generator=torch.Generator().manual_seed(0)).to(dtype)
    sink = DenseLogits((13, 8, 11))
    SlidingWindows(cover, device=device).run(image, ramp, sink)
    # The sums are made in float32 whatever the network computes in.
    torch.testing.assert_close(sink.logits.double(), brute_force(image, cover), rtol=0, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 15)] * 3),
    window=st.tuples(*[st.integers(1, 7)] * 3),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8]),
    batch=st.integers(1, 4),
    query_batch=st.integers(0, 3),
)
def test_any_shape(
    shape: tuple[int, int, int], window: tuple[int, int, int], overlap: float, batch: int, query_batch: int
) -> None:
    cover = WindowSettings(window, overlap, batch=batch, query_batch=query_batch)
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1))
    sink = DenseLogits(shape)
    SlidingWindows(cover).run(image, ramp, sink)
    torch.testing.assert_close(sink.logits.double(), brute_force(image, cover), rtol=0, atol=2e-5)


@pytest.mark.parametrize("blending", list(Blending))
@pytest.mark.parametrize("shape", [(20, 17, 9), (5, 6, 7)])
def test_same_as_monai(blending: Blending, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(2, 4, 3, padding=1)
    images = torch.rand(2, 2, *shape)
    ours = SlidingWindows(WindowSettings((8, 8, 8), 0.25, blending, batch=2))(images, network)
    with torch.no_grad():
        theirs = sliding_window_inference(images, (8, 8, 8), 2, network, overlap=0.25, mode=str(blending))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [(8, 8, 8), (5, 9, 16)])
def test_importance_is_monais(window: tuple[int, int, int]) -> None:
    theirs = compute_importance_map(window, mode="gaussian", sigma_scale=0.125, dtype=torch.float32)
    torch.testing.assert_close(importance(window, Blending.GAUSSIAN), theirs.float())


def test_labels_are_the_best_class() -> None:
    cover = WindowSettings((4, 4, 4), 0.5, query_batch=2)
    image = torch.rand(1, 9, 10, 7)
    logits = brute_force(image, cover)
    labels = SlidingWindows(cover).labels(image, ramp)
    assert torch.equal(labels.long(), logits.argmax(0))
    named = SlidingWindows(cover).labels(image - 1, lambda windows: ramp(windows) - 0.4, background=False)
    shifted = brute_force(image - 1, cover) - 0.4
    expected = torch.where(shifted.amax(0) > 0, shifted.argmax(0) + 1, 0)
    assert (named.long() == expected).float().mean() > 0.99  # rounding decides exact ties with 0


def test_more_classes_than_a_byte_holds() -> None:
    def last_of_300(windows: Tensor) -> Tensor:
        logits = torch.zeros((len(windows), 300, *windows.shape[2:]))
        logits[:, 299] = 1
        return logits

    labels = SlidingWindows(WindowSettings((4, 4, 4))).labels(torch.zeros(1, 4, 4, 4), last_of_300)
    assert labels.unique().tolist() == [299]


def test_live_zone_does_not_grow_with_the_length() -> None:
    cover = WindowSettings((16, 16, 16), 0.25)
    short, long = (WindowPlan.of((n, 32, 32), cover).live_bytes(100) for n in (32, 3200))
    assert short == long
    # Three zones, each as thick as the overlap of 4: 4 x 32 x 32, 16 x 4 x 32 and 16 x 16 x 4, and one for the weights.
    dense = [WindowPlan.of((28, 28, 28), cover).carry_shape(axis) for axis in range(3)]
    assert dense == [(4, 28, 28), (16, 4, 28), (16, 16, 4)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_advance_slowest_along_the_longest_axis(axis: int) -> None:
    shape = [32, 32, 32]
    shape[axis] = 3200
    plan = WindowPlan.of((shape[0], shape[1], shape[2]), WindowSettings((16, 16, 16), 0.25))
    assert plan.order[0] == axis
    assert plan.live_bytes(100) == WindowPlan.of((32, 32, 32), WindowSettings((16, 16, 16), 0.25)).live_bytes(100)
    positions = [at[axis] for at in plan.windows()]
    assert positions == sorted(positions)
    assert len(set(plan.windows())) == plan.count


def test_live_zone_of_a_whole_body() -> None:
    plan = WindowPlan.of((512, 512, 600), WindowSettings((96, 96, 96), 0.25))
    # k leaves no rest, so its overlap is 24; the last windows along i and j overlap by 40.
    voxels = 24 * 512 * 512 + 96 * 40 * 512 + 96 * 96 * 40
    assert plan.live_bytes(120) == voxels * (120 + 1) * 4


def test_each_window_is_encoded_once_for_all_queries() -> None:
    class Counting:
        queries = 40

        def __init__(self) -> None:
            self.encoded = self.decoded = 0

        def encode(self, windows: Tensor) -> Tensor:
            self.encoded += len(windows)
            return windows

        def decode(self, features: Tensor, first: int, last: int) -> Tensor:
            self.decoded += last - first
            return features + torch.arange(first, last)[None, :, None, None, None]

    network = Counting()
    sink = DenseLogits((8, 8, 8))
    image = torch.rand(1, 8, 8, 8)
    SlidingWindows(WindowSettings((4, 4, 4), 0.0, query_batch=16)).run(image, network, sink)
    assert network.encoded == 8
    assert network.decoded == 8 * 40
    torch.testing.assert_close(sink.logits, image + torch.arange(40)[:, None, None, None])


def test_windows_without_foreground_are_skipped() -> None:
    seen = []

    def network(windows: Tensor) -> Tensor:
        seen.append(len(windows))
        return windows + 5

    image = torch.zeros(1, 4, 4, 12)
    foreground = torch.zeros((4, 4, 12), dtype=torch.bool)
    foreground[0, 0, 9] = True
    sink = DenseLogits((4, 4, 12))
    SlidingWindows(WindowSettings((4, 4, 4), 0.0)).run(image, network, sink, foreground=foreground)
    assert sum(seen) == 1
    assert sink.logits[0, :, :, :8].unique().tolist() == [EMPTY_LOGIT]
    torch.testing.assert_close(sink.logits[0, :, :, 8:], torch.full((4, 4, 4), 5.0))
    with pytest.raises(GeometryError, match="foreground"):
        SlidingWindows(WindowSettings((4, 4, 4))).run(image, network, sink, foreground=foreground[:2])


def test_mirrored_answers_are_averaged() -> None:
    image = torch.rand(1, 4, 4, 4)
    sink = DenseLogits((4, 4, 4))
    SlidingWindows(WindowSettings((4, 4, 4), mirror_axes=(0, 2))).run(image, lambda w: ramp(w)[:, :1], sink)
    flips = [(), (0,), (2,), (0, 2)]
    answers = [ramp(image[None].flip([a + 2 for a in f]))[0, :1].flip([a + 1 for a in f]) for f in flips]
    torch.testing.assert_close(sink.logits, torch.stack(answers).mean(0))


def test_out_of_memory_goes_on_with_less() -> None:
    tried: list[int] = []

    def network(windows: Tensor) -> Tensor:
        tried.append(len(windows))
        if len(windows) > 1:
            raise torch.OutOfMemoryError("simulated")
        return windows

    image = torch.rand(1, 8, 8, 8)
    sink = DenseLogits((8, 8, 8))
    SlidingWindows(WindowSettings((4, 4, 4), 0.0, batch=4)).run(image, network, sink)
    torch.testing.assert_close(sink.logits, image)
    assert max(tried) == 4
    assert tried[-1] == 1
    ways = cheaper(WindowSettings((4, 4, 4), batch=4))
    assert [way.stitch_on_device for way in ways] == [True, False, False, False]
    assert ways[-1].batch == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of memory-like text"), ValueError("broken")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    calls = []

    def network(windows: Tensor) -> Tensor:
        calls.append(1)
        raise error

    with pytest.raises(type(error), match=str(error)):
        SlidingWindows(WindowSettings((4, 4, 4))).run(torch.zeros(1, 4, 4, 4), network, DenseLogits((4, 4, 4)))
    assert len(calls) == 1


def test_progress_and_cancel() -> None:
    told: list[float] = []

    def progress(fraction: float, text: str) -> bool:
        told.append(fraction)
        return fraction < 0.5

    with pytest.raises(Cancelled):
        SlidingWindows(WindowSettings((4, 4, 4), 0.0)).labels(torch.zeros(1, 8, 8, 8), ramp, progress=progress)
    assert told == [0.125, 0.25, 0.375, 0.5]


def test_input_is_not_changed() -> None:
    image = torch.rand(1, 4, 4, 4)
    before = image.clone()
    SlidingWindows(WindowSettings((4, 4, 4))).run(
        image, lambda windows: windows, LabelVolume((4, 4, 4), background=True)
    )
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "wrong", [{"window": (0, 4, 4)}, {"overlap": 1.0}, {"overlap": -0.1}, {"batch": 0}, {"mirror_axes": (3,)}]
)
def test_impossible_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        WindowSettings(**{"window": (4, 4, 4), **wrong})  # type: ignore[arg-type]


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_largest_logit_is_the_first_of_the_largest(classes: int, seed: int) -> None:
    # Few different values, so that many are equal.
    logits = torch.randint(-2, 3, (classes, 3, 4, 5), generator=torch.Generator().manual_seed(seed)).float()
    best, which = largest(logits, range(classes))
    assert torch.equal(best, logits.amax(dim=0))
    for place in itertools.product(range(3), range(4), range(5)):
        values = logits[(slice(None), *place)].tolist()
        assert int(which[place]) == values.index(max(values))
    some = sorted({0, classes - 1})
    best, which = largest(logits, some)
    assert torch.equal(best, logits[some].amax(dim=0))
    assert set(which.flatten().tolist()) <= set(some)
