"""The addresses a server answers to (``docs/server.md``)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from volseg.data.modality import Modality
from volseg.errors import GeometryError, MissingExtraError, VolsegError
from volseg.geometry import Grid
from volseg.models.base import Model
from volseg.server.bodies import read_json, read_prompts, receive_image
from volseg.server.limits import ServerLimits
from volseg.server.refusal import Refusal
from volseg.server.sessions import ServedSession, SessionStore
from volseg.server.wire import API, MAX_NAME, error_to_json, options_from_json

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

MAX_WAIT_S = 20.0
"""The longest a client may wait for news in one request."""

SHUTDOWN_S = 3.0
"""What runs is given so long to stop when the server ends."""

SHA256 = re.compile(r"[0-9a-f]{64}")


class Service:
    """What the server does, an address each.

    Args:
        limits: what is taken on.
        load: see ``SessionStore``.
        models: names that are offered.
    """

    def __init__(self, limits: ServerLimits, load: Callable[[str], Model], models: tuple[str, ...]) -> None:
        self.store = SessionStore(limits, load)
        self.limits = limits
        self.models = models

    async def health(self, request: Request) -> Response:
        """Whether it works; the one address that needs no token, so it says little."""
        from volseg import __version__

        return _json({"status": "ok", "software": f"volseg {__version__}", "api": API})

    async def about(self, request: Request) -> Response:
        """Models and limits."""
        return _json(
            {
                "models": list(self.models),
                "limits": self.limits.to_json(),
                "sessions": self.store.count,
                "image_bytes_held": self.store.images.held_bytes,
            }
        )

    async def image(self, request: Request) -> Response:
        """``GET``: whether an image is here. ``PUT``: takes one."""
        sha256 = request.path_params["sha256"]
        if not SHA256.fullmatch(sha256):
            raise Refusal(422, "ImageReadError", "an image is named by the 64 hexadecimal digits of its SHA-256")
        if request.method == "PUT" and sha256 not in self.store.images:
            await receive_image(request, sha256, self.store.images, self.limits)
        return _json({"present": sha256 in self.store.images})

    async def open(self, request: Request) -> Response:
        """``POST``: opens a session."""
        data = await read_json(request, self.limits)
        model, sha256, modality = (data.get(key) for key in ("model", "image_sha256", "modality"))
        if not (isinstance(model, str) and len(model) <= MAX_NAME and isinstance(sha256, str)):
            raise Refusal(422, "SessionError", "a session has a model, an image_sha256 and a grid")
        try:
            grid = Grid.from_json(data.get("grid"))
        except GeometryError as error:
            raise Refusal(422, "GeometryError", f"the session's grid: {error}") from error
        if model not in self.models:
            raise Refusal(
                422, "ModelError", f"the server does not offer the model {model!r}; it has {', '.join(self.models)}"
            )
        stated = modality if modality in list(Modality) else ""
        session = await self.store.open(model, sha256, grid, str(stated))
        return _json({"session": session.session_id, "card": session.engine.card.to_json()}, 201)

    async def close(self, request: Request) -> Response:
        """``DELETE``: ends a session."""
        self.store.close(self._session(request).session_id)
        return _json({})

    async def start(self, request: Request) -> Response:
        """``POST``: starts a job, which supersedes the one before."""
        session = self._session(request)
        data = await read_json(request, self.limits)
        options = options_from_json(data.get("options"))
        prompts = None
        if data.get("prompts") is not None:
            prompts = await asyncio.to_thread(read_prompts, data["prompts"], math.prod(session.grid.shape))
        job = session.start(options, prompts, data.get("exact") is True)
        self.store.submit(session, job)
        return _json({"job": job.number}, 202)

    async def job(self, request: Request) -> Response:
        """``GET``: news of a job since ``after``, waiting up to ``wait`` seconds. ``DELETE``: cancels it."""
        session = self._session(request)
        job = session.job
        number = request.path_params["number"]
        if job is None or number > job.number or number < 1:
            raise Refusal(404, "SessionError", f"there is no job {number}")
        if request.method == "DELETE":
            if number == job.number:
                session.cancel()
            return _json({})
        if number < job.number:
            return _json({"state": "cancelled", "revision": 0, "fraction": 0.0, "text": "superseded", "masks": []})
        try:
            after = int(request.query_params.get("after", "0"))
            wait_s = min(max(float(request.query_params.get("wait", "0")), 0.0), MAX_WAIT_S)
        except ValueError as error:
            raise Refusal(400, "SessionError", "after is a whole number, and wait a number of seconds") from error
        return _json(await session.news(job, after, wait_s))

    def _session(self, request: Request) -> ServedSession:
        return self.store.get(request.path_params["session_id"])


def create_app(
    token: str, load: Callable[[str], Model], models: tuple[str, ...], limits: ServerLimits | None = None
) -> Starlette:
    """The server as an ASGI application.

    Args:
        token: what every request must show.
        load: gives a model by one of the names in ``models``.
        models: the names that clients may ask for.
        limits: what is taken on.

    Raises:
        MissingExtraError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.requests import ClientDisconnect
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("the server needs starlette: pip install 'volseg[server]'") from error

    service = Service(limits or ServerLimits(), load, models)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return _json(error_to_json(error.kind, error.message), error.status, close=True)

    async def wrong(request: Request, error: Exception) -> Response:
        return _json(error_to_json(type(error).__name__, str(error)), 422)

    async def not_there(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json(error_to_json("ServerRefusedError", error.detail), error.status_code)

    async def gone(request: Request, error: Exception) -> Response:
        return _json(error_to_json("ServerError", "the client went away"), 400, close=True)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await asyncio.sleep(min(5.0, service.limits.idle_s / 4))
                service.store.sweep()

        task = asyncio.create_task(sweep())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.to_thread(service.store.close_all, SHUTDOWN_S)

    prefix = f"/v{API}"
    return Starlette(
        routes=[
            Route("/health", service.health),
            Route(prefix, service.about),
            Route(f"{prefix}/images/{{sha256}}", service.image, methods=["GET", "PUT"]),
            Route(f"{prefix}/sessions", service.open, methods=["POST"]),
            Route(f"{prefix}/sessions/{{session_id}}", service.close, methods=["DELETE"]),
            Route(f"{prefix}/sessions/{{session_id}}/jobs", service.start, methods=["POST"]),
            Route(f"{prefix}/sessions/{{session_id}}/jobs/{{number:int}}", service.job, methods=["GET", "DELETE"]),
        ],
        middleware=[Middleware(Gate, token=token, limits=service.limits)],
        exception_handlers={
            Refusal: refused,
            VolsegError: wrong,
            HTTPException: not_there,
            ClientDisconnect: gone,
        },
        lifespan=lifespan,
    )


class Gate:
    """Lets in who shows the token, and not too many at once; writes what was asked into the log, without its content.

    Args:
        app: what is behind.
        token: to be shown as ``Authorization: Bearer TOKEN``.
        limits: how many at a time.
    """

    def __init__(self, app: ASGIApp, token: str, limits: ServerLimits) -> None:
        self.app = app
        self._wanted = f"Bearer {token}".encode()
        self._limits = limits
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        shown = dict(scope["headers"]).get(b"authorization", b"")
        if scope["path"] != "/health" and not hmac.compare_digest(shown, self._wanted):
            message = "the token is missing or wrong; it is shown where 'volseg serve' was started"
            await self._turn_away(401, "ServerRefusedError", message)(scope, receive, send)
            return
        if self._inside >= self._limits.requests:
            message = "the server has too many requests at once; try again later"
            await self._turn_away(503, "ServerError", message)(scope, receive, send)
            return
        status = 0

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = time.perf_counter()
        self._inside += 1
        try:
            await self.app(scope, receive, note)
        except Exception as error:
            # The message may hold what a person typed: where it happened is enough here.
            places = "".join(traceback.format_tb(error.__traceback__)[-4:])
            logger.error("a request failed with %s at\n%s", type(error).__name__, places)
            if status == 0:
                text = f"the server failed with {type(error).__name__}; its log says where"
                await self._turn_away(500, "ServerRefusedError", text)(scope, receive, send)
        finally:
            self._inside -= 1
            kind = "/".join(part for part in scope["path"].split("/") if part in _LOGGED)
            logger.debug("%s %s %d %.0f ms", scope["method"], kind, status, 1e3 * (time.perf_counter() - start))

    def _turn_away(self, status: int, kind: str, text: str) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        # The connection ends: what the client still sends need not be read.
        return _json(error_to_json(kind, text), status, close=True)


_LOGGED = frozenset({"health", "images", "sessions", "jobs"})


def _json(data: dict[str, Any], status: int = 200, *, close: bool = False) -> Response:
    from starlette.responses import JSONResponse

    headers = {"cache-control": "no-store"} | ({"connection": "close"} if close else {})
    return JSONResponse(data, status, headers=headers)
