"""One training run of the text-query network: data, steps, checkpoints, exact resumption, export."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volseg.data.atomic import atomic_path
from volseg.errors import TrainingError
from volseg.networks.text_query.config import TextQuerySpec
from volseg.networks.text_query.network import TextQueryNetwork
from volseg.training.cases import TrainingCase, find_cases
from volseg.training.ema import WeightAverage
from volseg.training.half import in_half
from volseg.training.parallel import Ranks
from volseg.training.text_query.config import GroupConfig, TextScheduleConfig, TextTrainConfig, read_text_config
from volseg.training.text_query.losses import text_loss
from volseg.training.text_query.samples import Sampler, SampleSource, TextSample
from volseg.training.text_query.start import take_weights
from volseg.training.text_query.volumes import read_text_volumes

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
WEIGHTS = "model.safetensors"
TUNED = "model_presence.safetensors"
"""The same weights after presence was trained once more."""

ALONE = Ranks()


def train_text(
    config: TextTrainConfig,
    folder: Path,
    output: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    start: Path | None = None,
    stop: Callable[[int], bool] | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Trains and writes averaged weights as safetensors.

    Args:
        config: what on, and how.
        folder: below which the sources lie.
        output: for checkpoint, log and weights.
        resume: go on from the checkpoint there, exactly as if the run had never stopped.
        device: of the network; windows are made on the CPU.
        start: the weights that the configuration names by their hash; None where it names none.
        stop: asked after every epoch, given the step; True ends the run before its last step.
        ranks: this process among those that train together. Each sees samples of its own, and gradients are averaged;
            the first one writes.

    Raises:
        TrainingError: data or checkpoint do not fit the configuration.
    """
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    spec = replace(config.spec, concepts=config.concepts)
    if (start is None) == bool(config.start_sha256):
        raise TrainingError(
            f"the configuration starts from the weights {config.start_sha256}; give their file"
            if start is None
            else "the configuration starts from random weights, but a file was given"
        )
    network = TextQueryNetwork(spec)
    if start is not None:
        take_weights(network, start, config.start_sha256)
    network = network.to(device)
    ranks.share(one.data for one in (*network.parameters(), *network.buffers()))
    average = WeightAverage(network, config.schedule.ema_decay)
    optimizer = make_optimizer(network, config.schedule)
    step = 0
    if resume:
        step = _load(output / CHECKPOINT, network, average, optimizer)
    sampler = Sampler(read_sources(config, folder), config, ranks.count)
    seen: dict[str, list[float]] = defaultdict(list)
    since = time.monotonic()
    network.train()
    while step < config.schedule.steps:
        numbers = _step(network, optimizer, sampler, config, step, ranks)
        average.update(network)
        step += 1
        for name, value in numbers.items():
            if not math.isnan(value):
                seen[name].append(value)
        if step % config.schedule.steps_per_epoch == 0 or step == config.schedule.steps:
            means = {name: round(float(np.mean(values)), 4) for name, values in sorted(seen.items())}
            seconds = (time.monotonic() - since) / config.schedule.steps_per_epoch
            if ranks.first:
                _save(output / CHECKPOINT, network, average, optimizer, step)
                _log(output, {"step": step, "seconds per step": round(seconds, 3), **means})
            seen.clear()
            since = time.monotonic()
            if ranks.agree(float(stop is not None and stop(step)), network.device):
                break
    if ranks.first:
        export_text(average.weights(), spec, output / WEIGHTS)
    ranks.wait()
    return output / WEIGHTS


@dataclass(frozen=True)
class TextTraining:
    """A run with paths as text, for a bundle's configuration; see ``train_text``.

    Attributes:
        settings: YAML file.
        folder: below which the sources lie.
        output: for checkpoint, log and weights.
        start: weights that the settings start from, if they do.
        resume: go on from the checkpoint.
        device: of the network.
        ranks: see ``train_text``.
    """

    settings: str
    folder: str
    output: str
    start: str | None = None
    resume: bool = False
    device: str = "cpu"
    ranks: Ranks = ALONE

    def run(self) -> Path:
        """Trains, and then presence once more where the settings say how; the path of the last weights."""
        from volseg.training.text_query.presence import tune_presence

        config, output = read_text_config(Path(self.settings)), Path(self.output)
        weights = train_text(
            config,
            Path(self.folder),
            output,
            resume=self.resume,
            device=self.device,
            start=None if self.start is None else Path(self.start),
            ranks=self.ranks,
        )
        if config.presence is None:
            return weights
        if self.ranks.first:
            tune_presence(config, Path(self.folder), weights, output / TUNED)
        self.ranks.wait()
        return output / TUNED


def read_sources(config: TextTrainConfig, folder: Path) -> tuple[SampleSource, ...]:
    """The training volumes, by group and view."""
    found = []
    for group, cases in split_groups(config, folder, training=True):
        if group.weight <= 0:
            continue
        absent = absent_concepts(config, group)
        spacings = tuple(view.spacing_mm for view in group.views)
        volumes = [read_text_volumes(case, group, spacings, absent) for case in cases]
        found += [SampleSource(group, view, tuple(v[view] for v in volumes)) for view in range(len(group.views))]
    if not found:
        raise TrainingError("every case is held out; nothing is left to train on")
    return tuple(found)


def split_groups(
    config: TextTrainConfig, folder: Path, *, training: bool
) -> tuple[tuple[GroupConfig, tuple[TrainingCase, ...]], ...]:
    """The cases of each group on one side of the split; all cases of a patient are on one side.

    Args:
        config: names groups and validation patients.
        folder: below which the sources lie.
        training: the side.

    Raises:
        TrainingError: a source or a validation patient is not there.
    """
    cases = [(group, find_cases(folder, group.source)) for group in config.groups]
    missing = set(config.validation) - {case.patient for _, some in cases for case in some}
    if missing:
        raise TrainingError(f"the validation patients {sorted(missing)} are in no source; check their names")
    chosen = []
    for group, some in cases:
        held = [c for c in some if not group.source.train or c.patient in config.validation]
        side = [c for c in some if c not in held] if training else held
        if side:
            chosen.append((group, tuple(side)))
    return tuple(chosen)


def absent_concepts(config: TextTrainConfig, group: GroupConfig) -> tuple[str, ...]:
    """Structures of the groups that a group names as absent."""
    others = [other for other in config.groups if other.source.group in group.absent]
    return tuple(dict.fromkeys(c for other in others for view in other.views for c in view.concepts))


def export_text(weights: dict[str, torch.Tensor], spec: TextQuerySpec, path: Path) -> Path:
    """Writes weights in float16, under the names that ``TextQueryNetwork`` takes."""
    from safetensors.torch import save_file

    tensors = {n: (v.half() if v.dtype.is_floating_point else v).cpu().contiguous() for n, v in weights.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"spec": spec.to_json()})  # one entry: their order is not fixed
    return path


def make_optimizer(network: TextQueryNetwork, schedule: TextScheduleConfig) -> torch.optim.Optimizer:
    """AdamW with peaks of their own for the backbone, the query embeddings, and all else that deals with queries."""
    backbone = list(network.pyramid.parameters())
    known = {id(one) for one in (*backbone, network.bank)}
    others = [one for one in network.parameters() if id(one) not in known]
    groups: list[dict[str, Any]] = [
        {"params": backbone, "peak": schedule.learning_rate},
        {"params": others, "peak": schedule.query_learning_rate},
        {"params": [network.bank], "peak": schedule.bank_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, schedule.learning_rate, weight_decay=schedule.weight_decay)


def learning_rate(step: int, schedule: TextScheduleConfig) -> float:
    """Part of the peak: linear warm-up, a constant rate, and at the end a linear fall to a hundredth."""
    left = (schedule.steps - step) / max(1, schedule.cool_down)
    return min(1.0, (step + 1) / max(1, schedule.warm_up), 0.01 + 0.99 * left)


def _step(
    network: TextQueryNetwork,
    optimizer: torch.optim.Optimizer,
    sampler: Sampler,
    config: TextTrainConfig,
    step: int,
    ranks: Ranks,
) -> dict[str, float]:
    start = time.monotonic()
    sample = sampler[step * ranks.count + ranks.rank]
    drawn = time.monotonic() - start
    part = learning_rate(step, config.schedule)
    for group in optimizer.param_groups:
        group["lr"] = part * group["peak"]
    optimizer.zero_grad(set_to_none=True)
    numbers = _gradients(network, sample, config) if sample.concepts else {}
    ranks.mean_gradients(network.parameters())
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.schedule.clip_norm)
    if torch.isfinite(norm):
        optimizer.step()
    else:
        logger.warning("step %d gave a gradient that is not finite; it is left out", step)
    return numbers | {"seconds to draw": drawn}


def _gradients(network: TextQueryNetwork, sample: TextSample, config: TextTrainConfig) -> dict[str, float]:
    """Adds up the gradients of a sample with questions; its losses by name."""
    device = network.device
    half = in_half(config.precision, device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        features = network.encode(sample.window.to(device), sample.spacing_mm)
    output = network.decode(features.float(), network.embeddings(sample.concepts), sample.modality, sample.spacing_mm)
    on_device = sample if device.type == "cpu" else _moved(sample, device)
    loss = text_loss(output, on_device)
    torch.autograd.backward(loss.total)
    name = f"{sample.group} {sample.spacing_mm:g}"
    return {
        "loss": float(loss.total.detach()),
        f"{name} dice": loss.dice,
        f"{name} bce": loss.bce,
        "presence": loss.presence,
    }


def _moved(sample: TextSample, device: torch.device) -> TextSample:
    known = None if sample.known is None else sample.known.to(device)
    targets, present, drawn = (one.to(device) for one in (sample.targets, sample.present, sample.drawn))
    return replace(sample, targets=targets, known=known, present=present, drawn=drawn)


def _save(
    path: Path, network: TextQueryNetwork, average: WeightAverage, optimizer: torch.optim.Optimizer, step: int
) -> None:
    content = {
        "step": step,
        "spec": network.spec.to_json(),
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _load(path: Path, network: TextQueryNetwork, average: WeightAverage, optimizer: torch.optim.Optimizer) -> int:
    try:
        content = torch.load(path, map_location=network.device, weights_only=True)
        spec, step = content["spec"], int(content["step"])
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint of a training run: {error}") from error
    if spec != network.spec.to_json():
        raise TrainingError(f"{path} is of the network {spec}; the configuration asks for another")
    network.load_state_dict(content["network"])
    average.load_state_dict(content["average"])
    optimizer.load_state_dict(content["optimizer"])
    return step


def _log(output: Path, numbers: dict[str, Any]) -> None:
    logger.info("%s", ", ".join(f"{name} {value}" for name, value in numbers.items()))
    with (output / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(numbers) + "\n")
