"""One training run of the refining network: drafts, steps, checkpoints, exact resumption, weights."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from volseg.data.atomic import atomic_path
from volseg.errors import TrainingError
from volseg.geometry import Grid
from volseg.inferers.refine.channels import all_channels
from volseg.models.base import Model
from volseg.networks.refine.network import RefineNetwork
from volseg.training.cases import TrainingCase, split_cases
from volseg.training.config import Precision, read_config
from volseg.training.ema import WeightAverage
from volseg.training.refine.config import REFINE_CONFIG, RefineScheduleConfig, RefineTrainConfig
from volseg.training.refine.drafts import load_drafts, make_drafts, save_drafts
from volseg.training.refine.samples import (
    RefineSample,
    RefineSampler,
    RefineVolume,
    add_correction,
    next_draft,
    read_painted,
    read_refine_volume,
)
from volseg.training.volume import read_arrays

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
WEIGHTS = "refine.safetensors"
DRAFTS = "drafts"
CLICK_WEIGHT = 8.0
"""How much more voxels at clicks count in the cross entropy."""


def train_refinement(
    config: RefineTrainConfig,
    data: Path,
    output: Path,
    load_base: Callable[[], Model],
    *,
    resume: bool = False,
    device: str = "cpu",
    stop: Callable[[int], bool] | None = None,
) -> Path:
    """Trains and writes averaged weights as safetensors.

    Args:
        config: what on, and how.
        data: the folder below which the sources of ``config.cases`` lie, or a table of cases.
        output: for drafts, checkpoint, log and weights.
        load_base: gives the model whose answers are refined; asked only where drafts are missing.
        resume: go on from the checkpoint there, exactly as if the run had never stopped.
        device: of the network; samples are made on the CPU.
        stop: asked after every epoch, given the step; True ends the run before its last step.

    Raises:
        TrainingError: data or checkpoint do not fit the configuration.
    """
    output.mkdir(parents=True, exist_ok=True)
    cases, _ = split_cases(data, read_config(REFINE_CONFIG.parent / config.cases))
    cases = tuple(case for case in cases if config.sampling.weights.get(case.source.group, 0) > 0)
    volumes = _volumes(config, cases, output / DRAFTS, load_base)
    sampler = RefineSampler(volumes, read_painted(cases), config)
    torch.manual_seed(config.seed)
    network = RefineNetwork(config.spec).to(device)
    average = WeightAverage(network, config.schedule.ema_decay)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.schedule.learning_rate, weight_decay=config.schedule.weight_decay
    )
    step = _load(output / CHECKPOINT, network, average, optimizer) if resume else 0
    seen: dict[str, list[float]] = defaultdict(list)
    since = time.monotonic()
    network.train()
    while step < config.schedule.steps:
        for name, value in _step(network, optimizer, sampler, config, step).items():
            seen[name].append(value)
        average.update(network)
        step += 1
        if step % config.schedule.steps_per_epoch == 0 or step == config.schedule.steps:
            _save(output / CHECKPOINT, network, average, optimizer, step)
            means = {name: round(float(np.mean(values)), 4) for name, values in sorted(seen.items())}
            seconds = (time.monotonic() - since) / config.schedule.steps_per_epoch
            _log(output, {"step": step, "seconds per step": round(seconds, 3), **means})
            seen.clear()
            since = time.monotonic()
            if stop is not None and stop(step):
                break
    return export_refinement(average.weights(), output / WEIGHTS)


def export_refinement(weights: dict[str, Tensor], path: Path) -> Path:
    """Writes weights in float16, under the names that ``RefineNetwork`` takes."""
    from safetensors.torch import save_file

    tensors = {n: (v.half() if v.dtype.is_floating_point else v).cpu().contiguous() for n, v in weights.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return path


def learning_rate(step: int, schedule: RefineScheduleConfig) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < schedule.warm_up:
        return schedule.learning_rate * (step + 1) / schedule.warm_up
    part = (step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
    return schedule.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


def _volumes(
    config: RefineTrainConfig, cases: tuple[TrainingCase, ...], folder: Path, load_base: Callable[[], Model]
) -> list[RefineVolume]:
    folder.mkdir(parents=True, exist_ok=True)
    model: Model | None = None
    volumes = []
    for case in cases:
        path = folder / (case.name.replace("/", "__") + ".npz")
        count = config.sampling.drafts.get(case.source.group, 0)
        _, _, grid = read_arrays(case)
        if count and not path.exists():
            model = model or load_base()
            logger.info("asking %s about %s", config.base, case.name)
            save_drafts(path, make_drafts(model, case, count, config.seed), grid)
        drafts = load_drafts(path, Grid(grid.shape, grid.affine_ras)) if count else []
        volumes.append(read_refine_volume(case, drafts))
    return volumes


def _step(
    network: RefineNetwork,
    optimizer: torch.optim.Optimizer,
    sampler: RefineSampler,
    config: RefineTrainConfig,
    step: int,
) -> dict[str, float]:
    schedule = config.schedule
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, schedule)
    optimizer.zero_grad(set_to_none=True)
    numbers: dict[str, float] = {}
    drawing = 0.0
    for place in range(schedule.objects):
        number = step * schedule.objects + place
        start = time.monotonic()
        sample = sampler[number]
        drawing += time.monotonic() - start
        rng = np.random.default_rng([config.seed, 5, number])
        numbers |= _teach(network, sample, config, rng, 1 / schedule.objects)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.clip_norm)
    if torch.isfinite(norm):
        optimizer.step()
    else:
        logger.warning("step %d gave a gradient that is not finite; it is left out", step)
    return {**numbers, "seconds to draw": drawing}


def _teach(
    network: RefineNetwork, sample: RefineSample, config: RefineTrainConfig, rng: np.random.Generator, share: float
) -> dict[str, float]:
    """Answers and corrections of one object; gradients are added up."""
    device = next(network.parameters()).device
    half = config.precision is Precision.BFLOAT16
    draft, prompts = sample.draft, sample.prompts
    numbers = {f"{sample.group} draft": _dice(draft > 0.5, sample.truth)}
    for number in range(sample.rounds + 1):
        if number or not bool(prompts.any()):
            prompts = add_correction(rng, sample, draft > 0.5, prompts)
        channels = all_channels(sample.image, draft, prompts).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            logits = network(channels)[0, 0]
        loss = refine_loss(logits, sample.truth.to(device), prompts[:2].amax(dim=0).to(device))
        torch.autograd.backward(loss * share / (sample.rounds + 1))
        answer = logits.detach().float().cpu()
        draft = next_draft(rng, answer)
        numbers[f"{sample.group} {number}"] = _dice(answer > 0, sample.truth)
        numbers["loss"] = float(loss.detach())
    return numbers


def refine_loss(logits: Tensor, truth: Tensor, clicked: Tensor) -> Tensor:
    """Cross entropy, more at clicks, and Dice with soft targets.

    Args:
        logits: [A, B, C].
        truth: [A, B, C] from 0 to 1.
        clicked: [A, B, C] from 0 to 1, how near a click is.
    """
    weight = 1 + CLICK_WEIGHT * clicked
    entropy = (weight * binary_cross_entropy_with_logits(logits, truth, reduction="none")).sum() / weight.sum()
    found = torch.sigmoid(logits)
    dice = 1 - (2 * (found * truth).sum() + 1) / (found.square().sum() + truth.square().sum() + 1)
    return 2 * entropy + dice


def _dice(found: Tensor, truth: Tensor) -> float:
    wanted = truth > 0.5
    both = int(found.sum()) + int(wanted.sum())
    return 1.0 if both == 0 else 2 * int((found & wanted).sum()) / both


def _save(
    path: Path, network: RefineNetwork, average: WeightAverage, optimizer: torch.optim.Optimizer, step: int
) -> None:
    content: dict[str, Any] = {
        "step": step,
        "spec": json.dumps(asdict(network.spec)),
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _load(path: Path, network: RefineNetwork, average: WeightAverage, optimizer: torch.optim.Optimizer) -> int:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        spec, step = content["spec"], int(content["step"])
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint of a training run: {error}") from error
    if spec != json.dumps(asdict(network.spec)):
        raise TrainingError(f"{path} is of the network {spec}; the configuration asks for another")
    network.load_state_dict(content["network"])
    average.load_state_dict(content["average"])
    optimizer.load_state_dict(content["optimizer"])
    return step


def _log(output: Path, numbers: dict[str, Any]) -> None:
    logger.info("%s", ", ".join(f"{name} {value}" for name, value in numbers.items()))
    with (output / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(numbers) + "\n")
