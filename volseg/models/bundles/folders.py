"""Where bundles are: in the package, in the checkout beside it, in the cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from volseg.errors import ModelError
from volseg.models.bundles.metadata import METADATA_FILE
from volseg.models.bundles.read import Bundle, read_any_bundle
from volseg.models.checkpoints.store import models_folder

logger = logging.getLogger(__name__)

TEMPLATE = "sam2_prompted_segmentation"
"""The bundle whose configs every converted checkpoint gets; they take all numbers from its metadata."""


def carried_folder() -> Path:
    """The folder of the bundles that come with volseg: inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "bundles"
    return inside if inside.is_dir() else package.parent / "bundles"


def carried_bundles() -> Iterator[tuple[Path, Bundle]]:
    """Bundles that come with volseg."""
    return _bundles_in(carried_folder())


def cached_bundles() -> Iterator[tuple[Path, Bundle]]:
    """Bundles that were downloaded or converted into the cache."""
    return _bundles_in(models_folder())


def find_bundle(name: str) -> Path | None:
    """The folder of the bundle whose model has that name; those that come with volseg go first."""
    for source in (carried_bundles, cached_bundles):
        for folder, bundle in source():
            if bundle.identity.name == name:
                return folder
    return None


def weights_path(folder: Path, file: str) -> Path:
    """The weights file of a bundle.

    Args:
        folder: the bundle.
        file: as its metadata names it.

    Raises:
        ModelError: the name leads out of the bundle, or there is no such file.
    """
    parts = PurePosixPath(file).parts
    outside = not parts or ".." in parts or PurePosixPath(file).is_absolute()
    if outside or PureWindowsPath(file).drive or "\\" in file or not file.endswith(".safetensors"):
        raise ModelError(f"{folder}: its weights file is {file!r}; expected a .safetensors file inside the bundle")
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{folder}: its weights file {file!r} is a link that leads out of the bundle")
    if not path.is_file():
        raise ModelError(f"{folder}: its weights file {file!r} is missing; fetch the bundle again")
    return path


def _bundles_in(parent: Path) -> Iterator[tuple[Path, Bundle]]:
    if not parent.is_dir():
        return
    for folder in sorted(parent.iterdir()):
        # names that begin with a dot are unfinished: they get their final name when they are whole
        if folder.name.startswith(".") or not (folder / METADATA_FILE).is_file():
            continue
        try:
            yield folder, read_any_bundle(folder)
        except ModelError as error:
            logger.warning("%s", error)
