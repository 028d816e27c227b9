"""A bundle as MONAI Label takes it: with its weights once more, as ``models/model.pt``.

MONAI Label (0.8.5) passes over a bundle without that file, and hands nothing but the image to the inferer; prompts come
with the request and reach the inferer in the image's ``meta`` (``volseg.transforms.cases.PROMPTS_KEY``).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from volseg.models.bundles.load import open_bundle
from volseg.models.bundles.write import atomic_folder

PICKLE_FILE = "models/model.pt"
"""A state dict under the keys of ``network_def``. Tensors only: ``torch.load(weights_only=True)`` reads it."""


def write_for_monai_label(bundle: Path, folder: Path, *, overwrite: bool = False) -> None:
    """Copies a SAM 2 bundle and adds what MONAI Label's loader asks for.

    Args:
        bundle: the bundle's folder.
        folder: the copy; takes its name only when everything in it is written. Its parent is what MONAI Label's
            ``monaibundle`` app calls its model folder.
        overwrite: replace a folder that is there.

    Raises:
        ModelError: the bundle is damaged, or the folder is there already.
        UntrustedBundleError: it is not a SAM 2 bundle of volseg's.
        WriteError: the folder cannot be written.
    """
    import torch

    network = open_bundle(bundle, "cpu").network
    with atomic_folder(folder, overwrite=overwrite) as partial:
        shutil.copytree(bundle, partial, dirs_exist_ok=True)
        torch.save(network.state_dict(), partial / PICKLE_FILE)
