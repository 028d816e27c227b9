"""Files that are either whole or not there (P6)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from volseg.errors import WriteError

PARTIAL_PREFIX = ".volseg-partial-"
"""How the name of an unfinished file begins; a killed process may leave one, and it can be deleted."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name to write to, and puts the file in place when the block ends well.

    The temporary file lies in the same folder and has the same suffixes. It is forced to disk before it takes the final
    name in one step, and removed when the block ends with any exception, ``KeyboardInterrupt`` included.

    Args:
        path: the final name; a file already there is replaced.

    Yields:
        The temporary name; the block writes exactly this file.

    Raises:
        WriteError: the block or the last step failed with an ``OSError``, such as a full disk.
    """
    target = Path(path)
    partial = target.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(6)}-{target.name}")
    try:
        yield partial
        _force_to_disk(partial)
        partial.replace(target)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(f"{target}: cannot be written: {error.strerror or error}") from error
        raise
    # Some file systems cannot sync a folder; the file itself is whole either way.
    with suppress(OSError):
        _force_to_disk(target.parent)


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
