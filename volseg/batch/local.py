"""Workers as processes on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from volseg.batch.executor import Event, Finished, Lost
from volseg.batch.record import CaseRecord
from volseg.batch.task import IN_FLIGHT, Task, WorkerSetup
from volseg.batch.worker import THREAD_VARIABLES, Broken, Ready, Stop, set_threads, worker_main
from volseg.errors import ModelError

MAX_FAILED_STARTS = 3
"""Processes in a row that may die before their model is loaded."""


@dataclass
class _Worker:
    """A process and the cases in it."""

    process: Any
    connection: Any
    device: str
    ready: bool = False
    tasks: dict[str, Task] = field(default_factory=dict)

    def takes(self, task: Task) -> bool:
        if not self.ready or not self.process.is_alive() or any(other.alone for other in self.tasks.values()):
            return False
        return len(self.tasks) < (1 if task.alone else IN_FLIGHT)


class LocalExecutor:
    """Processes that are started anew when they die.

    Args:
        workers: how many.
        devices: dealt out to the workers in turn.
    """

    def __init__(self, workers: int = 1, devices: Sequence[str] = ("cpu",)) -> None:
        self._count = workers
        self._devices = tuple(devices)
        self._context: Any = _context()
        self._workers: list[_Worker] = []
        self._setup: WorkerSetup | None = None
        self._failed_starts = 0

    @property
    def workers(self) -> int:
        """See ``Executor.workers``."""
        return self._count

    def start(self, setup: WorkerSetup) -> None:
        """See ``Executor.start``."""
        self._setup = setup
        with _threads_in_environment(setup.threads):
            self._workers = [self._new(self._devices[n % len(self._devices)]) for n in range(self._count)]

    def takes(self, task: Task) -> bool:
        """See ``Executor.takes``."""
        return any(worker.takes(task) for worker in self._workers)

    def submit(self, task: Task) -> None:
        """See ``Executor.submit``."""
        # The emptiest first, so that no worker waits while another has a queue.
        worker = min((worker for worker in self._workers if worker.takes(task)), key=lambda item: len(item.tasks))
        worker.tasks[task.case.case_id] = task
        # A worker that has just died is found out by ``poll``, which then reports this task too.
        with suppress(OSError):
            worker.connection.send(task)

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """See ``Executor.poll``."""
        events: list[Event] = []
        waiting = {worker.connection: worker for worker in self._workers}
        waiting |= {worker.process.sentinel: worker for worker in self._workers}
        if not waiting:
            time.sleep(timeout_s)
            return events
        for worker in {
            id(waiting[item]): waiting[item] for item in multiprocessing.connection.wait(list(waiting), timeout_s)
        }.values():
            # Alive is asked first: what a process sent before it died is in the pipe by then.
            alive = worker.process.is_alive()
            events += self._receive(worker)
            if not alive:
                events += self._replace(worker)
        return events

    def stop(self, patience_s: float) -> Sequence[Event]:
        """See ``Executor.stop``."""
        events: list[Event] = []
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(Stop())
        deadline = time.monotonic() + patience_s
        for worker in self._workers:
            while worker.process.is_alive() and worker.ready and time.monotonic() < deadline:
                worker.process.join(0.05)
                events += self._receive(worker)
            events += self._receive(worker)
        self.close()
        return events

    def close(self) -> None:
        """See ``Executor.close``."""
        for worker in self._workers:
            with suppress(OSError):
                worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers = []

    # ---- inside

    def _receive(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        with suppress(EOFError, OSError):
            while worker.connection.poll():
                message = worker.connection.recv()
                if isinstance(message, Broken):
                    self.close()
                    raise ModelError(f"a worker could not load the model: {message.message}")
                if isinstance(message, Ready):
                    worker.ready, self._failed_starts = True, 0
                if isinstance(message, CaseRecord):
                    worker.tasks.pop(message.case_id, None)
                    events.append(Finished(message))
        return events

    def _replace(self, worker: _Worker) -> list[Event]:
        """Another process for one that died."""
        worker.process.join()
        worker.connection.close()
        reason = _end_of(worker.process.exitcode)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self._workers.remove(worker)
                self.close()
                raise ModelError(
                    f"{MAX_FAILED_STARTS} workers in a row {reason} before their model was loaded; is there enough "
                    "memory? try fewer with --workers"
                )
        self._workers[self._workers.index(worker)] = self._new(worker.device)
        return [Lost(case_id, reason) for case_id in worker.tasks]

    def _new(self, device: str) -> _Worker:
        assert self._setup is not None
        ours, theirs = self._context.Pipe()
        setup = replace(self._setup, device=device)
        process = self._context.Process(target=worker_main, args=(theirs, setup), name="volseg-batch", daemon=True)
        with _ignoring_interrupts():
            process.start()
        theirs.close()
        return _Worker(process, ours, device)


def _context() -> Any:
    """How processes are started.

    A fork of this process would share its locks and CUDA's state. A server that has imported the libraries and nothing
    else is forked instead: further workers, and those that take a dead one's place, start at once and share its pages.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["volseg.batch.preload"])
    return context


@contextmanager
def _threads_in_environment(count: int) -> Iterator[None]:
    """The server's libraries read the number of threads when they are imported."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    set_threads(count)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A new process inherits this, so that Ctrl-C during its first second prints no traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_of(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with status {code}"
