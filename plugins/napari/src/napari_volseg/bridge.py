"""From the desk's threads to the window's."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from qtpy.QtCore import QAbstractEventDispatcher, QCoreApplication, QEvent, QObject, Qt, Signal

from volseg.errors import VolsegError
from volseg.sessions.desk import DeskEvent, Painted, StateChanged, Working

logger = logging.getLogger(__name__)

CALLBACK_SECONDS: deque[tuple[str, float, float]] = deque(maxlen=100_000)
"""How long the latest callbacks of this plugin kept the window busy: (name, seconds by the clock, seconds of work).

What napari does when it is told to add or remove a layer stands in rows of its own, and not in those of the callback.
"""

_NAPARI_S = [0.0, 0.0]
"""What napari took so far inside of callbacks: seconds by the clock, and of work."""

SLOW_S = 0.05
"""A callback that takes longer is felt."""

Method = TypeVar("Method", bound=Callable[..., Any])


class DeskBridge(QObject):
    """A desk's listener that speaks in the window's thread, and says news that overtook each other only once."""

    news = Signal(object)
    _wake = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._waiting: list[DeskEvent] = []
        self._closed = False
        # Never at once: whoever speaks may hold the session's lock, also in the window's own thread.
        self._wake.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def __call__(self, event: DeskEvent) -> None:
        """Takes an event, in any thread."""
        with self._lock:
            if self._closed:
                return
            first = not self._waiting
            self._waiting = [old for old in self._waiting if not _overtaken(old, event)]
            self._waiting.append(event)
        if first:
            self._wake.emit()

    def close(self) -> None:
        """Says nothing any more."""
        with self._lock:
            self._closed = True
            self._waiting = []

    def _deliver(self) -> None:
        with self._lock:
            events, self._waiting = self._waiting, []
        for event in events:
            if not self._closed:
                self.news.emit(event)


def _overtaken(old: DeskEvent, new: DeskEvent) -> bool:
    if isinstance(old, Painted) and isinstance(new, Painted):
        # Whoever shows the array must learn of another one, and the end of a preview.
        return not old.array_replaced and (old.preview or not new.preview)
    return type(old) is type(new) and isinstance(old, Working | StateChanged)


class BusyWatch(QObject):
    """Says when the window's thread begins to work, and when it has nothing to do.

    Args:
        tell: called in that thread, with True and False in turns.
    """

    def __init__(self, tell: Callable[[bool], None]) -> None:
        super().__init__()
        self._tell = tell
        self._busy = False
        self._application = QCoreApplication.instance()
        self._dispatcher = QAbstractEventDispatcher.instance()
        if self._application is not None and self._dispatcher is not None:
            self._application.installEventFilter(self)
            self._dispatcher.aboutToBlock.connect(self._rest)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Qt's name: sees every event before it is handled; lets all of them through."""
        if not self._busy:
            self._busy = True
            self._tell(True)
        return False

    def close(self) -> None:
        """Says nothing any more, and False at last."""
        if self._application is not None and self._dispatcher is not None:
            self._application.removeEventFilter(self)
            self._dispatcher.aboutToBlock.disconnect(self._rest)
        self._rest()

    def _rest(self) -> None:
        self._busy = False
        self._tell(False)


@contextmanager
def by_napari(what: str) -> Iterator[None]:
    """Around a call that is napari's own work and cannot be divided from here."""
    start, work = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        took = time.perf_counter() - start, time.thread_time() - work
        CALLBACK_SECONDS.append((f"napari {what}", *took))
        _NAPARI_S[:] = [sum(pair) for pair in zip(_NAPARI_S, took, strict=True)]


def callback(method: Method) -> Method:
    """For what the window calls: errors are said to the person, and the time it takes is noted."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        start, work, before = time.perf_counter(), time.thread_time(), tuple(_NAPARI_S)
        try:
            return method(self, *args, **kwargs)
        except VolsegError as error:
            self.say(str(error), problem=True)
        except Exception as error:
            # A window that dies of a bug takes the person's work along; the bug goes to the log.
            logger.exception("%s failed", method.__name__)
            self.say(f"{type(error).__name__}: {error}", problem=True)
        finally:
            theirs = [after - one for after, one in zip(_NAPARI_S, before, strict=True)]
            seconds = time.perf_counter() - start - theirs[0]
            CALLBACK_SECONDS.append((_name(method, args), seconds, time.thread_time() - work - theirs[1]))
            if seconds > SLOW_S:
                logger.info("%s kept the window busy for %.0f ms", method.__name__, seconds * 1000)
        return None

    return guarded  # type: ignore[return-value]


def _name(method: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The method, and for news which news."""
    return method.__name__ + (f" {type(args[0]).__name__}" if method.__name__ == "_on_news" and args else "")
