"""Loading a text-query model from a bundle, as data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import ModelError
from volseg.models.bundles.read import read_any_bundle
from volseg.models.device import choose_device

if TYPE_CHECKING:
    from volseg.data.modality import Modality
    from volseg.models.text_query import TextQueryModel

logger = logging.getLogger(__name__)


def open_text_bundle(
    folder: str | Path, device: str = "auto", *, window: str | None = None, modality: Modality | str | None = None
) -> TextQueryModel:
    """Loads the text-query model that a bundle describes in its metadata; runs none of its configs.

    Args:
        folder: the bundle.
        device: see ``choose_device``.
        window: of the images, unless the caller says otherwise: a preset's name, ``"LO,HI"``, or None to choose.
        modality: of the images, likewise.

    Raises:
        ModelError: the bundle is damaged: its metadata, its weights' hash, or tensors that do not fit.
        UntrustedBundleError: its metadata has no ``volseg`` block.
    """
    from volseg.models.bundles.load import bundle_weights
    from volseg.models.bundles.text_metadata import TextQueryBundle
    from volseg.models.options import EncodeOptions
    from volseg.models.text_query import TextQueryModel
    from volseg.networks.text_query.network import TextQueryNetwork

    folder = Path(folder)
    bundle = read_any_bundle(folder)
    if not isinstance(bundle, TextQueryBundle):
        raise ModelError(f"{folder} holds no text-query model; load it with volseg.load_model")
    state = {
        key: tensor.float() for key, tensor in bundle_weights(folder, bundle.weights).items()
    }  # halves are for storage
    try:
        network = TextQueryNetwork(bundle.network, state)
        defaults = EncodeOptions(window, None, None if modality is None else _modality(modality))
        model = TextQueryModel(network.to(choose_device(device)), bundle.card, bundle.settings, defaults)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    if bundle.identity.random_weights:
        logger.warning("%s was never trained: its weights are random and its masks mean nothing", bundle.identity.name)
    return model


def _modality(value: Modality | str) -> Modality:
    from volseg.data.modality import Modality

    return Modality(value)
