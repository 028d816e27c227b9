"""Ends a worker whose case takes too long."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from volseg.batch.record import CaseError, ErrorKind, Stage

EXIT_CODE = 77
"""Of a worker that the watchdog ended."""

GRACE_S = 10.0
"""A library may hold Python's lock while it hangs, so that no thread runs; this much later the process is ended from
outside Python."""


class Watchdog:
    """Watches how long cases work; their waiting for one another does not count.

    Computing in C cannot be interrupted from within a process, so the process ends, its other cases are begun anew in
    another one, and the guilty one has its sidecar.
    """

    def __init__(self, limit_s: float | None, overdue: Callable[[Any, CaseError], None]) -> None:
        """Args: limit_s, None watches nothing; overdue, called with the work before the process ends."""
        self._limit_s = limit_s
        self._overdue = overdue
        self._lock = threading.Lock()
        self._deadlines: dict[int, tuple[float, Any]] = {}
        if limit_s is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, work: Any, before_s: float) -> Iterator[None]:
        """Watches the block.

        Args:
            work: handed to ``overdue``; has the ``stage``.
            before_s: seconds that earlier stages took.
        """
        if self._limit_s is None:
            yield
            return
        me = threading.get_ident()
        with self._lock:
            self._deadlines[me] = (time.monotonic() + self._limit_s - before_s, work)
        hard = work.stage is Stage.COMPUTE
        if hard:
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a path
                keep = os.dup(nowhere.fileno())
            faulthandler.dump_traceback_later(self._limit_s + GRACE_S, exit=True, file=keep)
        try:
            yield
        finally:
            if hard:
                faulthandler.cancel_dump_traceback_later()
                os.close(keep)
            with self._lock:
                del self._deadlines[me]

    def _watch(self) -> None:
        assert self._limit_s is not None
        while True:
            time.sleep(min(0.1, self._limit_s / 4))
            # The lock is kept to the end, so that a late case cannot end well in between.
            with self._lock:
                now = time.monotonic()
                late = [work for deadline, work in self._deadlines.values() if now > deadline]
                for work in late:
                    error = CaseError(
                        ErrorKind.TIMEOUT, f"took longer than {self._limit_s:g} s, in stage {work.stage}", work.stage
                    )
                    with suppress(Exception):
                        self._overdue(work, error)
                if late:
                    os._exit(EXIT_CODE)
