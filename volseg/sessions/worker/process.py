"""The process that computes, as the window's process sees it."""

from __future__ import annotations

import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import Cancelled, VolsegError
from volseg.models.base import PartialCallback
from volseg.progress import ProgressCallback, report
from volseg.sessions.worker.courtesy import Busy
from volseg.sessions.worker.messages import (
    Answer,
    Asked,
    Cancel,
    Grown,
    Request,
    Told,
    read_message,
    write_message,
    write_voxels,
)

WAIT_S = 0.05
"""How often whoever waits asks whether it should stop."""


class ProcessLost(VolsegError):
    """The process ended by itself, or was killed."""


class WorkerProcess:
    """Holds models and encoded images for a window, and computes; started when first needed.

    A computation in the window's own process holds Python's lock now and then, and shares the window's priority; one
    in another process does neither, and may run out of memory without taking the window along.

    The process ends with ``close``, and with this one, however that ends.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = False
        self._images, self._requests = itertools.count(1), itertools.count(1)
        # Windows lets a window go first by itself, with processes of another priority class.
        self._busy = Busy() if os.name == "posix" else None

    def start(self) -> int:
        """Starts the process where none runs; its number, by which a later one can be told from it.

        Raises:
            Cancelled: this is closed.
        """
        with self._state:
            if self._closed:
                raise Cancelled("the window is closed")
            if self._process is None or self._process.poll() is not None:
                self._replies = queue.SimpleQueue()
                self._process = _started(self._busy)
                arguments = self._process, self._replies
                threading.Thread(target=_listen, args=arguments, name="volseg-worker", daemon=True).start()
            return self._process.pid

    def new_id(self) -> int:
        """For an image before a model."""
        return next(self._images)

    def ask(
        self,
        request: Request,
        pid: int,
        voxels: NDArray[np.generic] | None = None,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
    ) -> Any:
        """Sends a request and waits for what it is answered with; one at a time.

        Args:
            request: what to do.
            pid: of the process that knows what the request is about.
            voxels: go along with ``Open``.
            progress: told the part done; may cancel, also while another request is being answered.
            partial: given masks as they grow.

        Raises:
            ProcessLost: that process is not there any more.
            Cancelled: ``progress`` asked to stop, or this is closed.
        """
        with self._my_turn(progress):
            with self._state:
                process, replies = self._process, self._replies
            if process is None or process.pid != pid:
                raise self._lost(process)
            assert process.stdin is not None
            number = next(self._requests)
            try:
                write_message(process.stdin, Asked(number, request))
                if voxels is not None:
                    write_voxels(process.stdin, voxels)
            except (OSError, ValueError) as error:
                raise self._lost(process) from error
            try:
                answer = self._answer(replies, progress, partial)
            except BaseException:
                self._give_up(process, replies, number)
                raise
        if answer is None:
            raise self._lost(process)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def window_works(self, working: bool) -> None:
        """Says whether the window's thread works right now: the process makes short pauses then.

        Where there are few cores, or these draw as well, a window would stutter otherwise. May be called as often as
        the window's event loop turns.
        """
        if self._busy is not None:
            self._busy.set(working)

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None where none does."""
        with self._state:
            running = self._process is not None and self._process.poll() is None
            return self._process.pid if running and self._process is not None else None

    def close(self) -> None:
        """Ends the process, whatever it computes; does not wait."""
        with self._state:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            process.kill()

    # ---- inside

    @contextmanager
    def _my_turn(self, progress: ProgressCallback | None) -> Iterator[None]:
        while not self._turn.acquire(timeout=WAIT_S):
            report(progress, 0.0, "waiting for another prediction")
        try:
            yield
        finally:
            self._turn.release()

    def _answer(
        self, replies: queue.SimpleQueue[Any], progress: ProgressCallback | None, partial: PartialCallback | None
    ) -> Answer | None:
        """What comes of a request; None if the process has ended."""
        told = Told(0.0, "waiting for the process that computes")
        while True:
            try:
                reply = replies.get(timeout=WAIT_S)
            except queue.Empty:
                report(progress, told.fraction, told.text)
                continue
            match reply:
                case Told():
                    told = reply
                    report(progress, told.fraction, told.text)
                case Grown(result) if partial is not None:
                    partial(result.mask())
                case Answer() | None:
                    return reply

    def _give_up(self, process: subprocess.Popen[bytes], replies: queue.SimpleQueue[Any], number: int) -> None:
        """Tells the process to stop, and waits until it has."""
        try:
            assert process.stdin is not None
            write_message(process.stdin, Cancel(number))
        except (OSError, ValueError):
            return
        while not isinstance(replies.get(), Answer | None):
            continue

    def _lost(self, process: subprocess.Popen[bytes] | None) -> VolsegError:
        if self._closed:
            return Cancelled("the window is closed")
        status = "" if process is None else f" with status {process.wait()}"
        return ProcessLost(f"the process that computes ended{status}")


def _started(busy: Busy | None) -> subprocess.Popen[bytes]:
    # Modules are found where this process finds them.
    paths = os.pathsep.join(path for path in sys.path if path)
    shared = () if busy is None else (busy.descriptor,)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "volseg.sessions.worker.child", *map(str, shared)],
        pass_fds=shared,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)
        | getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _listen(process: subprocess.Popen[bytes], replies: queue.SimpleQueue[Any]) -> None:
    """Passes on what the process says; None once it has ended."""
    assert process.stdout is not None
    try:
        while True:
            replies.put(read_message(process.stdout))
    except EOFError:
        process.wait()
    finally:
        process.stdout.close()
        replies.put(None)
