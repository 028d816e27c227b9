"""From a checkpoint file, local or public, to a bundle."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.data.modality import Modality
from volseg.errors import LicenseError, ModelError
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.models.bundles.metadata import Identity, Origin, Sam2Bundle, Weights, read_bundle
from volseg.models.bundles.write import WEIGHTS_FILE, write_bundle
from volseg.models.card import License
from volseg.models.checkpoints.download import TransferSettings, download_checkpoint, forget_download, known_or_raise
from volseg.models.checkpoints.known import KnownModel
from volseg.models.checkpoints.recognise import Checkpoint, inspect_checkpoint, network_title
from volseg.models.checkpoints.store import models_folder
from volseg.networks.sam2.config import Sam2Spec, Sam2Variant
from volseg.progress import ProgressCallback, report

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")

UNKNOWN_LICENSE = License("", commercial=False, attribution="")
"""Of a file that nobody knows: its terms must be looked up, so nothing is promised."""

PERMISSIVE = frozenset({"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"})
"""SPDX identifiers of licences that allow commercial use."""

NANO_ZOOM = ZoomSettings(below=float("inf"), click_side_mm=96.0)
"""sam2-nano is made for crops around the object, whatever its size."""


def stated_license(spdx: str, attribution: str = "") -> License:
    """The terms that a person states for their own weights."""
    return License(spdx, commercial=spdx in PERMISSIVE, attribution=attribution)


def require_commercial(license: License, name: str) -> None:
    """Refuses weights whose licence does not allow commercial use.

    Raises:
        LicenseError: it does not, or nobody knows.
    """
    if not license.commercial:
        terms = f"their licence is {license.spdx}" if license.spdx else "their licence is not known"
        detail = f" ({license.attribution})" if license.attribution else ""
        raise LicenseError(f"the weights of {name} may not be used commercially: {terms}{detail}; use other weights")


def frame_format(spec: Sam2Spec) -> FrameFormat:
    """How a network of this kind was trained to see images."""
    if spec.variant is Sam2Variant.NANO:
        return FrameFormat(spec.image_size, Channels.NEIGHBOURS, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return FrameFormat(spec.image_size)


def default_zoom(spec: Sam2Spec) -> ZoomSettings:
    """How a network of this kind is zoomed."""
    return NANO_ZOOM if spec.variant is Sam2Variant.NANO else ZoomSettings()


def convert_checkpoint(
    source: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    image_size: int | None = None,
    license: License | None = None,
    known: KnownModel | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    check_license: Callable[[License], None] | None = None,
) -> Sam2Bundle:
    """Converts a weights file to a bundle.

    Args:
        source: SAM 2, SAM 2.1, MedSAM2 or sam2-nano in PyTorch's format or safetensors.
        folder: the bundle to write.
        name: what the model is called; None takes the known checkpoint's name, or the folder's.
        image_size: side of the network's input in pixels, where the file cannot tell.
        license: terms of the weights; None takes the known checkpoint's, else they count as unknown.
        known: the public checkpoint that the file was fetched as.
        revision: the commit it was fetched at, if not the pinned one.
        overwrite: replace a bundle that is there.
        check_license: told the terms before anything is written; may refuse.

    Returns:
        What the bundle says about its model.

    Raises:
        ModelError: the file is not a complete SAM 2, holds numbers that are not finite, or the folder is there.
    """
    checkpoint = inspect_checkpoint(source, image_size=image_size or (known.spec.image_size if known else None))
    checkpoint.require_complete()
    folder = Path(folder)
    bundle = describe_checkpoint(checkpoint, name or folder.name, license=license, known=known, revision=revision)
    if name is not None:
        bundle = replace(bundle, identity=replace(bundle.identity, name=name))
    if check_license is not None:
        check_license(bundle.license)
    return write_bundle(folder, bundle, _sound(checkpoint), overwrite=overwrite)


def describe_checkpoint(
    checkpoint: Checkpoint,
    name: str,
    *,
    license: License | None = None,
    known: KnownModel | None = None,
    revision: str | None = None,
) -> Sam2Bundle:
    """What a bundle with the weights of a checkpoint would say, but for the hash of its own file.

    Args:
        checkpoint: the file.
        name: what the model is called if it is no public one.
        license: terms of the weights; None takes the known checkpoint's, else they count as unknown.
        known: the public checkpoint that the file was fetched as; None goes by its hash.
        revision: the commit it was fetched at, if not the pinned one.

    Raises:
        ModelError: the file is of another network than the public checkpoint.
    """
    known = known or checkpoint.known
    if known is not None and replace(known.spec, image_size=checkpoint.spec.image_size) != checkpoint.spec:
        raise ModelError(f"{checkpoint.path} is {checkpoint.title}, but {known.name} is {network_title(known.spec)}")
    identity = Identity(
        name=known.name if known else name,
        version="1.0.0",
        summary=known.summary if known else f"{checkpoint.title}, converted from {checkpoint.path.name}.",
        modalities=tuple(sorted(known.modalities)) if known else tuple(Modality),
    )
    origin = Origin(file=checkpoint.path.name, sha256=checkpoint.sha256)
    if known is not None:
        origin = replace(origin, repository=known.repository, revision=revision or known.revision)
    return Sam2Bundle(
        identity=identity,
        license=license or (known.license if known else UNKNOWN_LICENSE),
        weights=Weights(WEIGHTS_FILE, ""),
        network=checkpoint.spec,
        frames=frame_format(checkpoint.spec),
        zoom=default_zoom(checkpoint.spec),
        origin=origin,
    )


def download_model(
    name: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    commercial: bool = False,
    force: bool = False,
    settings: TransferSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Fetches a public checkpoint and converts it, or finds it in the cache.

    Args:
        name: of a known checkpoint.
        revision: another commit of its repository.
        endpoint: the hub's address; None takes ``$HF_ENDPOINT`` or the public hub.
        commercial: refuse weights that may not be used commercially, before anything is fetched.
        force: fetch again although it is there.
        settings: how patient the transfer is.
        progress: told the part done; may cancel.

    Returns:
        The bundle's folder in the cache.

    Raises:
        DownloadError: it cannot be fetched or is not what is known under this name.
        LicenseError: ``commercial`` is set and the licence does not allow it.
        ModelError: what was fetched is no complete SAM 2.
    """
    known = known_or_raise(name)
    if commercial:
        require_commercial(known.license, name)
    folder = cached_folder(name)
    if folder.is_dir() and not force:
        bundle = read_bundle(folder)
        if revision in (None, bundle.origin.revision):
            return folder
    file = download_checkpoint(known, revision=revision, endpoint=endpoint, settings=settings, progress=progress)
    report(progress, 1.0, f"converting {name}")
    bundle = convert_checkpoint(file, folder, known=known, revision=revision, overwrite=True)
    if not known.sha256 or bundle.origin.sha256 != known.sha256:
        logger.warning(
            "nobody published the hash of this file; it arrived with SHA-256 %s, which the bundle records",
            bundle.origin.sha256,
        )
    forget_download(file)
    return folder


def cached_folder(name: str) -> Path:
    """Where the cache keeps the bundle of that name.

    Raises:
        ModelError: the name cannot be a folder's.
    """
    if not NAME.fullmatch(name):
        raise ModelError(f"a model's name has letters, digits, '.', '_' and '-' and begins with a letter, got {name!r}")
    return models_folder() / name


def _sound(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors as float32 (or in the file's half precision), all finite."""
    import torch

    state = {}
    for key, tensor in checkpoint.state.items():
        if not tensor.is_floating_point():
            raise ModelError(f"{checkpoint.path}: {key} is of type {tensor.dtype}; expected floating point numbers")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{checkpoint.path}: {key} holds numbers that are not finite; the file is damaged")
        state[key] = tensor.to(torch.float32) if tensor.dtype is torch.float64 else tensor
    return state
