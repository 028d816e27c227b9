"""Workers as actors of a Ray cluster; the only module that imports Ray, and only when used."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from volseg.batch.executor import Event, Finished, Lost
from volseg.batch.record import CaseRecord
from volseg.batch.task import IN_FLIGHT, Task, WorkerSetup
from volseg.errors import MissingExtraError, ModelError, VolsegError

MAX_FAILED_STARTS = 6
"""Actors in a row that may die before their model is loaded; a node that goes down takes several at once."""


class RayModel:
    """What an actor runs: one model and the cases given to it."""

    def __init__(self, setup: WorkerSetup) -> None:
        from volseg.batch.worker import set_threads, silence

        set_threads(setup.threads)
        if not setup.debug:
            silence()  # Ray keeps what actors print in files of its own
        from volseg.batch.runner import CaseRunner

        logging.getLogger("volseg").propagate = False  # the runner keeps warnings with their case, cleaned
        self._error = ""
        try:
            self._runner: CaseRunner | None = CaseRunner(setup)
        except VolsegError as error:
            # An exception here would only say that the actor died.
            self._runner, self._error = None, str(error)
        # While an actor waits for room, Ray asks all others to collect garbage every few seconds; without this they
        # would look through the libraries' objects each time, for half a second, and nothing else goes on meanwhile.
        gc.collect()
        gc.freeze()

    def ready(self) -> str:
        """Why the model could not be loaded; empty if it was."""
        return self._error

    def run(self, task: Task) -> CaseRecord | None:
        """See ``CaseRunner.run``."""
        return None if self._runner is None else self._runner.run(task)

    def cancel(self) -> None:
        """See ``CaseRunner.cancel``."""
        if self._runner is not None:
            self._runner.cancel()


@dataclass
class _Actor:
    """An actor and the cases in it."""

    handle: Any
    starting: Any
    ready: bool = False
    running: dict[Any, Task] = field(default_factory=dict)

    def takes(self, task: Task) -> bool:
        if not self.ready or any(other.alone for other in self.running.values()):
            return False
        return len(self.running) < (1 if task.alone else IN_FLIGHT)


class RayExecutor:
    """Actors, each with a model and its share of a GPU or of cores; an actor that dies is replaced.

    Image and output folders must be the same for all nodes. Actors that no node has room for wait until one has.

    Args:
        workers: how many actors; 0 for as many as the cluster has room for when the run starts.
        address: of the cluster, as ``ray.init`` takes it; None starts one on this machine.
        gpus: part of a GPU an actor takes, such as 0.5; 0 computes on the CPU.
    """

    def __init__(self, workers: int = 0, address: str | None = None, gpus: float = 0.0) -> None:
        self._count = workers
        self._address = address
        self._gpus = gpus
        self._actors: list[_Actor] = []
        self._setup: WorkerSetup | None = None
        self._failed_starts = 0
        self._ours = False

    @property
    def workers(self) -> int:
        """See ``Executor.workers``."""
        return max(1, self._count)

    def start(self, setup: WorkerSetup) -> None:
        """See ``Executor.start``.

        Raises:
            MissingExtraError: Ray is not installed.
            ModelError: there is no such cluster, or it has no room for one actor.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a run leaves the machine
        ray = import_ray()
        if not ray.is_initialized():
            try:
                # What actors print may name files; their records are cleaned.
                ray.init(address=self._address, log_to_driver=False, include_dashboard=False, configure_logging=True,
                         logging_level="ERROR")  # fmt: skip
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ModelError(f"there is no Ray cluster at {self._address!r}: {error}") from error
            self._ours = True
        self._setup = replace(setup, device="cuda" if self._gpus else "cpu")
        if self._count == 0:
            self._count = _room(ray.cluster_resources(), setup.threads, self._gpus)
        self._actors = [self._new() for _ in range(self._count)]

    def takes(self, task: Task) -> bool:
        """See ``Executor.takes``."""
        return any(actor.takes(task) for actor in self._actors)

    def submit(self, task: Task) -> None:
        """See ``Executor.submit``."""
        actor = min((actor for actor in self._actors if actor.takes(task)), key=lambda item: len(item.running))
        actor.running[actor.handle.run.remote(task)] = task

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """See ``Executor.poll``."""
        import ray

        events: list[Event] = []
        waiting = [actor.starting for actor in self._actors if not actor.ready]
        waiting += [reference for actor in self._actors for reference in actor.running]
        if not waiting:
            time.sleep(timeout_s)
            return events
        ended, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s)
        if ended:
            # Whatever else has ended by now comes along.
            ended, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for reference in ended:
            actor = next(
                (item for item in self._actors if reference == item.starting or reference in item.running), None
            )
            if actor is not None:  # else it was replaced while another of its cases was looked at
                events += self._take(actor, reference)
        return events

    def stop(self, patience_s: float) -> Sequence[Event]:
        """See ``Executor.stop``."""
        events: list[Event] = []
        for actor in self._actors:
            with suppress(Exception):
                actor.handle.cancel.remote()
        deadline = time.monotonic() + patience_s
        while any(actor.running for actor in self._actors) and time.monotonic() < deadline:
            events += [event for event in self.poll(0.2) if isinstance(event, Finished)]
        self.close()
        return events

    def close(self) -> None:
        """See ``Executor.close``."""
        if not self._actors and not self._ours:
            return
        import ray

        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor.handle, no_restart=True)
        self._actors = []
        if self._ours:
            ray.shutdown()
            self._ours = False

    # ---- inside

    def _take(self, actor: _Actor, reference: Any) -> list[Event]:
        import ray

        try:
            result = ray.get(reference)
        except ray.exceptions.RayError as error:
            return self._replace(actor, type(error).__name__)
        if reference == actor.starting:
            if result:
                self.close()
                raise ModelError(f"a Ray actor could not load the model: {result}")
            actor.ready, self._failed_starts = True, 0
            return []
        task = actor.running.pop(reference)
        return [Finished(result)] if result is not None else [Lost(task.case.case_id, "was cancelled")]

    def _replace(self, actor: _Actor, reason: str) -> list[Event]:
        """Another actor for one that died, on whatever node has room."""
        import ray

        with suppress(Exception):
            ray.kill(actor.handle, no_restart=True)  # one that only cannot be reached must not write any more
        if not actor.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self.close()
                raise ModelError(
                    f"{MAX_FAILED_STARTS} Ray actors in a row died before their model was loaded ({reason})"
                )
        lost = [Lost(task.case.case_id, f"died ({reason})") for task in actor.running.values()]
        self._actors[self._actors.index(actor)] = self._new()
        return list(lost)

    def _new(self) -> _Actor:
        import ray

        assert self._setup is not None
        # Restarts and retries are the run's decision, which knows how often a case has been begun.
        made = ray.remote(RayModel).options(
            num_cpus=self._setup.threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=IN_FLIGHT + 1,
        )
        handle = made.remote(self._setup)
        return _Actor(handle, handle.ready.remote())


def import_ray() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--executor ray needs Ray: pip install 'volseg[ray]'") from error
    return ray


def _room(resources: dict[str, float], threads: int, gpus: float) -> int:
    rooms = [int(resources.get("CPU", 0.0) // threads)]
    if gpus:
        rooms.append(int(resources.get("GPU", 0.0) / gpus))
    if min(rooms) < 1:
        raise ModelError(
            f"the Ray cluster has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs, and an actor "
            f"needs {threads} and {gpus:g}; change --threads or --gpus-per-worker"
        )
    return min(rooms)
