"""What goes to a worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from volseg.batch.case import Case
from volseg.batch.options import CaseOptions, ModelChoice

IN_FLIGHT = 3
"""Cases a worker holds at once: one is read, one computed, one written."""


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker of a run knows.

    Attributes:
        model: loaded once.
        options: what decides the outputs.
        output: where they go; on a cluster, a folder that all nodes see.
        run_id: of the run.
        threads: for computing.
        device: for computing.
        timeout_s: seconds a case may take, its waiting not counted; None for ever.
        debug: show what libraries print.
    """

    model: ModelChoice
    options: CaseOptions
    output: Path
    run_id: str
    threads: int = 1
    device: str = "cpu"
    timeout_s: float | None = None
    debug: bool = False


@dataclass(frozen=True)
class Task:
    """One case for a worker.

    Attributes:
        case: the case.
        attempt: from 1; more after a worker died.
        estimated_bytes: what the plan takes it for.
    """

    case: Case
    attempt: int = 1
    estimated_bytes: int = 0

    @property
    def alone(self) -> bool:
        """Whether no other case may be in the worker: one of several that were in it when it died may be to blame."""
        return self.attempt > 1
