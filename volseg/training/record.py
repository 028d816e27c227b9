"""What a run leaves behind while it trains: checkpoints, a log, validation scores."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from volseg.training.checkpoint import CHECKPOINT
from volseg.training.pace import is_over

if TYPE_CHECKING:
    from ignite.engine import Engine

    from volseg.training.run import Training

logger = logging.getLogger(__name__)

LOG = "log.jsonl"


def write_log(output: Path, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
    """Logs numbers and appends them to the run's log as one line of JSON."""
    logger.info("step %d %s: %s", step, kind, ", ".join(f"{name} {value}" for name, value in numbers.items()))
    with (output / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")


class RunRecord:
    """Logs, validates and writes checkpoints at the end of every epoch; an ignite handler of the first process.

    Args:
        training: what is trained.
        tensorboard: write curves for TensorBoard as well.
    """

    def __init__(self, training: Training, tensorboard: bool = False) -> None:
        self._training = training
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._since = time.monotonic()
        self._writer: Any = None
        if tensorboard and training.ranks.first:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(training.output))

    def attach(self, engine: Engine) -> None:
        """Registers with the trainer."""
        from ignite.engine import Events

        if self._training.ranks.first:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)

    def _start(self, engine: Engine) -> None:
        training = self._training
        if training.start is not None and int(engine.state.iteration) == 0:
            scores = training.validator.scores(training.plain_network())
            if scores:
                self._write("start", 0, scores)
        self._since = time.monotonic()

    def _iteration(self, engine: Engine) -> None:
        numbers: Any = engine.state.output
        for name, value in numbers.items():
            self._seen[name].append(value)
        step = int(engine.state.iteration)
        # the last epoch may be cut short by the clock
        if step % self._training.config.schedule.steps_per_epoch == 0 or engine.should_terminate:
            self._epoch(step)

    def _epoch(self, step: int) -> None:
        training, schedule = self._training, self._training.config.schedule
        training.state.save(training.output / CHECKPOINT, step)
        numbers = {name: round(float(np.mean(values)), 5) for name, values in self._seen.items()}
        steps, now = len(self._seen["loss"]), time.monotonic()
        self._write("train", step, {**numbers, "seconds per step": round((now - self._since) / steps, 3)})
        self._seen.clear()
        due = step % (schedule.steps_per_epoch * schedule.validate_every) == 0
        if due and not is_over(step, training.state.clock.seconds, schedule):
            scores = training.validator.scores(training.plain_network())
            if scores:
                self._write("validation", step, scores)
        self._since = time.monotonic()

    def _write(self, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
        write_log(self._training.output, kind, step, numbers)
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            self._writer.flush()
