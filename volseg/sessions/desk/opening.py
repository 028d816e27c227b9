"""Making the session that a desk drives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.models.base import Model
    from volseg.sessions.desk.desk import OpenSession
    from volseg.sessions.session import Session

logger = logging.getLogger(__name__)

MAX_ENCODINGS_BYTES = 4 << 30
"""Encoded images on disk beyond this make room for newer ones."""


def local_session(
    read: Callable[[], MetaTensor],
    model: str | Path,
    *,
    device: str = "auto",
    options: EncodeOptions | None = None,
    encodings_folder: Path | None = None,
) -> OpenSession:
    """A session with a model in this process, made when the desk asks for it.

    Args:
        read: gives the image, [1, I, J, K].
        model: see ``load_model``.
        device: see ``load_model``.
        options: how the model looks at the image.
        encodings_folder: where encoded images are kept for later sessions; None keeps none.
    """

    def open_session(progress: ProgressCallback) -> Session:
        from volseg.sessions.session import Session

        report(progress, 0.0, "reading the image")
        image = read()
        report(progress, 0.3, f"loading {model}")
        return Session(load_kept(model, device, encodings_folder), image, options)

    return open_session


def load_kept(model: str | Path, device: str, encodings_folder: Path | None) -> Model:
    """The model, which keeps what it computes of images in a folder of bounded size; arguments as above."""
    from volseg.models.registry import load_model

    loaded = load_model(model, device=device)
    if encodings_folder is not None:
        prune(encodings_folder, MAX_ENCODINGS_BYTES)
        loaded.keep_encodings(encodings_folder)
    return loaded


def prune(folder: Path, max_bytes: int) -> None:
    """Deletes the files of a cache that were not used for longest, until it is small enough."""
    files = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file():
                files.append((max(path.stat().st_atime, path.stat().st_mtime), path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            return
        with suppress(OSError):
            path.unlink()
            total -= size
