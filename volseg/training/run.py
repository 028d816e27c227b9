"""Trains a network: what a run consists of, and how `volseg train` and the bundles' ``train.yaml`` put it together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from volseg.errors import TrainingError
from volseg.networks.sam2.network import Sam2Network
from volseg.training.adapt import adapt_network, plain_weights, trained_numbers
from volseg.training.batches import TrainingBatches
from volseg.training.calibrate import calibrate_presence
from volseg.training.cases import TrainingCase, split_cases
from volseg.training.checkpoint import CHECKPOINT, TrainingState
from volseg.training.config import (
    FINE_TUNE_CONFIG,
    NANO_CONFIG,
    Adapt,
    TrainConfig,
    read_config,
)
from volseg.training.ema import WeightAverage
from volseg.training.export import export, is_exported
from volseg.training.pace import Clock, is_over
from volseg.training.parallel import Ranks, join_ranks
from volseg.training.record import RunRecord, write_log
from volseg.training.start import StartWeights, read_start
from volseg.training.trainer import build_trainer
from volseg.training.update import StepUpdate
from volseg.training.validate import Validator
from volseg.training.volume import TrainingVolume, read_volume

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Training:
    """A run that is ready to go: what its dataset, update, handlers and trainer are made from.

    Attributes:
        config: what is trained, and how.
        output: folder for checkpoint, log and, in the end, the bundle.
        start: the weights it starts from; None began at random ones.
        ranks: this process among those of the run.
        state: network, average, optimiser and clock.
        first_step: where it begins; above 0 for one that goes on.
        cases: trained on.
        volumes: the same in memory.
        scored: cases held out.
        validator: scores networks on these.
    """

    config: TrainConfig
    output: Path
    start: StartWeights | None
    ranks: Ranks
    state: TrainingState
    first_step: int
    cases: tuple[TrainingCase, ...]
    volumes: tuple[TrainingVolume, ...]
    scored: tuple[TrainingCase, ...]
    validator: Validator

    def plain_network(self) -> Sam2Network:
        """A network with the averaged weights, as it would be exported."""
        weights = plain_weights(self.state.network, self.state.average.weights())
        return Sam2Network(self.config.spec, weights).to(self.state.network.device).eval()

    def run(self, trainer: SupervisedTrainer) -> Path:
        """Trains until the steps or the minutes are over, and finishes.

        Args:
            trainer: of this run, see `trainer.build_trainer`.

        Returns:
            The output folder, a bundle that `load_model` takes. The first process has written it when all return.
        """
        step = self.first_step
        seconds = self.ranks.agree(self.state.clock.seconds, self.state.network.device)
        if not is_over(step, seconds, self.config.schedule):
            trainer.run()
            step = int(trainer.state.iteration)
        if self.ranks.first:
            self._finish(step)
        self.ranks.wait()
        return self.output

    def _finish(self, step: int) -> None:
        """Calibrates, scores and writes the averaged weights."""
        config, network = self.config, self.plain_network()
        pairs = zip(self.volumes, self.cases, strict=True)
        experts = [volume for volume, case in pairs if case.source.expert]
        scores: dict[str, Any] = {}
        if config.calibrate and experts and max(config.schedule.clip_share) > 0:
            scores["presence shift"] = round(calibrate_presence(network, experts, config), 3)
        scores |= self.validator.scores(network)
        write_log(self.output, "final", step, scores)
        export(network.weights(), config, self.output, self.start, (self.cases, self.scored), step)


def prepare_training(
    data: str | Path,
    output: str | Path,
    config: TrainConfig,
    *,
    start: StartWeights | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    ranks: Ranks | None = None,
) -> Training:
    """Reads cases and weights, and makes the network and its optimiser.

    Args:
        data: folder below which the sources lie, or a CSV file of cases (see `cases.listed_cases`).
        output: folder of the run; made if need be.
        config: what and how.
        start: weights to start from; None starts at random ones.
        resume: go on from the checkpoint in ``output``, if there is one; bit for bit on one machine and device.
        device: such as ``cuda``; None takes that of ``ranks``, else CUDA if there is one.
        ranks: this process among those of the run; None is alone.

    Raises:
        TrainingError: cases or checkpoint cannot be used, or ``output`` holds a run or a bundle and ``resume`` is
            false.
        ModelError: the weights do not fit the configuration's network.
    """
    from monai.utils import set_determinism

    clock, ranks = Clock(), ranks or Ranks()
    output = Path(output)
    checkpoint = output / CHECKPOINT
    if not resume and (checkpoint.exists() or is_exported(output)):
        what = "a run" if checkpoint.exists() else "a bundle"
        raise TrainingError(f"{output} holds {what} already; go on with --resume, or name another folder")
    training, scored = split_cases(Path(data), config)
    logger.info("reading %d cases to train on, %d to validate on", len(training), len(scored))
    volumes = tuple(read_volume(case) for case in training)
    validator = Validator([read_volume(case) for case in scored] if ranks.first else [], config)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    set_determinism(config.seed)
    network = Sam2Network(config.spec, None if start is None else start.state)
    adapt_network(network, config.adapt)
    network.to(torch.device(device or ranks.device or default))
    network.model.vision_encoder.to(memory_format=torch.channels_last)
    ranks.share(one.data for one in (*network.parameters(), *network.buffers()))
    schedule = config.schedule
    trained = [one for one in network.parameters() if one.requires_grad]
    logger.info("%s trains %d numbers", config.adapt.kind, trained_numbers(network))
    optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    average = WeightAverage(network.model, schedule.ema_decay)
    state = TrainingState(network, average, optimizer, config.adapt, clock)
    first = state.load(checkpoint) if resume and checkpoint.exists() else 0
    output.mkdir(parents=True, exist_ok=True)
    return Training(config, output, start, ranks, state, first, training, volumes, scored, validator)


def prepare_fine_tuning(
    data: str | Path,
    output: str | Path,
    weights: str | Path,
    *,
    config: str | Path | None = None,
    adapt: str = Adapt.FULL,
    lora_rank: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    steps_per_epoch: int | None = None,
    image_size: int | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    ranks: Ranks | None = None,
) -> Training:
    """`prepare_training` from trained weights, with every choice as plain data, as a bundle's config makes it.

    Args:
        data: a CSV file of cases.
        output: folder of the run.
        weights: see `start.read_start`.
        config: YAML file; None takes ``fine_tune.yaml``.
        adapt: ``full``, ``frozen-encoder`` or ``lora``.
        lora_rank: rank of LoRA; None takes the configuration's.
        steps: at most so many; None takes the configuration's.
        minutes: at most so many; None takes the configuration's.
        steps_per_epoch: steps between checkpoints; None takes the configuration's.
        image_size: side of the network's input in pixels; None takes the weights' own.
        resume: go on from the checkpoint in ``output``, if there is one.
        device: see `prepare_training`.
        ranks: this process among those of the run; None is alone.

    Raises:
        TrainingError: a choice, a case or the checkpoint cannot be used.
        ModelError: the weights cannot be used.
    """
    start = read_start(weights, image_size=image_size)
    chosen = choose_config(
        config,
        start,
        adapt=adapt,
        lora_rank=lora_rank,
        steps=steps,
        minutes=minutes,
        steps_per_epoch=steps_per_epoch,
    )
    return prepare_training(data, output, chosen, start=start, resume=resume, device=device, ranks=ranks)


def choose_config(
    config: str | Path | None = None,
    start: StartWeights | None = None,
    *,
    adapt: str | None = None,
    lora_rank: int | None = None,
    **schedule: float | None,
) -> TrainConfig:
    """The configuration of a run: what the caller says, else what the file says, else what the weights suggest.

    Args:
        config: YAML file; None takes that of sam2-nano, or ``fine_tune.yaml`` for weights to start from.
        start: those weights.
        adapt: what is trained.
        lora_rank: rank of LoRA.
        schedule: settings of `ScheduleConfig`.

    Raises:
        TrainingError: the file or a value cannot be used.
    """
    if adapt is not None and adapt not in list(Adapt):
        raise TrainingError(f"--adapt is {adapt!r}; expected one of {', '.join(Adapt)}")
    path = Path(config) if config is not None else (NANO_CONFIG if start is None else FINE_TUNE_CONFIG)
    said = {
        "adapt": _said(kind=adapt, rank=lora_rank),
        "schedule": _said(**schedule),
    }
    if start is None:
        return read_config(path, above=said)
    stated = read_config(path, below=start.settings(Adapt.FULL), above=said)
    # the learning rate that the weights suggest depends on what is trained
    return read_config(path, below=start.settings(stated.adapt.kind), above=said)


def train(
    config: TrainConfig,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
    start: StartWeights | None = None,
    tensorboard: bool = False,
) -> Path:
    """Trains a network and writes checkpoints, a log, validation scores and, in the end, a bundle.

    Under ``torchrun`` all processes train together, see `parallel.Ranks`.

    Args:
        config: what and how.
        data: folder below which the sources lie, or a CSV file of cases (see `cases.listed_cases`).
        output: folder for ``checkpoint.pt``, ``log.jsonl`` and the bundle's parts; made if need be.
        resume: go on from the checkpoint in ``output``; bit for bit on one machine and device.
        device: such as ``cuda``; None takes CUDA if there is one.
        workers: processes that draw batches beside the training; 0 draws in the training's own.
        start: weights to start from; None starts at random ones.
        tensorboard: write curves for TensorBoard as well.

    Returns:
        The output folder, a bundle with the averaged weights.

    Raises:
        TrainingError: cases or checkpoint cannot be used, or ``output`` holds a run and ``resume`` is false.
    """
    ranks = join_ranks(device)
    training = prepare_training(
        data, output, config, start=start, resume=resume, device=ranks.device or device, ranks=ranks
    )
    trainer = build_trainer(
        training,
        TrainingBatches(training.volumes, config, ranks.rank),
        StepUpdate(training),
        [RunRecord(training, tensorboard)],
        workers=workers,
    )
    return training.run(trainer)


def _said(**choices: Any) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if value is not None}
