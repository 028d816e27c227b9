"""Several processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

from volseg.errors import TrainingError

PATIENCE = timedelta(hours=3)
"""How long the others wait while the first process validates."""
BUCKET_NUMBERS = 25_000_000
"""Gradients are sent in parcels of about so many numbers."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run; by default the only one.

    ``DistributedDataParallel`` averages gradients by hooks on ``forward``, which the training steps do not call: they
    call the network's parts. So gradients are averaged here, after the backward pass.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
        device: for this process; empty leaves the choice to others.
    """

    rank: int = 0
    count: int = 1
    device: str = ""

    @property
    def first(self) -> bool:
        """Whether this process records, validates and writes."""
        return self.rank == 0

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces gradients by their mean over all processes.

        A gradient that some processes lack counts as zero there; one that all lack stays missing, so that the optimiser
        leaves the weight alone as it does with one process.

        Args:
            parameters: in the same order in every process.
        """
        trained = [one for one in parameters if one.requires_grad]
        if self.count == 1 or not trained:
            return
        there = torch.tensor([one.grad is not None for one in trained], dtype=torch.int32, device=trained[0].device)
        torch.distributed.all_reduce(there)
        for parcel in _parcels([one for one, count in zip(trained, there.tolist(), strict=True) if count]):
            flat = torch.cat([_gradient(one).reshape(-1) for one in parcel])
            torch.distributed.all_reduce(flat)
            flat /= self.count
            parts = torch.split(flat, [one.numel() for one in parcel])
            for one, part in zip(parcel, parts, strict=True):
                one.grad = part.reshape(one.shape).to(one.dtype)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's values, in place."""
        if self.count > 1:
            for one in tensors:
                torch.distributed.broadcast(one, 0)

    def agree(self, number: float, device: torch.device) -> float:
        """The first process's number, in all processes."""
        if self.count == 1:
            return number
        told = torch.tensor([number], dtype=torch.float64, device=device)
        torch.distributed.broadcast(told, 0)
        return float(told)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            torch.distributed.barrier()


def join_ranks(device: str | None = None) -> Ranks:
    """Joins the processes that ``torchrun`` started; a process that it did not start is alone.

    Args:
        device: ``cpu``, or ``cuda`` for one GPU each; None takes GPUs if there are any.

    Raises:
        TrainingError: there are fewer GPUs than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count() if device is None or device.startswith("cuda") else 0
    if device is not None and device.startswith("cuda") and local >= gpus:
        raise TrainingError(f"process {local} of this machine finds {gpus} GPUs; start one process a GPU, or say cpu")
    where = f"cuda:{local}" if local < gpus else "cpu"
    if not torch.distributed.is_initialized():
        if gpus:
            torch.cuda.set_device(local)
        torch.distributed.init_process_group("nccl" if gpus else "gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return Ranks(rank, count, where)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _parcels(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    parcel: list[nn.Parameter] = []
    for one in parameters:
        parcel.append(one)
        if sum(other.numel() for other in parcel) >= BUCKET_NUMBERS:
            yield parcel
            parcel = []
    if parcel:
        yield parcel
