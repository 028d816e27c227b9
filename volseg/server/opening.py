"""Reaching a server from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.server.connection import Answered, Connection
from volseg.server.remote_engine import RemoteEngine

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.sessions import Session
    from volseg.sessions.desk.desk import OpenSession


def connect(
    url: str,
    token: str,
    model: str,
    image: MetaTensor,
    options: EncodeOptions | None = None,
    progress: ProgressCallback | None = None,
) -> Session:
    """A session whose masks are computed by a server; else like any other.

    Args:
        url: such as ``http://127.0.0.1:8765``.
        token: as shown where the server was started.
        model: a name the server offers, see ``offered_models``.
        image: [1, I, J, K]; its voxels are sent unless the server has them.
        options: how the model looks at the image.
        progress: told how much of the image is sent; may cancel.

    Raises:
        ServerError: the server cannot be reached, or is full.
        ServerRefusedError: the token is wrong, or the image too large.
        ModelError: the server does not offer the model.
    """
    from volseg.sessions import Session

    return Session.on(RemoteEngine(Connection(url, token), model, image, progress), options)


def offered_models(url: str, token: str) -> tuple[str, ...]:
    """The names of a server's models; also a test of address and token. Errors as in ``connect``."""
    connection = Connection(url, token)
    try:
        models = connection.ask("GET", "", timeout_s=10.0).get("models")
    except Answered as answer:
        raise answer.error from None
    finally:
        connection.close()
    return tuple(str(name) for name in models) if isinstance(models, list) else ()


def remote_session(
    read: Callable[[], MetaTensor],
    url: str,
    token: str,
    model: str,
    *,
    options: EncodeOptions | None = None,
) -> OpenSession:
    """For a desk: like ``local_session``, with the model on a server.

    Args:
        read: gives the image, [1, I, J, K].
        url: see ``connect``.
        token: see ``connect``.
        model: see ``connect``.
        options: how the model looks at the image.
    """
    image: MetaTensor | None = None

    def open_session(progress: ProgressCallback) -> Session:
        nonlocal image
        if image is None:
            report(progress, 0.0, "reading the image")
            image = read()
        # A desk calls again while the server cannot be reached: the image is not read again.
        return connect(url, token, model, image, options, progress)

    return open_session
