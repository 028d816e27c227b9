"""Hashes of a case's files: what resuming compares."""

from __future__ import annotations

import hashlib
from pathlib import Path

from volseg.batch.case import Case, SeriesSource
from volseg.data.formats import file_suffix
from volseg.errors import VolsegError
from volseg.models.checkpoints.hashing import file_sha256

_DETACHED = (".mhd", ".nhdr")


def image_files_sha256(case: Case) -> str:
    """Hash of the bytes of all files of an image; empty where they cannot be read.

    Slices count in the order of their hashes, so renaming and moving them changes nothing.
    """
    try:
        if isinstance(case.source, SeriesSource):
            digests = sorted(file_sha256(path) for path in case.source.files)
        else:
            digests = [file_sha256(path) for path in _files(case.source.path)]
    except OSError:
        return ""
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def prompts_sha256(case: Case) -> str:
    """Hash of what is said; empty for nothing and for a file that cannot be read."""
    try:
        return "" if case.prompts is None else hashlib.sha256(case.prompts.content()).hexdigest()
    except VolsegError:
        return ""


def _files(path: Path) -> list[Path]:
    if file_suffix(path) not in _DETACHED:
        return [path]
    from volseg.data.images import open_volume

    try:
        return [path, open_volume(path).store.path]
    except VolsegError:
        return [path]
