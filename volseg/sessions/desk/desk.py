"""Drives a session in the background."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, SessionError, VolsegError
from volseg.progress import ProgressCallback
from volseg.sessions.desk.autosave import Autosave
from volseg.sessions.desk.canvas import LabelCanvas, merge_preview
from volseg.sessions.desk.correction import correction_prompts, painted_mask
from volseg.sessions.desk.events import (
    Autosaved,
    Connected,
    DeskEvent,
    Disconnected,
    Exported,
    Failed,
    Idle,
    ObjectSummary,
    Opened,
    Painted,
    Saved,
    StateChanged,
    Working,
)
from volseg.sessions.result import ObjectResult
from volseg.sessions.session import ResultKey, Session
from volseg.sessions.state import SessionState

logger = logging.getLogger(__name__)

AUTOSAVE_DELAY_S = 0.5
"""Changes that follow each other this quickly are saved together."""

PROGRESS_INTERVAL_S = 0.1
"""Progress is told no more often than this."""

RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""How long to wait before an engine that cannot be reached is tried again; the last one from then on."""

OpenSession: TypeAlias = Callable[[ProgressCallback], Session]
"""Reads the image, loads the model and makes the session; called in the computing thread."""

Listener: TypeAlias = Callable[[DeskEvent], None]
"""Told what happens, from any thread; must return at once."""

Task: TypeAlias = Callable[[Session], None]


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
        self._autosave: Autosave | None = None
        self._session: Session | None = None
        self._canvas: LabelCanvas | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._closing = threading.Event()
        self._cancelled = threading.Event()
        self._changed = threading.Event()
        self._unsaved = threading.Event()
        self._exports: queue.SimpleQueue[tuple[Path, str | None]] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._saved_state: SessionState | None = None
        self._masks: dict[int, tuple[ObjectResult | None, ObjectMask]] = {}
        self._failed: dict[int, ResultKey] = {}
        self._busy = False
        self._told = 0.0
        self._array_seen: object = None
        self._computer = threading.Thread(target=self._compute, name="volseg-desk", daemon=True)
        self._clerk = threading.Thread(target=self._do_tasks, name="volseg-clerk", daemon=True)
        self._computer.start()
        self._clerk.start()

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
        if self._canvas is None:
            raise SessionError("the image is still being opened; wait a moment")
        return self._canvas

    @property
    def is_open(self) -> bool:
        """Whether the session takes prompts."""
        return self._canvas is not None and not self._closing.is_set()

    def summary(self, object_id: int) -> ObjectSummary | None:
        """The object's mask in numbers, None while it is not computed."""
        result = None if self._session is None else self._session.result(object_id)
        known = self._masks.get(object_id)
        if result is None or known is None or known[0] is not result:
            return None
        voxels = known[1].voxels
        return ObjectSummary(
            voxels, voxels * result.grid.voxel_volume_ml, result.presence, result.seconds, result.exact
        )

    def mask(self, object_id: int) -> ObjectMask | None:
        """The object's mask as it was last computed, also while a newer one is on its way."""
        known = self._masks.get(object_id)
        return None if known is None else known[1]

    @property
    def has_unsaved_changes(self) -> bool:
        """Whether something was said that is not in the file the person saved last."""
        if self._session is None:
            return False
        state = self._session.state
        return bool(state.objects) and state is not self._saved_state

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

    def save(self, path: str | Path) -> None:
        """Writes the session; ``Saved`` or ``Failed`` follows."""
        target = Path(path)

        def write(session: Session) -> None:
            state = session.state
            session.save(target)
            self._saved_state = state
            if self._autosave is not None and session.state is state:
                self._autosave.discard()
            self._tell(Saved(target))

        self._tasks.put(write)

    def resume(self, path: str | Path, *, allow_other: bool = False, saved: bool = True) -> None:
        """Puts a saved session in the place of everything; ``StateChanged`` or ``Failed`` follows.

        Args:
            path: the session file.
            allow_other: also one of another model, or of another copy of the image.
            saved: whether the person knows the file, so that nothing is unsaved afterwards.
        """

        def read(session: Session) -> None:
            session.restore(path, allow_other_image=allow_other, allow_other_model=allow_other)
            if saved:
                self._saved_state = session.state

        self._tasks.put(read)

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
            self._masks[object_id] = (None, painted_mask(mask, added, removed))
            self._changed.set()

        self._tasks.put(say)

    def do(self, task: Task) -> None:
        """Runs a change of the session that takes longer than a window may wait; ``Failed`` tells its errors."""
        self._tasks.put(task)

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
        self._tasks.put(None)
        if timeout_s != 0:
            for thread in (self._clerk, self._computer):
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
            self._masks.clear()

    def _open(self) -> Session:
        assert self._open_session is not None
        session = self._open_session(self._progress)
        # It may hold a window's layer, which must not outlive its window here.
        self._open_session = None
        self._progress(0.0, "preparing the image")
        if self._autosave_folder is not None:
            self._autosave = Autosave(self._autosave_folder, session.image_sha256)
        self._saved_state = session.state
        self._canvas = LabelCanvas(session.grid)
        self._array_seen = self._canvas.array
        self._session = session
        self._unsubscribe = session.subscribe(self._noted)
        self._tell(Opened(session, self._autosave.found if self._autosave is not None else None))
        session.encode(self._progress)
        self._tell(Idle())
        return session

    def _noted(self) -> None:
        """A change was made, in whatever thread."""
        self._cancelled.clear()
        self._changed.set()
        self._unsaved.set()
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
            if not shown and mask.block.size and min(mask.block.shape) == 1:
                growth_axis = mask.block.shape.index(1)
            shown = True
            if self._canvas is not None and session.key(object_id) == key:
                self._show({object_id: merge_preview(before, mask, growth_axis)}, preview=object_id)

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
        attempt = 0
        while not self._closing.is_set() and not self._cancelled.is_set():
            if self._closing.wait(RETRY_S[min(attempt, len(RETRY_S) - 1)]):
                return
            attempt += 1
            try:
                session.encode(self._progress)
            except Cancelled:
                return
            except ConnectionError as again:
                self._tell(Disconnected(again))
            except VolsegError as other:
                # It answers, so it is reached; the next prediction says what is wrong in its context.
                logger.warning("the engine answers with %s", other)
                break
            else:
                break
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

    # ---- what is seen

    def _paint(self) -> None:
        """Shows every object's latest mask; one whose new mask is on its way keeps the old one meanwhile."""
        assert self._session is not None
        state = self._session.state
        masks: dict[int, tuple[ObjectResult | None, ObjectMask]] = {}
        for item in state.objects:
            known = self._masks.get(item.object_id)
            result = self._session.result(item.object_id)
            if result is not None:
                masks[item.object_id] = known if known and known[0] is result else (result, result.mask())
            elif known is not None and state.entries_of(item.object_id):
                masks[item.object_id] = known
        self._masks = masks
        self._show({}, preview=None)

    def _show(self, growing: dict[int, ObjectMask], preview: int | None) -> None:
        assert self._session is not None
        canvas = self.canvas
        state = self._session.state
        masks = {number: mask for number, (_, mask) in self._masks.items()} | growing
        ordered = {item.object_id: masks[item.object_id] for item in state.objects if item.object_id in masks}
        painted = canvas.show(ordered, state.overlap)
        replaced = canvas.array is not self._array_seen
        self._array_seen = canvas.array
        if painted or replaced or preview is None:
            self._tell(Painted(preview is not None, preview, replaced))

    # ---- the clerk's thread

    def _do_tasks(self) -> None:
        while not self._closing.is_set():
            try:
                task = self._tasks.get(timeout=AUTOSAVE_DELAY_S)
            except queue.Empty:
                self._keep()
                continue
            if task is not None:
                self._do(task)
        while not self._tasks.empty():
            task = self._tasks.get()
            if task is not None:
                self._do(task)
        self._keep()
        if self._autosave is not None:
            self._autosave.close()

    def _do(self, task: Task) -> None:
        try:
            task(self.session)
        except Exception as error:
            if not isinstance(error, VolsegError):
                logger.error("a task failed", exc_info=error)
            self._tell(Failed(error))

    def _keep(self) -> None:
        """Writes the autosave, if there is something new to keep."""
        if self._session is None or self._autosave is None or not self._unsaved.is_set():
            return
        self._unsaved.clear()
        if not self.has_unsaved_changes:
            return
        try:
            self._autosave.write(self._session)
        except VolsegError as error:
            logger.warning("the autosave failed: %s", error)
            self._tell(Failed(error))
        else:
            self._tell(Autosaved(self._autosave.path))

    # ---- telling

    def _progress(self, fraction: float, text: str) -> bool:
        now = time.monotonic()
        if now - self._told >= PROGRESS_INTERVAL_S or fraction in (0.0, 1.0):
            self._told = now
            self._tell(Working(fraction, text))
        return not self._closing.is_set()

    def _tell(self, event: DeskEvent) -> None:
        listener = self._listener
        if listener is not None:
            listener(event)
