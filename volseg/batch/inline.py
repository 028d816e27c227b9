"""Cases in threads of this process, for programs that have a model at hand."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from volseg.batch.executor import Event, Finished, Lost
from volseg.batch.record import CaseRecord
from volseg.batch.task import IN_FLIGHT, Task, WorkerSetup
from volseg.errors import ModelError

if TYPE_CHECKING:
    from volseg.batch.runner import CaseRunner
    from volseg.models.base import Model


class InlineExecutor:
    """One worker without a process of its own: a crash takes the program along, and there is no time limit.

    Args:
        model: one that is loaded already; None loads the run's.
    """

    def __init__(self, model: Model | None = None) -> None:
        self._model = model
        self._runner: CaseRunner | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._ended: queue.Queue[tuple[Task, CaseRecord | None]] = queue.Queue()
        self._in_flight = 0

    @property
    def workers(self) -> int:
        """Always 1."""
        return 1

    def start(self, setup: WorkerSetup) -> None:
        """See ``Executor.start``.

        Raises:
            ModelError: the model cannot be loaded, or a time limit is asked for.
        """
        from volseg.batch.runner import CaseRunner

        if setup.timeout_s is not None:
            raise ModelError("a time limit needs workers that can be ended; use LocalExecutor")
        self._runner = CaseRunner(setup, self._model)
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="case")

    def takes(self, task: Task) -> bool:
        """See ``Executor.takes``."""
        return self._in_flight < IN_FLIGHT

    def submit(self, task: Task) -> None:
        """See ``Executor.submit``."""
        assert self._pool is not None
        assert self._runner is not None
        runner = self._runner
        self._in_flight += 1
        self._pool.submit(lambda: self._ended.put((task, runner.run(task))))

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """See ``Executor.poll``."""
        try:
            task, record = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        self._in_flight -= 1
        return (Lost(task.case.case_id, "was cancelled"),) if record is None else (Finished(record),)

    def stop(self, patience_s: float) -> Sequence[Event]:
        """See ``Executor.stop``."""
        if self._runner is None or self._pool is None:
            return ()
        self._runner.cancel()
        self._pool.shutdown(wait=True)
        return [event for _ in range(self._in_flight) for event in self.poll(0.01)]

    def close(self) -> None:
        """See ``Executor.close``."""
        if self._runner is not None and self._pool is not None:
            self._runner.cancel()
            self._pool.shutdown(wait=True)
            self._runner.close()
        self._runner = self._pool = None
