"""MONAI's trainer around volseg's steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from volseg.training.batches import TrainingBatches
from volseg.training.update import StepUpdate

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer
    from monai.inferers import Inferer


def build_trainer(
    training: Any,
    dataset: TrainingBatches,
    update: StepUpdate,
    train_handlers: Sequence[Any] = (),
    *,
    max_epochs: int | None = None,
    inferer: Inferer | None = None,
    workers: int = 0,
) -> SupervisedTrainer:
    """The trainer of a run, set to the step where the run stands.

    Args:
        training: what is trained, a `run.Training`.
        dataset: all batches of the run by step.
        update: the optimiser step.
        train_handlers: ignite handlers, such as `record.RunRecord`.
        max_epochs: None takes the schedule's.
        inferer: kept for MONAI; the steps call the network's parts themselves.
        workers: processes that draw batches beside the training; 0 draws in the training's own.
    """
    from monai.data import DataLoader
    from monai.engines import SupervisedTrainer

    schedule, first = training.config.schedule, training.first_step
    loader = DataLoader(
        dataset, batch_size=None, sampler=range(first, schedule.steps), num_workers=workers, collate_fn=_as_is
    )
    trainer = SupervisedTrainer(
        device=training.state.network.device,
        max_epochs=max_epochs or math.ceil(schedule.steps / schedule.steps_per_epoch),
        train_data_loader=loader,
        network=training.state.network,
        optimizer=training.state.optimizer,
        loss_function=_no_loss,
        epoch_length=schedule.steps_per_epoch,
        prepare_batch=_as_is,
        iteration_update=update,
        inferer=inferer,
        decollate=False,
        train_handlers=list(train_handlers),
    )
    trainer.state.epoch = first // schedule.steps_per_epoch
    trainer.state.iteration = first
    return trainer


def _no_loss(*_: Any) -> Tensor:
    """The trainer asks for a loss function; the steps bring their own."""
    raise NotImplementedError


def _as_is(batch: Any, *_: Any, **__: Any) -> Any:
    return batch
