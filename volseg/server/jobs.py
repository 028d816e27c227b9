"""What is computed for clients, one thing after another."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from volseg.errors import Cancelled, VolsegError
from volseg.models.options import EncodeOptions
from volseg.prompts import PromptSet

logger = logging.getLogger(__name__)

Errand: TypeAlias = Callable[[], None]


class JobState(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(eq=False)
class Job:
    """One computation.

    Attributes:
        number: counts from 1 in each session.
        options: how the model looks at the image.
        prompts: what to segment; None only prepares the image.
        exact: see ``Model.segment``.
        cancelled: set when nobody wants it any more.
        state: how far it is.
        fraction: the part done.
        text: what is done.
        error: kind and message, once failed.
        asked: when a client last asked after it, by the monotonic clock.
    """

    number: int
    options: EncodeOptions
    prompts: PromptSet | None
    exact: bool
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: JobState = JobState.QUEUED
    fraction: float = 0.0
    text: str = "waiting for the server"
    error: tuple[str, str] | None = None
    asked: float = field(default_factory=time.monotonic)

    def run(self, compute: Callable[[], None], changed: Callable[[], None]) -> None:
        """Does it, and keeps what came of it; never raises."""
        if self.cancelled.is_set():
            self.state = JobState.CANCELLED
        else:
            self.state = JobState.RUNNING
            try:
                compute()
                self.fraction, self.state = 1.0, JobState.DONE
            except Cancelled as error:
                self.state = JobState.CANCELLED
                self.error = ("Cancelled", str(error))
            except VolsegError as error:
                self.error, self.state = (type(error).__name__, str(error)), JobState.FAILED
            except MemoryError:
                self.error = ("ServerRefusedError", "the server has not enough memory for this image and model")
                self.state = JobState.FAILED
            except Exception as error:
                # The message may hold what a person typed or a file is called: where it happened is enough here.
                places = "".join(traceback.format_tb(error.__traceback__)[-4:])
                logger.error("a computation failed with %s at\n%s", type(error).__name__, places)
                self.error = (
                    "ServerRefusedError",
                    f"the server failed with {type(error).__name__}; its log says where",
                )
                self.state = JobState.FAILED
        changed()


class Worker:
    """One thread that computes: models remember things between calls, and one device serves one at a time best."""

    def __init__(self) -> None:
        self._errands: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="volseg-server", daemon=True)
        self._thread.start()

    def submit(self, errand: Errand) -> None:
        """Queues something to do, which must not raise."""
        self._errands.put(errand)

    def close(self, timeout_s: float) -> None:
        """Ends after what is queued."""
        self._errands.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception as error:
                logger.error("an errand failed with %s", type(error).__name__)
            del errand  # it may hold an image
