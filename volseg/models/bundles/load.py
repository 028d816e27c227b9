"""Loading a model from a bundle, as data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import ModelError, UntrustedBundleError
from volseg.models.base import Model
from volseg.models.bundles.folders import carried_folder, weights_path
from volseg.models.bundles.metadata import BLOCK, Sam2Bundle, Weights, read_bundle, read_metadata, settings_from_json
from volseg.models.bundles.read import read_any_bundle
from volseg.models.bundles.trust import foreign_code
from volseg.models.checkpoints.hashing import file_sha256
from volseg.models.checkpoints.read import FileFormat, file_format, read_state_dict
from volseg.models.device import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from volseg.data.modality import Modality
    from volseg.geometry import Plane
    from volseg.models.refined import RefinedModel
    from volseg.models.sam2 import Sam2Model

logger = logging.getLogger(__name__)

TRUSTED_KEY = "volseg_model"
"""What a bundle with code of its own defines in its inference config: a ``volseg.models.base.Model``."""


def open_bundle(
    folder: str | Path,
    device: str = "auto",
    *,
    window: str | None = None,
    plane: Plane | str | None = None,
    modality: Modality | str | None = None,
) -> Sam2Model | RefinedModel:
    """Loads the SAM 2 that a bundle describes in its metadata; runs none of its configs.

    Args:
        folder: the bundle.
        device: see ``choose_device``.
        window: of the images, unless the caller says otherwise: a preset's name, ``"LO,HI"``, or None to choose.
        plane: to track along, likewise.
        modality: of the images, likewise.

    Raises:
        ModelError: the bundle is damaged: its metadata, its weights' hash, or tensors that do not fit.
        UntrustedBundleError: its metadata has no ``volseg`` block.
    """
    from volseg.inferers.slice_propagation import SlicePropagationInferer
    from volseg.inferers.tracking import TrackSettings
    from volseg.models.sam2 import Sam2Model
    from volseg.networks.sam2.network import Sam2Network

    folder = Path(folder)
    bundle = read_bundle(folder)
    tracking = settings_from_json(TrackSettings, bundle.tracking, "tracking")
    target = choose_device(device)
    state = _full_precision(bundle_weights(folder, bundle.weights))
    try:
        network = Sam2Network(bundle.network, state)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    if bundle.identity.random_weights:
        logger.warning("%s was never trained: its weights are random and its masks mean nothing", bundle.identity.name)
    inferer = SlicePropagationInferer(
        bundle.frames,
        bundle.zoom,
        tracking,
        weights_sha256=bundle.weights.sha256,
        window=window,
        plane=plane,
        modality=modality,
    )
    model = Sam2Model(network.to(target), bundle.card, inferer)
    if bundle.refinement is None:
        return model
    from volseg.inferers.refine.refiner import Refiner
    from volseg.models.refined import RefinedModel
    from volseg.networks.refine.network import RefineNetwork

    said = bundle.refinement
    try:
        refining = RefineNetwork(said.network, _full_precision(bundle_weights(folder, said.weights)))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    return RefinedModel(model, Refiner(refining.to(target), said.settings), bundle.card)


def _full_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Halves are for storage."""
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def load_bundle(folder: Path, *, device: str = "auto", trust: bool = False) -> Model:
    """Loads the model of a bundle from anywhere.

    A bundle that volseg did not bring along is refused if its configs would run anything unknown, although loading
    does not run them: they are what ``monai.bundle run`` would execute next.

    Args:
        folder: the bundle.
        device: see ``choose_device``.
        trust: allow unknown code, and run it where the bundle has no ``volseg`` block.

    Raises:
        UntrustedBundleError: it would run unknown code, which the message lists, and ``trust`` is not set.
        ModelError: the bundle is damaged, or trusted and without a model.
    """
    has_block = BLOCK in read_metadata(folder)
    if trust:
        return _open(folder, device) if has_block else _run_configs(folder, device)
    if not folder.resolve().is_relative_to(carried_folder().resolve()):
        unknown = foreign_code(folder)
        if unknown or not has_block:
            listed = "; ".join(unknown) or "its configs"
            missing = "" if has_block else f" (its metadata has no '{BLOCK}' block that says how to load it as data)"
            raise UntrustedBundleError(
                f"{folder} would run code that volseg does not know{missing}: {listed}. "
                "Read it, and say --trust if you trust its author"
            )
    return _open(folder, device)


def _open(folder: Path, device: str) -> Model:
    if isinstance(read_any_bundle(folder), Sam2Bundle):
        return open_bundle(folder, device)
    from volseg.models.bundles.load_text import open_text_bundle

    return open_text_bundle(folder, device)


def bundle_weights(folder: Path, weights: Weights) -> Mapping[str, Tensor]:
    """Weights of a bundle in their stored precision, checked against its metadata.

    Args:
        folder: the bundle.
        weights: which file, and its hash.

    Raises:
        ModelError: they are missing, damaged, changed, or no safetensors.
    """
    path = weights_path(folder, weights.file)
    found = file_sha256(path)
    if found != weights.sha256:
        raise ModelError(
            f"{path} was changed or is damaged: its SHA-256 is {found}, its metadata says {weights.sha256}; "
            "fetch the bundle again"
        )
    if file_format(path) is not FileFormat.SAFETENSORS:
        raise ModelError(f"{path} is not safetensors; convert it with 'volseg models convert'")
    return read_state_dict(path)


def _run_configs(folder: Path, device: str) -> Model:
    from monai.bundle import ConfigParser

    config = next((path for path in sorted((folder / "configs").glob("inference.*"))), None)
    if config is None:
        raise ModelError(f"{folder} has no configs/inference file that could define '{TRUSTED_KEY}'")
    with _importable(folder):
        parser = ConfigParser()
        parser.read_config(str(config))
        parser["bundle_root"] = str(folder)
        parser["device"] = str(choose_device(device))
        model: Any = parser.get_parsed_content(TRUSTED_KEY, default=None)
    if not isinstance(model, Model):
        raise ModelError(
            f"{config} defines no '{TRUSTED_KEY}' that is a volseg.models.base.Model; got {type(model).__name__}"
        )
    return model


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """MONAI's convention: a bundle's code is imported from its folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
