"""Where a session is kept in case the program ends without saving it."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import SessionError, VolsegError
from volseg.sessions.json_file import read_json
from volseg.sessions.session_file import SavedSession

if TYPE_CHECKING:
    from filelock import FileLock

    from volseg.sessions.session import Session

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 100
"""So many programs may work on one image at the same time."""


def autosave_folder() -> Path:
    """Where autosaves lie: ``sessions`` in volseg's cache folder."""
    from volseg.models.checkpoints.store import cache_folder

    return cache_folder() / "sessions"


@dataclass(frozen=True)
class FoundAutosave:
    """What an earlier session of the same image left.

    Attributes:
        path: the file.
        written: when.
        prompts: how many prompts it holds.
        objects: of how many objects.
    """

    path: Path
    written: datetime
    prompts: int
    objects: int


class Autosave:
    """The autosave of one image, named by the image's hash.

    A lock says which program writes it; a second program at work on the same image takes another name. What was found
    is never overwritten: it moves aside to ``*.previous.json`` before the first save.

    Args:
        folder: where autosaves lie; made when needed.
        image_sha256: the image's.

    Attributes:
        path: the file.
        found: what lay there before, None where there was nothing that can be read.
    """

    def __init__(self, folder: Path, image_sha256: str) -> None:
        self._lock: FileLock | None = None
        self.path, self._lock = self._take(folder, image_sha256[:24])
        self.found = _look(self.path)

    def _take(self, folder: Path, name: str) -> tuple[Path, FileLock]:
        from filelock import FileLock, Timeout

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SessionError(f"there can be no autosave in {folder}: {error.strerror or error}") from error
        for number in range(MAX_AT_ONCE):
            stem = name if number == 0 else f"{name}-{number}"
            lock = FileLock(folder / f"{stem}.lock")
            with suppress(Timeout):
                lock.acquire(timeout=0)
                return folder / f"{stem}.json", lock
        raise SessionError(f"{MAX_AT_ONCE} programs work on this image; close some")

    def write(self, session: Session) -> None:
        """Writes the session.

        Raises:
            WriteError: see ``Session.save``.
        """
        if self.found is not None:
            with suppress(OSError):
                self.path.replace(self.path.with_suffix(".previous.json"))
            self.found = None
        session.save(self.path)

    def discard(self) -> None:
        """Removes the file, as after the session was saved by its owner."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.found = None

    def close(self) -> None:
        """Lets other programs have the file."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _look(path: Path) -> FoundAutosave | None:
    try:
        written = datetime.fromtimestamp(path.stat().st_mtime)
        state = SavedSession.from_json(read_json(path, SessionError)).state
    except FileNotFoundError:
        return None
    except (OSError, VolsegError, json.JSONDecodeError) as error:
        logger.warning("the autosave %s cannot be read: %s", path, error)
        return None
    return FoundAutosave(path, written, len(state.history), len(state.objects))
