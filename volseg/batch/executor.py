"""Where cases are computed: the protocol behind local processes and Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from volseg.batch.record import CaseRecord
from volseg.batch.task import Task, WorkerSetup


@dataclass(frozen=True)
class Finished:
    """A case ended, well or not; its sidecar is written.

    Attributes:
        record: what became of it.
    """

    record: CaseRecord


@dataclass(frozen=True)
class Lost:
    """A worker died with a case in it.

    Attributes:
        case_id: the case.
        reason: what is known, such as the signal.
    """

    case_id: str
    reason: str


Event: TypeAlias = Finished | Lost
"""What an executor reports."""


class Executor(Protocol):
    """Runs cases in workers, of which each has loaded the model once.

    An executor restarts workers that die and reports the cases that were in them; whether these are tried again is not
    its decision.
    """

    @property
    def workers(self) -> int:
        """How many workers there are meant to be."""

    def start(self, setup: WorkerSetup) -> None:
        """Starts the workers; does not wait for them."""

    def takes(self, task: Task) -> bool:
        """Whether some worker would take the task now; a task that must be alone waits for an empty one."""

    def submit(self, task: Task) -> None:
        """Gives a task that ``takes`` accepted to a worker."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """What happened, after waiting at most ``timeout_s`` for something.

        Raises:
            ModelError: no worker can load the model.
        """

    def stop(self, patience_s: float) -> Sequence[Event]:
        """Stops soon: computing is cancelled, what is being written is finished within ``patience_s``.

        Returns:
            What still ended.
        """

    def close(self) -> None:
        """Ends all workers at once."""
