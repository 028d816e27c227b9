"""A worker process of the local executor."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from volseg.batch.task import IN_FLIGHT, Task, WorkerSetup

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Broken:
    """The model cannot be loaded.

    Attributes:
        message: why.
    """

    message: str


@dataclass(frozen=True)
class Stop:
    """No more tasks; cancel what is computed."""


def worker_main(connection: Connection[object, object], setup: WorkerSetup) -> None:
    """Runs cases that come through ``connection`` until told to stop, or until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent()
    set_threads(setup.threads)
    if not setup.debug:
        silence()
    lock = threading.Lock()

    def send(message: object) -> None:
        with lock, suppress(OSError):
            connection.send(message)

    from volseg.batch.runner import CaseRunner
    from volseg.errors import VolsegError

    logging.getLogger("volseg").propagate = False  # the runner keeps warnings with their case, cleaned
    try:
        runner = CaseRunner(setup)
    except (VolsegError, MemoryError, RuntimeError, OSError) as error:
        send(Broken(str(error) if isinstance(error, VolsegError) else f"{type(error).__name__}: {error}"))
        return
    send(Ready())

    def run(task: Task) -> None:
        record = runner.run(task)
        if record is not None:
            send(record)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the parent is gone; a resumed run does these cases again
            if not isinstance(message, Task):
                runner.cancel()
                break
            pool.submit(run, message)
    runner.close()


def set_threads(count: int) -> None:
    """Sets how many threads libraries will use; before they are imported."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)


def _die_with_parent() -> None:
    """Linux: this process ends when its parent dies, also in the middle of a long computation.

    The parent is the server it was forked from, which ends with the run's process.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def silence() -> None:
    """Libraries print paths and header values past all logging; what matters comes through the connection."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
