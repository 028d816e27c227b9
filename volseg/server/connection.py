"""One client's line to a server."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from volseg.errors import MissingExtraError, ServerError, ServerRefusedError
from volseg.server.wire import API, error_from_json

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
READ_S = 60.0
LOAD_S = 600.0
"""Opening a session may load a model."""


class Answered(Exception):
    """The server said no.

    Args:
        kind: see ``wire``.
        error: what it means here.
    """

    def __init__(self, kind: str, error: Exception) -> None:
        super().__init__(str(error))
        self.kind = kind
        self.error = error


class Connection:
    """Asks a server and understands its answers.

    Args:
        url: such as ``http://127.0.0.1:8765``.
        token: as shown where the server was started.

    Raises:
        MissingExtraError: httpx is not installed.
        ServerRefusedError: the address is none.
    """

    def __init__(self, url: str, token: str) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("a server's client needs httpx: pip install 'volseg[server]'") from error
        address = url.strip()
        self.url = address if "://" in address else f"http://{address}"
        if not token.strip() or not token.isascii() or not token.isprintable():
            raise ServerRefusedError("the token is missing or has other than plain letters and digits")
        try:
            parsed = httpx.URL(self.url)
            # No proxy of the environment: voxels go to the server and nowhere else.
            self._client = httpx.Client(
                base_url=parsed,
                headers={"authorization": f"Bearer {token.strip()}"},
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerRefusedError(f"{url!r} is no address of a server, such as http://127.0.0.1:8765") from error
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path.strip("/"):
            raise ServerRefusedError(f"{url!r} is no address of a server, such as http://127.0.0.1:8765")
        if parsed.scheme == "http" and not is_loopback(parsed.host):
            logger.warning("%s is not encrypted: images and token can be read on the way; use an ssh tunnel", self.url)

    def ask(self, method: str, path: str, *, timeout_s: float = READ_S, **parts: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Args:
            method: of HTTP.
            path: after the version.
            timeout_s: how long the server may think.
            parts: what ``httpx.Client.request`` takes, such as ``json``.

        Raises:
            ServerError: the server cannot be reached, broke off, or is full.
            Answered: it said no.
        """
        import httpx

        try:
            response = self._client.request(
                method, f"/v{API}{path}", timeout=httpx.Timeout(timeout_s, connect=CONNECT_S), **parts
            )
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"the server at {self.url} cannot be reached ({reason}); is it running?") from error
        except httpx.HTTPError as error:
            raise ServerRefusedError(f"{self.url} does not answer as a volseg server does: {error}") from error
        return self._understood(response)

    def put(self, path: str, pieces: Iterator[bytes], headers: dict[str, str]) -> dict[str, Any]:
        """Sends a large body piece by piece; errors as in ``ask``."""
        return self.ask("PUT", path, content=pieces, headers=headers)

    def close(self) -> None:
        """Ends it."""
        self._client.close()

    def _understood(self, response: httpx.Response) -> dict[str, Any]:
        try:
            data = response.json()
        except (ValueError, RecursionError):
            data = None
        if response.is_success and isinstance(data, dict):
            return data
        if response.is_success or not isinstance(data, dict) or "error" not in data:
            if response.status_code in (502, 503, 504):  # a gateway's, or one that is starting
                raise ServerError(f"the server at {self.url} answers with status {response.status_code}")
            raise ServerRefusedError(
                f"{self.url} does not answer as a volseg server does (status {response.status_code})"
            )
        kind, error = error_from_json(response.status_code, data)
        raise Answered(kind, error)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
