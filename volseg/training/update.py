"""One optimiser step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from volseg.training.batches import StepKind, TrainingBatch, prepared, prompt_rng
from volseg.training.pace import is_over, learning_rate
from volseg.training.steps import clip_step, image_step

if TYPE_CHECKING:
    from ignite.engine import Engine

    from volseg.training.run import Training

logger = logging.getLogger(__name__)

DROP_OUT_SEED = 4


class StepUpdate:
    """One optimiser step, as MONAI's trainer calls it (its ``iteration_update``).

    All chance of a step comes from the seed, the step's number and the process's rank, so that a run can be resumed
    exactly.

    Args:
        training: what is trained.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._trained = [one for one in training.state.network.parameters() if one.requires_grad]

    def __call__(self, engine: Engine, batch: TrainingBatch) -> dict[str, Any]:
        """Trains on a batch; ends the run when its steps or its time are over.

        Returns:
            Numbers for the log.
        """
        training = self._training
        state, config, ranks = training.state, training.config, training.ranks
        network, optimizer, schedule = state.network, state.optimizer, config.schedule
        seconds = ranks.agree(state.clock.seconds, network.device) if schedule.minutes else 0.0
        rate = learning_rate(batch.step, schedule, seconds)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(config.seed * 1_000_003 + batch.rank * 15_485_863 + batch.step * 7 + DROP_OUT_SEED)
        frames, targets = prepared(batch, config, network.device)
        rng = prompt_rng(config, batch.step, batch.rank)
        network.train()
        if batch.kind is StepKind.IMAGES:
            tally = image_step(network, frames[:, 0], targets[:, 0], rng, config.precision)
        else:
            tally = clip_step(network, frames, targets, batch.travel, rng, config.precision)
        loss = tally.mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        ranks.mean_gradients(self._trained)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, schedule.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
            state.average.update(network.model)
        else:
            logger.warning("step %d gave a gradient that is not finite; it is left out", batch.step)
        if is_over(batch.step + 1, seconds, schedule):
            engine.terminate()
        return {"loss": float(loss.detach()), "lr": rate, **tally.numbers()}
