"""Drives a session in the background."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, SessionError, VolsegError
from volseg.progress import ProgressCallback
from volseg.sessions.desk.autosave import Autosave
from volseg.sessions.desk.canvas import LabelCanvas, merge_preview
from volseg.sessions.desk.clerk import Clerk, Task
from volseg.sessions.desk.correction import correction_prompts, painted_mask
from volseg.sessions.desk.events import (
    Connected,
    DeskEvent,
    Disconnected,
    Exported,
    Failed,
    Idle,
    ObjectSummary,
    Opened,
    Painted,
    StateChanged,
    Working,
)
from volseg.sessions.desk.picture import Picture
from volseg.sessions.session import ResultKey, Session

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.25
"""Progress is told no more often than this, but for where it begins and ends. A window that is drawn in software needs
25 ms for each time.
"""

RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""How long to wait before an engine that cannot be reached is tried again; the last one from then on."""

OpenSession: TypeAlias = Callable[[ProgressCallback], Session]
"""Reads the image, loads the model and makes the session; called in the computing thread."""

Listener: TypeAlias = Callable[[DeskEvent], None]
"""Told what happens, from any thread; must return at once."""

T = TypeVar("T")


class Desk:
    """One session, computed in the background.

    Change the session directly (``desk.session.add_prompt(...)``), from any thread: the desk notices, gives up what it
    was computing if that is no longer wanted, computes the object of the latest prompt first, and tells the listener.
    Nothing here waits for a computation, so a window can call all of it.

    Two threads work: one opens, encodes, predicts and exports; the other saves and does small tasks meanwhile.

    Args:
        open_session: makes the session.
        listener: told what happens.
        autosave_folder: where unsaved work is kept; None keeps none.
    """

    def __init__(self, open_session: OpenSession, listener: Listener, autosave_folder: Path | None = None) -> None:
        self._open_session: OpenSession | None = open_session
        self._listener: Listener | None = listener
        self._autosave_folder = autosave_folder
        self._session: Session | None = None
        self._picture: Picture | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._closing = threading.Event()
        self._cancelled = threading.Event()
        self._changed = threading.Event()
        self._exports: queue.SimpleQueue[tuple[Path, str | None]] = queue.SimpleQueue()
        self._failed: dict[int, ResultKey] = {}
        self._busy = False
        self._told = 0.0
        self._last_told = 0.0, ""
        self._clerk = Clerk(lambda: self.session, self._tell)
        self._computer = threading.Thread(target=self._compute, name="volseg-desk", daemon=True)
        self._computer.start()

    # ---- what there is

    @property
    def session(self) -> Session:
        """The session.

        Raises:
            SessionError: it is not open yet.
        """
        if self._session is None:
            raise SessionError("the image is still being opened; wait a moment")
        return self._session

    @property
    def canvas(self) -> LabelCanvas:
        """What a viewer shows.

        Raises:
            SessionError: it is not open yet.
        """
        if self._picture is None:
            raise SessionError("the image is still being opened; wait a moment")
        return self._picture.canvas

    @property
    def is_open(self) -> bool:
        """Whether the session takes prompts."""
        return self._picture is not None and not self._closing.is_set()

    def summary(self, object_id: int) -> ObjectSummary | None:
        """The object's mask in numbers, None while it is not computed."""
        return None if self._picture is None else self._picture.summary(object_id)

    def mask(self, object_id: int) -> ObjectMask | None:
        """The object's mask as it was last computed, also while a newer one is on its way."""
        return None if self._picture is None else self._picture.mask(object_id)

    @property
    def has_unsaved_changes(self) -> bool:
        """Whether something was said that is not in the file the person saved last."""
        return self._session is not None and self._clerk.is_unsaved(self._session.state)

    # ---- what can be asked for

    def cancel(self) -> None:
        """Stops what is being computed; the rest waits until the next change or ``predict``."""
        self._cancelled.set()
        self._changed.set()

    def predict(self) -> None:
        """Goes on after ``cancel``, and tries again what failed."""
        self._failed.clear()
        self._cancelled.clear()
        self._changed.set()

    def save(self, path: str | Path, *, is_copy: bool = False) -> None:
        """Writes the session; ``Saved`` or ``Failed`` follows.

        Args:
            path: the session file.
            is_copy: the person does not know the file, so what was unsaved stays so.
        """
        self._clerk.save(Path(path), is_copy)

    def resume(self, path: str | Path, *, allow_other: bool = False, saved: bool = True) -> None:
        """Puts a saved session in the place of everything; ``StateChanged`` or ``Failed`` follows.

        Args:
            path: the session file.
            allow_other: also one of another model, or of another copy of the image.
            saved: whether the person knows the file, so that nothing is unsaved afterwards.
        """
        self._clerk.resume(Path(path), allow_other, saved)

    def correct(self, object_id: int, region: tuple[slice, ...]) -> None:
        """Takes what a brush wrote into the canvas as a correction; ``StateChanged`` or ``Failed`` follows.

        The stroke stays in sight until the model has answered it. Other objects' voxels are put back.

        Args:
            object_id: the object that was painted or erased.
            region: the block of the canvas that may have been written.
        """
        added, removed = self.canvas.take_stroke(region, object_id)

        def say(session: Session) -> None:
            empty = ObjectMask(object_id, session.grid, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool))
            mask = self.mask(object_id) or empty
            try:
                prompts = correction_prompts(session.card, mask, added, removed)
                session.add_prompts_to(object_id, prompts)
            except VolsegError:
                self.canvas.repaint(region)
                self._tell(Painted(False, object_id))
                raise
            if self._picture is not None:
                self._picture.keep(painted_mask(mask, added, removed))
            self._changed.set()

        self._clerk.do(say)

    def do(self, task: Task) -> None:
        """Runs a change of the session that takes longer than a window may wait; ``Failed`` tells its errors."""
        self._clerk.do(task)

    def export(self, path: str | Path, axcodes: str | None = None) -> None:
        """Computes all masks exactly and writes the label map; ``Exported`` or ``Failed`` follows.

        Args:
            path: see ``write_labelmap``.
            axcodes: writes voxels in this order, such as that of the file the image came from; None keeps the image's.
        """
        self._cancelled.clear()
        self._exports.put((Path(path), axcodes))
        self._changed.set()

    def close(self, timeout_s: float | None = 5.0) -> None:
        """Stops everything, saves what is unsaved where a crash would leave it, and frees the image.

        Args:
            timeout_s: how long to wait for the threads; 0 does not wait, and they end by themselves.
        """
        self._listener = None
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._closing.set()
        self._changed.set()
        self._clerk.close()
        if timeout_s != 0:
            for thread in (self._clerk.thread, self._computer):
                if thread is not threading.current_thread():
                    thread.join(timeout_s)

    # ---- the computing thread

    def _compute(self) -> None:
        try:
            session = self._open()
        except Cancelled:
            return
        except Exception as error:
            # Whatever goes wrong while opening, the person must learn of it: the thread has no other way to tell.
            if not isinstance(error, VolsegError):
                logger.exception("the image could not be opened")
            self._tell(Failed(error, fatal=True))
            return
        try:
            while True:
                self._changed.clear()
                # After the clearing: closing sets it and then wakes this thread, which must not miss both.
                if self._closing.is_set():
                    return
                self._paint()
                if not self._next_step(session):
                    if self._busy:
                        self._busy = False
                        self._tell(Idle(cancelled=self._cancelled.is_set()))
                    self._changed.wait()
        finally:
            session.close()
            if self._picture is not None:
                self._picture.forget()

    def _open(self) -> Session:
        def opened() -> Session:
            assert self._open_session is not None
            return self._open_session(self._progress)

        try:
            session = self._reach(opened)
        finally:
            # It may hold a window's layer, which must not outlive its window here.
            self._open_session = None
        self._progress(0.0, "preparing the image")
        autosave = None
        if self._autosave_folder is not None:
            autosave = Autosave(self._autosave_folder, session.image_sha256)
        self._clerk.begin(session, autosave)
        self._session = session
        self._picture = Picture(session)
        self._unsubscribe = session.subscribe(self._noted)
        self._tell(Opened(session, autosave.found if autosave is not None else None))
        try:
            self._reach(lambda: session.encode(self._progress))
        except ConnectionError:
            # The person gave up waiting; the next prompt tries again.
            self._tell(Idle(cancelled=True))
        else:
            self._tell(Idle())
        return session

    def _reach(self, work: Callable[[], T]) -> T:
        """Does what needs the engine, again and again until it can be reached.

        Raises:
            Cancelled: the desk is being closed.
            ConnectionError: the person cancelled.
        """
        attempt = 0
        while True:
            try:
                result = work()
            except ConnectionError as error:
                self._tell(Disconnected(error))
                self._changed.clear()
                # After the clearing: who closes or cancels sets it last.
                if not self._closing.is_set() and not self._cancelled.is_set():
                    self._changed.wait(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                if self._closing.is_set():
                    raise Cancelled("the desk is closed") from error
                if self._cancelled.is_set():
                    raise
                attempt += 1
            else:
                if attempt:
                    self._tell(Connected())
                return result

    def _noted(self) -> None:
        """A change was made, in whatever thread."""
        self._cancelled.clear()
        self._changed.set()
        self._clerk.note_change()
        self._tell(StateChanged())

    def _next_step(self, session: Session) -> bool:
        """Computes one thing; False if there is nothing to do."""
        if self._cancelled.is_set():
            return False
        try:
            path, axcodes = self._exports.get_nowait()
        except queue.Empty:
            object_id = self._wanted(session)
            if object_id is None:
                return False
            self._predict_object(session, object_id)
        else:
            self._export(session, path, axcodes)
        return True

    def _wanted(self, session: Session) -> int | None:
        """The object to compute: that of the latest prompt among those that are outdated."""
        state = session.state
        todo = [number for number in session.outdated() if self._failed.get(number) != session.key(number)]
        latest = {number: max(e.revision for e in state.entries_of(number)) for number in todo}
        return max(todo, key=lambda number: latest[number], default=None)

    def _predict_object(self, session: Session, object_id: int) -> None:
        self._busy = True
        key = session.key(object_id)
        before = self.mask(object_id)
        growth_axis: int | None = None
        shown = False

        def progress(fraction: float, text: str) -> bool:
            if self._cancelled.is_set() or self._closing.is_set():
                return False
            if self._changed.is_set() and (self._wanted(session) != object_id or session.key(object_id) != key):
                return False
            self._progress(fraction, text)
            return True

        def partial(mask: ObjectMask) -> None:
            nonlocal growth_axis, shown
            if not shown and mask.size and min(mask.shape) == 1:
                growth_axis = mask.shape.index(1)
            shown = True
            if self._picture is not None and session.key(object_id) == key:
                self._tell(self._picture.paint_growing(merge_preview(before, mask, growth_axis)))

        try:
            session.compute([object_id], progress, partial)
        except Cancelled:
            logger.debug("object %d is no longer wanted as it was", object_id)
        except Exception as error:
            self._not_predicted(session, object_id, key, error)
        else:
            self._tell(Connected())

    def _not_predicted(self, session: Session, object_id: int, key: ResultKey, error: Exception) -> None:
        if isinstance(error, ConnectionError):
            self._wait_for_engine(session, error)
            return
        if not isinstance(error, VolsegError):
            logger.error("predicting object %d failed", object_id, exc_info=error)
        self._failed[object_id] = key
        self._tell(Failed(error, object_id))

    def _wait_for_engine(self, session: Session, error: Exception) -> None:
        """Tries until the engine can be reached, or the person cancels."""
        self._tell(Disconnected(error))
        try:
            self._reach(lambda: session.encode(self._progress))
        except (Cancelled, ConnectionError):
            return
        except VolsegError as other:
            # It answers, so it is reached; the next prediction says what is wrong in its context.
            logger.warning("the engine answers with %s", other)
        self._tell(Connected())

    def _export(self, session: Session, path: Path, axcodes: str | None) -> None:
        from volseg.data import write_labelmap

        self._busy = True

        def progress(fraction: float, text: str) -> bool:
            self._progress(fraction, text)
            return not (self._cancelled.is_set() or self._closing.is_set())

        try:
            labelmap = session.predict(progress, exact=True)
            self._paint()
            write_labelmap(labelmap if axcodes is None else labelmap.reoriented(axcodes), path)
        except Cancelled:
            logger.debug("the export was cancelled")
        except Exception as error:
            if not isinstance(error, VolsegError):
                logger.exception("exporting to %s failed", path)
            self._tell(Failed(error))
        else:
            self._tell(Exported(path))

    # ---- telling

    def _paint(self) -> None:
        assert self._picture is not None
        self._tell(self._picture.paint())

    def _progress(self, fraction: float, text: str) -> bool:
        now = time.monotonic()
        is_end = fraction in (0.0, 1.0) and (fraction, text) != self._last_told
        if now - self._told >= PROGRESS_INTERVAL_S or is_end:
            self._told = now
            self._last_told = fraction, text
            self._tell(Working(fraction, text))
        return not self._closing.is_set()

    def _tell(self, event: DeskEvent | None) -> None:
        listener = self._listener
        if listener is not None and event is not None:
            listener(event)
