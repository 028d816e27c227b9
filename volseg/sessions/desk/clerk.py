"""Saves, and does what is small, while masks are being computed."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from volseg.errors import VolsegError
from volseg.sessions.desk.autosave import Autosave
from volseg.sessions.desk.events import Autosaved, DeskEvent, Failed, Saved
from volseg.sessions.session import Session
from volseg.sessions.state import SessionState

logger = logging.getLogger(__name__)

AUTOSAVE_DELAY_S = 0.5
"""Changes that follow each other this quickly are saved together."""

Task: TypeAlias = Callable[[Session], None]
"""A change of the session, or something done with it."""


class Clerk:
    """A thread that does tasks in order and keeps unsaved work where a crash leaves it.

    Args:
        session: gives the session; ``SessionError`` while there is none.
        tell: takes what happens; called in this thread.
    """

    def __init__(self, session: Callable[[], Session], tell: Callable[[DeskEvent], None]) -> None:
        self._session = session
        self._tell = tell
        self._autosave: Autosave | None = None
        self._saved_state: SessionState | None = None
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._unsaved = threading.Event()
        self._closing = threading.Event()
        self.thread = threading.Thread(target=self._work, name="volseg-clerk", daemon=True)
        self.thread.start()

    def begin(self, session: Session, autosave: Autosave | None) -> None:
        """There is a session now, of which everything is saved.

        Args:
            session: as it was opened.
            autosave: where unsaved work goes; None keeps none.
        """
        self._saved_state = session.state
        self._autosave = autosave

    def is_unsaved(self, state: SessionState) -> bool:
        """Whether a state holds something that is not in the file that the person saved last."""
        return bool(state.objects) and state is not self._saved_state

    def note_change(self) -> None:
        """The session changed; it is kept soon."""
        self._unsaved.set()

    def do(self, task: Task) -> None:
        """Does a task after those before it; ``Failed`` tells its errors."""
        self._tasks.put(task)

    def save(self, path: Path, is_copy: bool) -> None:
        """See ``Desk.save``."""

        def write(session: Session) -> None:
            state = session.state
            session.save(path)
            if not is_copy:
                self._saved_state = state
                if self._autosave is not None and session.state is state:
                    self._autosave.discard()
            self._tell(Saved(path))

        self.do(write)

    def resume(self, path: Path, allow_other: bool, saved: bool) -> None:
        """See ``Desk.resume``."""

        def read(session: Session) -> None:
            session.restore(path, allow_other_image=allow_other, allow_other_model=allow_other)
            if saved:
                self._saved_state = session.state

        self.do(read)

    def close(self) -> None:
        """Does what was asked for, keeps what is unsaved, and ends."""
        self._closing.set()
        self._tasks.put(None)

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                task = self._tasks.get(timeout=AUTOSAVE_DELAY_S)
            except queue.Empty:
                self._keep()
                continue
            self._do(task)
        while not self._tasks.empty():
            self._do(self._tasks.get())
        self._keep()
        if self._autosave is not None:
            self._autosave.close()

    def _do(self, task: Task | None) -> None:
        if task is None:
            return
        try:
            task(self._session())
        except Exception as error:
            if not isinstance(error, VolsegError):
                logger.error("a task failed", exc_info=error)
            self._tell(Failed(error))

    def _keep(self) -> None:
        """Writes the autosave, if there is something new to keep."""
        if self._autosave is None or not self._unsaved.is_set():
            return
        self._unsaved.clear()
        session = self._session()
        if not self.is_unsaved(session.state):
            return
        try:
            self._autosave.write(session)
        except VolsegError as error:
            logger.warning("the autosave failed: %s", error)
            self._tell(Failed(error))
        else:
            self._tell(Autosaved(self._autosave.path))
