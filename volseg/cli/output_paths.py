"""Where results go: checked before the work starts, written when it is done."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from volseg.errors import WriteError


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuses outputs that cannot be written, that are one another, or that would replace an input (P4).

    Raises:
        WriteError: the message names the file.
    """
    taken = {_identity(path): path for path in inputs}
    folders = [path for path in taken.values() if path.is_dir()]
    for path in outputs:
        if _identity(path) in taken:
            raise WriteError(f"{path}: is also an input or another output; choose another name")
        if any(_identity(path.parent) == _identity(folder) for folder in folders):
            raise WriteError(f"{path}: lies in the folder of the input's slices; choose another folder")
        taken[_identity(path)] = path
        if path.is_dir():
            raise WriteError(f"{path}: is a folder; expected the name of a file")
        if not path.parent.is_dir():
            raise WriteError(f"{path}: the folder {path.parent} does not exist; make it first")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise WriteError(f"{path}: the folder {path.parent} is not writable")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all (P6)."""
    from volseg.data import atomic_path

    with atomic_path(path) as partial:
        partial.write_bytes(data)


def _identity(path: Path) -> tuple[int, int] | str:
    """Equal for two names of one file, links included."""
    try:
        status = path.stat()
    except OSError:
        return str(path.resolve())
    return status.st_dev, status.st_ino
