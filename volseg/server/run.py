"""Running the server until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from volseg.errors import MissingExtraError, ServerError
from volseg.models.base import Model
from volseg.server.app import create_app
from volseg.server.limits import ServerLimits

GRACE_S = 2
"""Requests that run are given so many seconds to end."""


def run_server(
    host: str,
    port: int,
    token: str,
    load: Callable[[str], Model],
    models: tuple[str, ...],
    limits: ServerLimits | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; then ends within seconds.

    Args:
        host: where to listen.
        port: 0 takes any that is free.
        token: what clients must show.
        load: gives a model by name.
        models: the names that clients may ask for.
        limits: what is taken on.
        started: given the address once it listens.

    Raises:
        MissingExtraError: starlette or uvicorn is not installed.
        ServerError: the port cannot be had.
    """
    app = create_app(token, load, models, limits)
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("the server needs uvicorn: pip install 'volseg[server]'") from error
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServerError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from error
    # uvicorn raises the signal again once it has stopped; stopping when told to is no failure.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if started is not None:
            shown = f"[{host}]" if ":" in host else host
            started(f"http://{shown}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
