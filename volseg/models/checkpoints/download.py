"""Fetching public checkpoints: hashed, continued after interruptions, never half-written.

pooch checks the hash and puts the file in place; the transfer is done here because neither pooch nor huggingface_hub
(2.4) continues a transfer that another process began.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import DownloadError
from volseg.models.checkpoints.known import KNOWN_MODELS, KnownModel, known_model
from volseg.models.checkpoints.store import CACHE_VARIABLE, OFFLINE_VARIABLES, downloads_folder, is_offline
from volseg.progress import ProgressCallback, report

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger(__name__)

ENDPOINT_VARIABLE = "HF_ENDPOINT"
DEFAULT_ENDPOINT = "https://huggingface.co"
CHUNK_BYTES = 1 << 14
"""A connection that breaks loses less than this; larger chunks are hardly faster."""
MAX_UNKNOWN_BYTES = 4 << 30
"""A file of unknown size may not be larger: a server that never ends must not fill the disk."""
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class TransferSettings:
    """How patient a transfer is.

    Attributes:
        connect_seconds: to wait for a connection.
        stall_seconds: to wait for the next bytes before the server counts as stalled.
        attempts: connections in a row that bring nothing new before the transfer is given up.
        pause_seconds: before the second connection; doubles each time.
    """

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    attempts: int = 5
    pause_seconds: float = 1.0


class _NotServed(Exception):
    """The server answered, and asking again will not help."""


class ResumingDownloader:
    """A pooch downloader that keeps what arrived and goes on from there, within a call and in later ones.

    Args:
        part: where bytes are collected.
        size_bytes: of the whole file; 0 where unknown.
        settings: how patient to be.
        progress: told the part done; may cancel, which keeps what arrived.
    """

    def __init__(
        self, part: Path, size_bytes: int, settings: TransferSettings, progress: ProgressCallback | None = None
    ) -> None:
        self.part = part
        self.size_bytes = size_bytes
        self.settings = settings
        self.progress = progress

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Fetches ``url`` and moves it to ``output_file``.

        Raises:
            DownloadError: the server does not have the file, sends too much, or stopped answering.
            Cancelled: the progress callback asked to stop.
        """
        import requests

        failures, best = 0, self._have
        while True:
            try:
                self._transfer(url)
                break
            except _NotServed as error:
                self._forget()
                raise DownloadError(f"{url}: {error}") from error
            except (requests.RequestException, OSError) as error:
                failures = 1 if self._have > best else failures + 1
                best = max(best, self._have)
                if failures >= self.settings.attempts:
                    raise DownloadError(
                        f"{url}: gave up after {failures} attempts that brought nothing new ({_reason(error)}); "
                        f"{self._have} bytes are kept and the next download goes on from there"
                    ) from error
                logger.warning("%s: %s; trying again", url, _reason(error))
                time.sleep(self.settings.pause_seconds * 2 ** (failures - 1))
        self.part.replace(output_file)

    @property
    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)

    def _transfer(self, url: str) -> None:
        """One connection: from what is there to the end."""
        import requests

        if self.size_bytes and self._have == self.size_bytes:
            return
        if self.size_bytes and self._have > self.size_bytes:
            self._forget()
        start = self._have
        # identity: a range of a compressed stream could not be joined
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        timeout = (self.settings.connect_seconds, self.settings.stall_seconds)
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416:
                self._forget()
                raise requests.ConnectionError("the server has fewer bytes than were kept; starting again")
            _check_status(response)
            if response.status_code != 206 or not _starts_at(response, start):
                start = 0
            expected = self._expected_total(response, start)
            most = expected or MAX_UNKNOWN_BYTES
            with self.part.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                for chunk in response.iter_content(CHUNK_BYTES):
                    stream.write(chunk)
                    if stream.tell() > most:
                        raise _NotServed(f"the server sends more than the {most} bytes expected")
                    fraction = stream.tell() / expected if expected else 0.0
                    report(self.progress, min(fraction, 1.0), f"fetching {self.part.stem}")
                if expected and stream.tell() < expected:
                    raise requests.ConnectionError(f"the connection ended after {stream.tell()} of {expected} bytes")

    def _expected_total(self, response: Response, start: int) -> int:
        length = response.headers.get("Content-Length", "")
        declared = start + int(length) if length.isdecimal() else 0
        if self.size_bytes and declared and declared != self.size_bytes:
            raise _NotServed(
                f"the server's file has {declared} bytes, the known one {self.size_bytes}; "
                "this is another file, or an error page"
            )
        if declared > MAX_UNKNOWN_BYTES:
            raise _NotServed(f"the server's file has {declared} bytes; at most {MAX_UNKNOWN_BYTES} are taken")
        return self.size_bytes or declared


def _check_status(response: Response) -> None:
    import requests

    status = response.status_code
    if status >= 500 or status in (408, 429):
        raise requests.ConnectionError(f"the server answered {status} {response.reason}")
    if status == 404:
        raise _NotServed("there is no such file (404); check the name, the revision and the endpoint")
    if status >= 400:
        raise _NotServed(f"the server refused with {status} {response.reason}")


def _starts_at(response: Response, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def known_or_raise(name: str) -> KnownModel:
    """The public checkpoint of that name.

    Raises:
        DownloadError: there is none.
    """
    known = known_model(name)
    if known is None:
        names = ", ".join(one.name for one in KNOWN_MODELS)
        raise DownloadError(f"there is no public checkpoint named {name!r}; known are {names}")
    return known


def download_checkpoint(
    known: KnownModel,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    settings: TransferSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Fetches a public checkpoint into the cache, or finds it there.

    Args:
        known: which one.
        revision: another commit of the repository; the hash in ``known`` is then not expected.
        endpoint: the hub's address; None takes ``$HF_ENDPOINT`` or the public hub.
        settings: how patient to be.
        progress: told the part done; may cancel.

    Returns:
        The file, whole and with the known hash, where one is known.

    Raises:
        DownloadError: it cannot be fetched, or is not the file that is known under this name. Nothing half-written
            takes the file's name.
        Cancelled: the progress callback asked to stop.
    """
    import filelock
    import pooch

    if revision is not None and not COMMIT.fullmatch(revision):
        raise DownloadError(f"the revision is {revision!r}; expected a full commit of 40 hexadecimal digits")
    pinned = revision is None or revision == known.revision
    sha256 = known.sha256 if pinned else ""
    folder = downloads_folder() / known.name / (revision or known.revision)
    target = folder / known.file
    url = _url(known, revision or known.revision, endpoint)
    if is_offline() and not target.is_file():
        raise DownloadError(
            f"{known.name} is not in the cache and {' or '.join(OFFLINE_VARIABLES)} forbids the network; fetch {url} "
            f"elsewhere and run 'volseg models convert FILE', or copy a cache and set {CACHE_VARIABLE}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    downloader = ResumingDownloader(
        target.with_name(target.name + ".part"),
        known.size_bytes if pinned else 0,
        settings or TransferSettings(),
        progress,
    )
    with filelock.FileLock(folder / ".lock"), _quiet(pooch.get_logger()):
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                fname=target.name,
                path=folder,
                downloader=downloader,
            )
        except DownloadError:
            raise
        except ValueError as error:  # pooch's answer to a wrong hash; what arrived is already deleted
            raise DownloadError(
                f"{url}: what arrived is not {known.name}: its SHA-256 is not {sha256}. It was deleted; try again, and "
                "if this repeats, do not trust the server"
            ) from error
        except OSError as error:
            raise DownloadError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


@contextmanager
def _quiet(other: logging.Logger) -> Iterator[None]:
    """Pooch announces every download on stderr."""
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        yield
    finally:
        other.setLevel(level)


def forget_download(path: Path) -> None:
    """Deletes a downloaded file and the folders made for it, after it has been converted."""
    path.unlink(missing_ok=True)
    path.with_name(".lock").unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        with suppress(OSError):
            folder.rmdir()


def _url(known: KnownModel, revision: str, endpoint: str | None) -> str:
    from huggingface_hub import hf_hub_url

    base = endpoint or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT
    url: str = hf_hub_url(known.repository, known.file, revision=revision, endpoint=base.rstrip("/"))
    return url
