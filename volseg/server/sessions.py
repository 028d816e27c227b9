"""Sessions as the server knows them: an image before a model, and the masks a client has seen."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, PromptError, ServerRefusedError
from volseg.geometry import Grid
from volseg.models.base import Model
from volseg.models.options import EncodeOptions
from volseg.prompts import MaskPrompt, PromptSet
from volseg.server.images import HeldImage, ImageStore
from volseg.server.jobs import Job, JobState, Worker
from volseg.server.limits import ServerLimits
from volseg.server.mask_changes import change_to_json
from volseg.server.refusal import Refusal
from volseg.server.wire import SERVER_FULL, UNKNOWN_SESSION
from volseg.sessions import LocalEngine, ObjectResult

logger = logging.getLogger(__name__)

TOGETHER_S = 0.02
"""What happens within this time is told together."""

MAX_SEEN = 500
"""Masks a session remembers its client to have; of further ones the whole is sent."""


@dataclass(frozen=True)
class Fresh:
    """A mask that the client may not have seen; ``result`` is None while it grows."""

    revision: int
    mask: ObjectMask
    result: ObjectResult | None = None


class ServedSession:
    """One image before one model, for one client.

    Args:
        model: segments; may be shared with other sessions, as one job runs at a time.
        held: the image.
        image_grid: the client's grid of it.
        modality: what the image says it is, or empty.
        limits: of time.
    """

    def __init__(self, model: Model, held: HeldImage, image_grid: Grid, modality: str, limits: ServerLimits) -> None:
        self.session_id = secrets.token_urlsafe(16)
        self.held = held
        self.engine = LocalEngine(model, held.tensor(image_grid, modality))
        self.grid = image_grid
        self.job: Job | None = None
        self.last_used = time.monotonic()
        self._limits = limits
        self._revision = 0
        self._fresh: dict[int, Fresh] = {}
        self._seen: dict[int, tuple[int, ObjectResult]] = {}
        self._lock = threading.Lock()
        self._seen_lock = threading.Lock()
        self._waiting_lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def busy(self) -> bool:
        """Whether something is computed or queued."""
        return self.job is not None and not self.job.state.over

    def start(self, options: EncodeOptions, prompts: PromptSet | None, exact: bool) -> Job:
        """A new job, which supersedes the one before."""
        with self._lock:
            if self.job is not None:
                self.job.cancelled.set()
                self.job.prompts = None  # it may stay queued for long
            self._fresh.clear()
            job = self.job = Job(1 if self.job is None else self.job.number + 1, options, prompts, exact)
        self._wake()
        return job

    def run(self, job: Job) -> None:
        """Computes a job, in the worker's thread."""
        job.run(lambda: self._compute(job), self._changed)

    def cancel(self) -> None:
        """Stops the job, if there is one."""
        if self.job is not None:
            self.job.cancelled.set()

    async def news(self, job: Job, after: int, wait_s: float) -> dict[str, Any]:
        """What happened in a job since revision ``after``; waits a while for something to happen."""
        end = time.monotonic() + wait_s
        mine = (asyncio.get_running_loop(), asyncio.Event())
        with self._waiting_lock:
            self._waiting.add(mine)
        try:
            while self._revision <= after and not job.state.over and job is self.job:
                job.asked = self.last_used = time.monotonic()
                left = end - time.monotonic()
                if left <= 0:
                    break
                try:
                    await asyncio.wait_for(mine[1].wait(), left)
                except TimeoutError:
                    break
                mine[1].clear()
                if not job.state.over:
                    await asyncio.sleep(TOGETHER_S)
        finally:
            with self._waiting_lock:
                self._waiting.discard(mine)
        job.asked = self.last_used = time.monotonic()
        return await asyncio.to_thread(self._news, job, after)

    def _news(self, job: Job, after: int) -> dict[str, Any]:
        # The event loop takes the first lock, too, so that packing masks, which takes longer, has one of its own.
        with self._seen_lock:
            with self._lock:
                superseded = job is not self.job
                state = JobState.CANCELLED if superseded else job.state  # before the masks: "done" comes with all
                revision = after if superseded else self._revision
                fresh = {} if superseded else {key: one for key, one in self._fresh.items() if one.revision > after}
            answer = {
                "state": str(state),
                "revision": revision,
                "fraction": job.fraction,
                "text": job.text,
                "masks": [self._mask_to_json(object_id, one, after) for object_id, one in fresh.items()],
            }
        if job.error is not None and state is JobState.FAILED:
            answer["error"] = {"type": job.error[0], "message": job.error[1]}
        return answer

    def _mask_to_json(self, object_id: int, fresh: Fresh, after: int) -> dict[str, Any]:
        seen = self._seen.pop(object_id, None)
        known = seen is not None and seen[0] <= after
        base = seen[1].mask() if seen is not None and known else None
        data = {
            "object": object_id,
            "revision": fresh.revision,
            "base": seen[0] if seen is not None and known else 0,
            "presence": fresh.mask.presence,
            "final": fresh.result is not None,
            **change_to_json(base, fresh.mask),
        }
        if fresh.result is not None:
            data |= {
                "seconds": fresh.result.seconds,
                "exact": fresh.result.exact,
                "settings": [list(pair) for pair in fresh.result.settings],
            }
        self._seen[object_id] = fresh.revision, fresh.result or ObjectResult.of(fresh.mask, 0.0, exact=False)
        while len(self._seen) > MAX_SEEN:
            self._seen.pop(next(iter(self._seen)))
        return data

    def _compute(self, job: Job) -> None:
        started = time.monotonic()
        prompts = job.prompts

        def progress(fraction: float, text: str) -> bool:
            now = time.monotonic()
            job.fraction, job.text = fraction, text
            self._changed()
            return not (
                job.cancelled.is_set() or now - job.asked > self._limits.silent_s or now - started > self._limits.job_s
            )

        def partial(mask: ObjectMask) -> None:
            self._keep(job, mask, None)

        try:
            if prompts is None:
                self.engine.encode(job.options, progress)
                return
            self._check_extent(prompts)
            results = self.engine.segment(job.options, prompts, exact=job.exact, progress=progress, partial=partial)
        except Cancelled:
            if time.monotonic() - started <= self._limits.job_s:
                raise
            raise ServerRefusedError(
                f"the computation took longer than the server's {self._limits.job_s:g} s"
            ) from None
        for result in results:
            self._keep(job, result.mask(), result)

    def _check_extent(self, prompts: PromptSet) -> None:
        """Refuses masks that would take far more memory than the image once they are on its voxels."""
        limit = 4 * math.prod(self.grid.shape) + 1_000_000
        for item in prompts.objects:
            for index, prompt in enumerate(item.prompts):
                if isinstance(prompt, MaskPrompt):
                    corners = self.grid.to_ijk(prompt.grid.to_ras_mm(prompt.grid.corners_ijk()))
                    spans = (corners.max(axis=0) - corners.min(axis=0) + 1).tolist()
                    if math.prod(spans) > limit:
                        raise PromptError(f"{item.describe(index)}: reaches far beyond the image")

    def _keep(self, job: Job, mask: ObjectMask, result: ObjectResult | None) -> None:
        with self._lock:
            if job is not self.job:
                return
            self._revision += 1
            self._fresh[mask.object_id] = Fresh(self._revision, mask, result)
        self._wake()

    def _changed(self) -> None:
        with self._lock:
            self._revision += 1
        self._wake()

    def _wake(self) -> None:
        with self._waiting_lock:
            waiting = tuple(self._waiting)
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


class SessionStore:
    """All sessions of a server, with the images and models they share.

    Args:
        limits: what is taken on.
        load: gives a model by its name; may take long; raises ``ModelError`` for names that are not offered.
    """

    def __init__(self, limits: ServerLimits, load: Callable[[str], Model]) -> None:
        self.limits = limits
        self.images = ImageStore(limits)
        self._load = load
        self._worker = Worker()
        self._sessions: dict[str, ServedSession] = {}
        self._opening = 0
        self._models: dict[str, Model] = {}
        self._loading = threading.Lock()

    @property
    def count(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    async def open(self, model: str, image_sha256: str, grid: Grid, modality: str) -> ServedSession:
        """Opens a session on an image that is here."""
        if self.count + self._opening >= self.limits.sessions:
            raise Refusal(
                503, SERVER_FULL, f"the server has {self.limits.sessions} sessions open, its limit; try again later"
            )
        held = self.images.take(image_sha256, grid)
        self._opening += 1
        try:
            session = await asyncio.to_thread(
                lambda: ServedSession(self._loaded(model), held, grid, modality, self.limits)
            )
        except BaseException:
            self.images.give_back(held)
            raise
        finally:
            self._opening -= 1
        self._sessions[session.session_id] = session
        return session

    def get(self, session_id: str) -> ServedSession:
        """The session of that id."""
        session = self._sessions.get(session_id)
        if session is None:
            raise Refusal(
                404,
                UNKNOWN_SESSION,
                "the server does not have this session (any more): it was restarted, or the session was idle for too "
                "long; open a new one",
            )
        session.last_used = time.monotonic()
        return session

    def submit(self, session: ServedSession, job: Job) -> None:
        """Queues a job."""
        self._worker.submit(lambda: session.run(job))

    def close(self, session_id: str) -> None:
        """Ends a session; its memory is free once its job has stopped."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        session.cancel()

        def free() -> None:
            session.engine.close()
            self.images.give_back(session.held)

        self._worker.submit(free)

    def sweep(self) -> None:
        """Ends what was idle for too long."""
        before = time.monotonic() - self.limits.idle_s
        for session in tuple(self._sessions.values()):
            if session.last_used < before and not session.busy:
                logger.info("session %s was idle and is closed", session.session_id[:6])
                self.close(session.session_id)
        self.images.forget_idle(before)

    def close_all(self, timeout_s: float) -> None:
        """Ends everything."""
        for session_id in tuple(self._sessions):
            self.close(session_id)
        self._worker.close(timeout_s)

    def _loaded(self, name: str) -> Model:
        with self._loading:
            if name not in self._models:
                self._models[name] = self._load(name)
            return self._models[name]
