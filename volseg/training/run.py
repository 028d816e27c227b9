"""Trains a network: MONAI's trainer around volseg's steps."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from volseg.errors import TrainingError
from volseg.networks.sam2.network import Sam2Network
from volseg.training.batches import StepKind, TrainingBatch, TrainingBatches, prepared, prompt_rng
from volseg.training.calibrate import calibrate_presence
from volseg.training.cases import split_cases
from volseg.training.checkpoint import CHECKPOINT, TrainingState
from volseg.training.config import ScheduleConfig, TrainConfig
from volseg.training.ema import WeightAverage
from volseg.training.export import LOG, export
from volseg.training.steps import clip_step, image_step
from volseg.training.validate import Validator
from volseg.training.volume import TrainingVolume, read_volume

if TYPE_CHECKING:
    from ignite.engine import Engine

logger = logging.getLogger(__name__)


def learning_rate(step: int, schedule: ScheduleConfig) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / max(1, schedule.warm_up))
    part = max(0, step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
    return schedule.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, part))) / 2)


def train(
    config: TrainConfig,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
    weights: Mapping[str, Tensor] | None = None,
    tensorboard: bool = False,
) -> Path:
    """Trains a network and writes checkpoints, a log and validation scores.

    Args:
        config: what and how.
        data: folder below which the sources lie, or a CSV file of cases (see `cases.listed_cases`).
        output: folder for ``checkpoint.pt``, ``log.jsonl`` and, in the end, ``model.safetensors`` with ``card.json``;
            made if need be.
        resume: go on from the checkpoint in ``output``; bit for bit on one machine and device.
        device: such as ``cuda``; None takes CUDA if there is one.
        workers: processes that draw batches beside the training; 0 draws in the training's own.
        weights: to start from; None starts at random ones.
        tensorboard: write curves for TensorBoard as well.

    Returns:
        The weights, averaged, as safetensors.

    Raises:
        TrainingError: cases or checkpoint cannot be used, or ``output`` holds a run and ``resume`` is false.
    """
    from monai.data import DataLoader
    from monai.engines import SupervisedTrainer
    from monai.utils import set_determinism

    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{output} holds a run already; go on with --resume, or name another folder")
    training, scored = split_cases(data, config)
    logger.info("reading %d cases to train on, %d to validate on", len(training), len(scored))
    volumes = [read_volume(case) for case in training]
    experts = [volume for volume, case in zip(volumes, training, strict=True) if case.source.expert]
    batches = TrainingBatches(volumes, config)
    validator = Validator([read_volume(case) for case in scored], config)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    set_determinism(config.seed)
    network = Sam2Network(config.spec, weights).to(where)
    network.model.vision_encoder.to(memory_format=torch.channels_last)
    schedule = config.schedule
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    state = TrainingState(network, WeightAverage(network.model, schedule.ema_decay), optimizer)
    start = state.load(checkpoint) if resume and checkpoint.exists() else 0
    output.mkdir(parents=True, exist_ok=True)
    if start >= schedule.steps:
        return finish(state, experts, validator, config, output, start)
    steps = range(start, schedule.steps)
    loader = DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers, collate_fn=_as_is)
    trainer = SupervisedTrainer(
        device=where,
        max_epochs=math.ceil(schedule.steps / schedule.steps_per_epoch),
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=_no_loss,
        epoch_length=schedule.steps_per_epoch,
        prepare_batch=_as_is,
        iteration_update=_Step(state, config),
        decollate=False,
        train_handlers=[_Record(state, validator, config, output, tensorboard)],
    )
    trainer.state.epoch = start // schedule.steps_per_epoch
    trainer.state.iteration = start
    trainer.run()
    return finish(state, experts, validator, config, output, int(trainer.state.iteration))


def finish(
    state: TrainingState,
    experts: Sequence[TrainingVolume],
    validator: Validator,
    config: TrainConfig,
    output: Path,
    step: int,
) -> Path:
    """Calibrates, scores and writes the averaged weights.

    Args:
        state: of the run.
        experts: training volumes with labels drawn by people, to calibrate the presence score on.
        validator: scores the result.
        config: of the run.
        output: folder of the run.
        step: steps that were trained.

    Returns:
        The weights.
    """
    network = Sam2Network(config.spec, state.average.weights()).to(state.network.device)
    shift = calibrate_presence(network, experts, config) if experts and max(config.schedule.clip_share) > 0 else 0.0
    scores = {"presence shift": round(shift, 3), **validator.scores(network)}
    write_log(output, "final", step, scores)
    return export(network, config, output, step)


def write_log(output: Path, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
    """Logs numbers and appends them to the run's log as one line of JSON."""
    logger.info("step %d %s: %s", step, kind, ", ".join(f"{name} {value}" for name, value in numbers.items()))
    with (output / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights that `export` wrote.

    Raises:
        TrainingError: the file is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be read as safetensors: {error}") from error


class _Step:
    """One optimiser step, as MONAI's trainer calls it."""

    def __init__(self, state: TrainingState, config: TrainConfig) -> None:
        self._state = state
        self._config = config

    def __call__(self, engine: Engine, batch: TrainingBatch) -> dict[str, Any]:
        state, config = self._state, self._config
        network, optimizer = state.network, state.optimizer
        frames, targets = prepared(batch, config, network.device)
        rng = prompt_rng(config, batch.step)
        rate = learning_rate(batch.step, config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        network.train()
        if batch.kind is StepKind.IMAGES:
            tally = image_step(network, frames[:, 0], targets[:, 0], rng, config.precision)
        else:
            tally = clip_step(network, frames, targets, rng, config.precision)
        loss = tally.mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.schedule.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
            state.average.update(network.model)
        else:
            logger.warning("step %d gave a gradient that is not finite; it is left out", batch.step)
        return {"loss": float(loss.detach()), "lr": rate, **tally.numbers()}


class _Record:
    """Logs, validates and writes checkpoints at the end of every epoch; an ignite handler."""

    def __init__(
        self, state: TrainingState, validator: Validator, config: TrainConfig, output: Path, tensorboard: bool
    ) -> None:
        self._state, self._validator, self._config = state, validator, config
        self._output = output
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._since = time.monotonic()
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(output))

    def attach(self, engine: Engine) -> None:
        """Registers with the trainer."""
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def _iteration(self, engine: Engine) -> None:
        numbers: Any = engine.state.output
        for name, value in numbers.items():
            self._seen[name].append(value)

    def _epoch(self, engine: Engine) -> None:
        step = int(engine.state.iteration)
        self._state.save(self._output / CHECKPOINT, step)
        numbers = {name: round(float(np.mean(values)), 5) for name, values in self._seen.items()}
        now = time.monotonic()
        steps = len(self._seen["loss"])
        self._write("train", step, {**numbers, "seconds per step": round((now - self._since) / max(1, steps), 3)})
        self._seen.clear()
        if step < self._config.schedule.steps and engine.state.epoch % self._config.schedule.validate_every == 0:
            network = Sam2Network(self._config.spec, self._state.average.weights()).to(self._state.network.device)
            self._write("validation", step, self._validator.scores(network))
        self._since = time.monotonic()

    def _write(self, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
        write_log(self._output, kind, step, numbers)
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            self._writer.flush()


def _no_loss(*_: Any) -> Tensor:
    """The trainer asks for a loss function; the steps bring their own."""
    raise NotImplementedError


def _as_is(batch: Any, *_: Any, **__: Any) -> Any:
    return batch
