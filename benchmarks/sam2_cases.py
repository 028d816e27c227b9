"""What is measured, and on what.

Weights are random (Meta's initialisation, see ``tests/networks/sam2_oracles.py``), sam2-nano's those of its bundle.
Time depends on them only where masks decide what is computed: where a pass ends, and where a correction stops.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from sam2_oracles import frames, meta_predictor, volseg_network
from torch import Tensor

from benchmarks.sam2_measure import Outcome, interleaved, peak_bytes, start_peak
from benchmarks.sam2_peers import Contestant, Masks, Meta, Transformers, Volseg, reference_settings
from volseg.inferers.tracking import Direction, FramePrompts, Track, TrackRequest, TrackSettings
from volseg.inferers.tracking.state import mask_dice
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.layouts import convert, recognise
from volseg.networks.sam2.network import Sam2Network

REPOSITORY = Path(__file__).resolve().parents[1]
NANO_WEIGHTS = REPOSITORY / "bundles" / "sam2_prompted_segmentation" / "models" / "model.safetensors"


@dataclass(frozen=True)
class Options:
    """How large and how often.

    Attributes:
        quick: small sizes, to see whether everything runs.
        runs: runs of each contestant.
        device: where the network is.
        seconds_at_most: no further round starts once so much has gone into a case.
    """

    quick: bool
    runs: int
    device: torch.device
    seconds_at_most: float


Case = Callable[[Options], Iterator[Outcome]]


FADED = 0.1
"""Factor on what frames take from the memory where a correction's effect is to fade; see ``fading_weights``."""


def box(side: int, shift: int = 0) -> FramePrompts:
    """A box in the upper left half of the frame."""
    start = side // 8 + shift * side // 32
    return FramePrompts.box(start, start, start + side // 3, start + side // 3)


def networks(variant: str, side: int, device: torch.device) -> tuple[Sam2Network, object]:
    """volseg's network and Meta's predictor with the same weights."""
    return volseg_network(variant, side).to(device), meta_predictor(variant, side).to(device)


def nano(side: int, device: torch.device) -> Sam2Network:
    """sam2-nano as it ships."""
    from safetensors.torch import load_file

    return Sam2Network(Sam2Spec.nano(side), load_file(NANO_WEIGHTS)).to(device)


def compare(
    case: str,
    target: float,
    ours: Callable[[], object],
    peers: dict[str, Callable[[], object]],
    options: Options,
    *,
    beside: tuple[str, ...] = (),
    notes: dict[str, float | str] | None = None,
) -> Outcome:
    """Times volseg against its peers; those named in ``beside`` are shown but do not count for the ratio."""
    medians, wall, runs = interleaved({"volseg": ours, **peers}, options.runs, options.device, options.seconds_at_most)
    best = min(medians[name] for name in peers if name not in beside)
    said: dict[str, float | str] = dict(notes or {})
    said["ratio of wall clock"] = wall["volseg"] / min(wall[name] for name in peers if name not in beside)
    for name in beside:
        said[f"ratio to {name}"] = medians["volseg"] / medians[name]
    unit = "s CPU time" if options.device.type == "cpu" else "s"
    return Outcome(case, target, medians["volseg"] / best, medians, unit, runs, said)


def largest_difference(ours: Masks, theirs: Masks, inside: range | None = None) -> tuple[float, int, int]:
    """Largest difference of logits, number of pixels whose sign differs, and number of masks compared."""
    largest, pixels, compared = 0.0, 0, 0
    for key, masks in theirs.items():
        for frame, expected in masks.items():
            if inside is not None and frame not in inside:
                continue
            got = ours[key].get(frame)
            pixels += int(((got > 0) != (expected > 0)).sum()) if got is not None else int((expected > 0).sum())
            if got is not None:
                largest = max(largest, float((got - expected).abs().max()))
                compared += 1
    return largest, pixels, compared


def one_direction(objects: int, options: Options) -> Iterator[Outcome]:
    """All frames in one direction."""
    variants = ("tiny",) if options.device.type == "cpu" else ("tiny", "large")
    side, count = (128, 8) if options.quick else (256 if options.device.type == "cpu" else 1024, 64)
    images = frames(count, side)
    for variant in variants:
        network, predictor = networks(variant, side, options.device)
        ours = Volseg(network, reference_settings())
        peers: list[Contestant] = [Transformers(network), Meta(predictor)]
        prompts = {number: {0: box(side, number)} for number in range(objects)}
        run = {one.name: partial(one.track, images, prompts, (Direction.FORWARD,)) for one in (ours, *peers)}
        notes: dict[str, float | str] = {}
        if objects == 1:
            mine = ours.track(images, prompts, (Direction.FORWARD,))
            for peer in peers:
                largest, *_ = largest_difference(mine, run[peer.name]())
                notes[f"largest difference of logits to {peer.name}"] = largest
        # On a GPU rows share the batch, on a CPU the arithmetic is the same and only its order can be better.
        target = 0.5 if options.device.type == "cuda" and objects == 8 else 1.05
        case = f"one direction, {count} frames, {objects} object{'s' if objects > 1 else ''}, {variant} {side}"
        yield compare(case, target, run.pop(ours.name), dict(run), options, notes=notes)


def ending_weights(variant: str, images: Tensor, prompt: tuple[int, FramePrompts], inside: range) -> dict[str, Tensor]:
    """Meta's random weights with an object score head that tells the frames in ``inside`` from the others.

    Random weights know no objects. The last layer of the head, and nothing else, is fitted by least squares to the
    hidden units that it saw while the object counted as present, as absent, and as the layer then said.
    """
    side, (middle, said) = images.shape[-1], prompt
    predictor = copy.deepcopy(meta_predictor(variant, side))
    state = predictor.state_dict()
    network = Sam2Network(volseg_network(variant, side).spec, convert(state, recognise(state, image_size=side)))
    layer = network.model.mask_decoder.pred_obj_score_head.proj_out
    near = range(max(0, inside.start - 10), min(len(images), inside.stop + 10))
    tracker = Volseg(network, reference_settings()).tracker(images[near.start : near.stop])
    prompts = {middle - near.start: said}
    passes = {Direction.FORWARD: range(middle, near.stop), Direction.BACKWARD: range(middle, near.start - 1, -1)}
    hidden: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach().reshape(-1)))
    rows: list[Tensor] = []
    wanted: list[float] = []

    def collect() -> None:
        for direction, way in passes.items():
            hidden.clear()
            limits = (prompt[0] - near.start, None) if direction is Direction.FORWARD else (0, prompt[0] - near.start)
            tracker.track({0: TrackRequest(prompts, *limits)})
            assert len(hidden) == len(way)
            rows.extend(hidden)
            wanted.extend(5.0 if frame in inside else -5.0 for frame in way)

    with torch.no_grad():
        for forced in (1000.0, -1000.0):
            layer.bias.add_(forced)
            collect()
            layer.bias.sub_(forced)
        for _ in range(3):
            seen = torch.stack(rows).clone().double()
            centre = seen.mean(dim=0)
            spread = seen - centre
            ridge = 1e-4 * spread.square().sum() / len(centre) * torch.eye(len(centre), dtype=torch.float64)
            target = torch.tensor(wanted, dtype=torch.float64)
            weight = torch.linalg.solve(spread.T @ spread + ridge, spread.T @ (target - target.mean()))
            layer.weight.copy_(weight[None])
            layer.bias.copy_(target.mean() - weight @ centre)
            collect()
    handle.remove()
    prefix = (
        f"sam_mask_decoder.pred_obj_score_head.layers.{len(predictor.sam_mask_decoder.pred_obj_score_head.layers) - 1}"
    )
    return {**state, f"{prefix}.weight": layer.weight.detach(), f"{prefix}.bias": layer.bias.detach()}


def early_stop(options: Options) -> Iterator[Outcome]:
    """A small object in a long stack: volseg stops where it has ended, a peer covers all frames."""
    variant, (side, count, length) = "tiny", (128, 60, 8) if options.quick else (256, 200, 20)
    start = count // 2 - length // 2
    inside, middle = range(start, start + length), count // 2
    images = torch.zeros(count, 3, side, side)
    images[start : start + length] = frames(length, side)
    prompt = box(side)
    state = ending_weights(variant, images, (middle, prompt), inside)
    predictor = copy.deepcopy(meta_predictor(variant, side))
    predictor.load_state_dict(state)
    predictor.to(options.device)
    network = Sam2Network(volseg_network(variant, side).spec, convert(state, recognise(state, image_size=side)))
    network.to(options.device)
    ours = Volseg(network, reference_settings(stop_after_empty=TrackSettings().stop_after_empty))
    peers: list[Contestant] = [Transformers(network), Meta(predictor)]
    prompts = {0: {middle: prompt}}
    last: dict[str, Masks] = {}

    def run(who: Contestant) -> None:
        last[who.name] = who.track(images, prompts)

    contestants = {peer.name: partial(run, peer) for peer in peers}
    outcome = compare(
        f"early stop, object on {length} of {count} frames, {variant} {side}",
        0.4,
        partial(run, ours),
        contestants,
        options,
    )
    notes = dict(outcome.notes)
    reached = ours.tracker(images).track({0: TrackRequest(prompts[0])})[0].reached()
    notes["frames volseg computed"] = f"{len(reached)} of {count}"
    for peer in peers:
        largest, pixels, compared = largest_difference(last[ours.name], last[peer.name], inside)
        beyond = sum(int((m > 0).any()) for p in last[peer.name].values() for f, m in p.items() if f not in inside)
        notes[f"inside, against {peer.name}"] = (
            f"{compared} masks, logits differ by at most {largest:.1e}, {pixels} pixels differ"
        )
        notes[f"masks of {peer.name} beyond the object"] = str(beyond)
    notes["simulated"] = (
        "frames without the object are blank, and the object score head's last layer is fitted to tell them"
    )
    yield Outcome(outcome.case, outcome.target, outcome.ratio, outcome.medians, outcome.unit, outcome.runs, notes)


def fading_weights(variant: str, side: int) -> dict[str, Tensor]:
    """Meta's random weights with the memory turned down, so that a correction's effect fades as with trained weights.

    Without it a random network's masks depend on nothing as much as on the memory, and a click changes all of them, for
    ever: there would be nothing to stop at. What is computed for a frame stays the same.
    """
    state = meta_predictor(variant, side).state_dict()
    heard = [name for name in state if name.startswith("memory_attention.") and ".cross_attn_image.out_proj." in name]
    assert heard
    return {name: FADED * value if name in heard else value for name, value in state.items()}


def phantom(count: int, side: int) -> Tensor:
    """``[N, 3, S, S]``: a bright ball in noise, normalised with the mean and deviation of ImageNet."""
    generator = torch.Generator().manual_seed(1)
    z, y, x = torch.meshgrid(torch.linspace(-1, 1, count), *[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    ball = ((z / 0.9) ** 2 + ((y + 0.1) / 0.4) ** 2 + ((x + 0.1) / 0.4) ** 2 < 1).float()
    grey = 0.3 + 0.4 * ball + 0.03 * torch.randn(count, side, side, generator=generator)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (grey[:, None] - mean[:, None, None]) / std[:, None, None]


def corrections(variant: str, options: Options) -> Iterator[Outcome]:
    """A click on a tracked frame: exact and outward, against the peers' run from the start with both prompts.

    volseg has the features of all frames from the first run. The peers encode again what their caches of one frame no
    longer hold; beside them stands transformers with a cache of all frames, filled before and encoding nothing.
    """
    if variant == "nano":
        # Meta's code has no convolutional trunk.
        side, count = (128, 12) if options.quick else (256, 64)
        network = nano(side, options.device)
        first = FramePrompts.box(side * 0.24, side * 0.24, side * 0.66, side * 0.66)
        title, images = f"{count} frames, nano {side}", phantom(count, side)
        yield from _correction(title, 0.3, network, [], images, first, options)
    else:
        side, count = (128, 8) if options.quick else (1024, 16)
        state = fading_weights(variant, side)
        predictor = copy.deepcopy(meta_predictor(variant, side))
        predictor.load_state_dict(state)
        predictor.to(options.device)
        network = Sam2Network(volseg_network(variant, side).spec, convert(state, recognise(state, image_size=side)))
        network.to(options.device)
        title, images = f"{count} frames, {variant} {side}", frames(count, side)
        for outcome in _correction(title, 0.5, network, [Meta(predictor)], images, box(side), options):
            simulated = f"random weights; what frames hear of the memory is {FADED} of what it is with them"
            yield replace(outcome, notes={**outcome.notes, "simulated": simulated})


def _correction(
    title: str,
    target: float,
    network: Sam2Network,
    more_peers: list[Contestant],
    images: Tensor,
    first: FramePrompts,
    options: Options,
) -> Iterator[Outcome]:
    count, side = len(images), images.shape[-1]
    peers: list[Contestant] = [Transformers(network), *more_peers]
    cached = Transformers(network, cached_frames=count + 1)
    click = FramePrompts([[side * 0.45, side * 0.45]], [1])
    before, after = {count // 3: first}, {count // 3: first, 2 * count // 3: click}
    tracker = Volseg(network, reference_settings()).tracker(images)
    previous = tracker.track({0: TrackRequest(before)})[0]
    cached.fill(images)
    got: dict[bool, Track] = {}

    def correct(exact: bool) -> None:
        got[exact] = tracker.track({0: TrackRequest(after, previous=previous, exact=exact)})[0]

    contestants: dict[str, Callable[[], object]] = {"volseg, outward": partial(correct, False)}
    contestants |= {peer.name: partial(peer.track, images, {0: after}) for peer in (*peers, cached)}
    exact = compare(
        f"correction, exact, {title}",
        target,
        partial(correct, True),
        contestants,
        options,
        beside=("volseg, outward", cached.name),
    )
    yield exact
    dice = [mask_dice(got[True].mask(frame).logits, got[False].mask(frame).logits) for frame in got[True].reached()]
    outward = exact.medians["volseg, outward"]
    notes: dict[str, float | str] = {
        f"ratio to {cached.name}": outward / exact.medians[cached.name],
        "smallest Dice to exact": min(dice),
        "mean Dice to exact": sum(dice) / len(dice),
        "frames computed, exact": str(_recomputed(got[True], previous)),
        "frames computed, outward": str(_recomputed(got[False], previous)),
    }
    ratio = outward / min(exact.medians[peer.name] for peer in peers)
    yield Outcome(f"correction, outward, {title}", 0.2, ratio, exact.medians, exact.unit, exact.runs, notes)


def _recomputed(now: Track, before: Track) -> int:
    """Results of passes that are not the earlier run's."""
    old = {id(result) for passed in (before.forward, before.backward) for result in passed.values()}
    return sum(id(result) not in old for passed in (now.forward, now.backward) for result in passed.values())


def memory(options: Options) -> Iterator[Outcome]:
    """Peak memory of processes above the loaded model, volseg's cache off; peers get the frames as their tensor.

    All hold the stack as int16, as a volume is read. volseg makes a frame when it needs it; the peers' sessions take a
    float32 tensor of all frames, so that the ratio falls with their number.
    """
    side, count = (128, 40) if options.quick else (256, 200)
    peaks: dict[str, list[float]] = {"volseg": [], "transformers (cache of 1 frame)": [], "Meta (cache of 1 frame)": []}
    runs = 1
    for _ in range(runs):
        for name, values in peaks.items():
            with tempfile.TemporaryDirectory() as folder:
                answer = Path(folder) / "peak.json"
                command = [sys.executable, str(REPOSITORY / "benchmarks" / "sam2.py"), "--memory-of", name.split()[0]]
                command += ["--memory-size", f"{side},{count}", "-o", str(answer)]
                subprocess.run(command, check=True)
                values.append(json.loads(answer.read_text())["bytes"] / 2**20)
    medians = {name: sorted(values)[len(values) // 2] for name, values in peaks.items()}
    best = min(value for name, value in medians.items() if name != "volseg")
    yield Outcome(
        f"peak memory above the model, {count} frames, tiny {side}", 0.5, medians["volseg"] / best, medians, "MiB", runs
    )


class LazyFrames:
    """Frames made when asked for, from an int16 stack."""

    def __init__(self, stack: Tensor) -> None:
        self._stack = stack

    def __len__(self) -> int:
        return len(self._stack)

    def __getitem__(self, frame: int) -> Tensor:
        return (self._stack[frame].float() / 1000).expand(3, -1, -1)


def memory_of(who: str, side: int, count: int) -> int:
    """Bytes that one contestant takes above its loaded model and the int16 stack, in this process."""
    images = frames(8, side)[:, :1].repeat(count // 8, 1, 1, 1)
    stack = (images * 1000).to(torch.int16)
    del images
    lazy = LazyFrames(stack)
    prompts = {0: {0: box(side)}}
    if who == "Meta":
        contestant: Contestant = Meta(meta_predictor("tiny", side))
    else:
        network = volseg_network("tiny", side)
        meta_predictor.cache_clear()
        settings = TrackSettings(stop_after_empty=None)
        contestant = Volseg(network, settings, cache_bytes=0) if who == "volseg" else Transformers(network)
    # The first run of a small stack loads libraries and tables, which belong to the model.
    contestant.track(torch.stack([lazy[i] for i in range(3)]), prompts, (Direction.FORWARD,))
    before = start_peak()
    if who == "volseg":
        contestant.track(lazy, prompts, (Direction.FORWARD,))  # type: ignore[arg-type]
    else:
        tensor = torch.empty(count, 3, side, side)
        for frame in range(count):
            tensor[frame] = lazy[frame]
        contestant.track(tensor, prompts, (Direction.FORWARD,))
    return peak_bytes() - before


CASES: dict[str, Case] = {
    "one-direction": partial(one_direction, 1),
    "eight-objects": partial(one_direction, 8),
    "early-stop": early_stop,
    "correction-nano": partial(corrections, "nano"),
    "correction-tiny": partial(corrections, "tiny"),
    "memory": memory,
}
