"""What headers in plain text have in common."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from volseg.errors import ImageReadError

MAX_HEADER_BYTES = 64 << 20
"""Longer headers are refused before they are read."""


def detached_file(header: Path, name: str) -> Path:
    """The file of the voxels that a header names, which must lie in the header's folder or below.

    Raises:
        ImageReadError: it lies elsewhere, is not there, or stands for several files.
    """
    pure = PurePosixPath(name.replace("\\", "/"))
    if not name or "%" in name or name.upper().startswith("LIST"):
        raise ImageReadError(f"{header}: keeps its voxels in several files ({name!r}); save it as one file first")
    # A header from elsewhere must not make us read any file of this machine.
    if pure.is_absolute() or PureWindowsPath(name).drive or ".." in pure.parts or "\0" in name:
        raise ImageReadError(f"{header}: names voxels outside its folder ({name!r}); move both files into one folder")
    path = header.parent / pure
    if not path.is_file():
        raise ImageReadError(f"{header}: its voxels should be in {name!r}, which is not there")
    return path
