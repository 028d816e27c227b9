"""Writing a bundle folder: whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import ModelError, WriteError
from volseg.models.bundles.folders import TEMPLATE, carried_folder
from volseg.models.bundles.metadata import BLOCK, METADATA_FILE, Sam2Bundle, Weights, read_metadata
from volseg.models.checkpoints.hashing import file_sha256
from volseg.models.checkpoints.recognise import network_title

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "models/model.safetensors"
REFINE_FILE = "models/refine.safetensors"


def write_bundle(
    folder: Path,
    bundle: Sam2Bundle,
    state: Mapping[str, Tensor],
    *,
    refine_state: Mapping[str, Tensor] | None = None,
    description: str = "",
    overwrite: bool = False,
) -> Sam2Bundle:
    """Writes a bundle: the configs that all SAM 2 bundles share, weights as safetensors, metadata, licence, docs.

    Args:
        folder: the bundle's folder; takes its name only when everything in it is written.
        bundle: what to say about the model; the hash of the weights is filled in.
        state: the weights, under ``Sam2Network``'s key names; stored in the precision they have.
        refine_state: those of the refining network, under ``RefineNetwork``'s names, for a bundle that has one.
        description: one sentence for the metadata; empty takes the summary.
        overwrite: replace a folder that is there.

    Returns:
        The bundle with the hash of its weights.

    Raises:
        ModelError: the folder is there already.
        WriteError: it cannot be written.
    """
    folder = Path(folder)
    with atomic_folder(folder, overwrite=overwrite) as partial:
        template = carried_folder() / TEMPLATE
        for part in ("configs", "LICENSE"):
            source = template / part
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, partial / part)
        bundle = replace(bundle, weights=_save(partial, WEIGHTS_FILE, state))
        if bundle.refinement is not None:
            if refine_state is None:
                raise ModelError(f"the bundle {bundle.identity.name} has a refinement; give its weights, too")
            refinement = replace(bundle.refinement, weights=_save(partial, REFINE_FILE, refine_state))
            bundle = replace(bundle, refinement=refinement)
        metadata = _metadata(read_metadata(template), bundle, description or bundle.identity.summary)
        (partial / METADATA_FILE).write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
        (partial / "docs").mkdir()
        (partial / "docs" / "README.md").write_text(_readme(bundle), encoding="utf-8")
        if bundle.license.spdx != "Apache-2.0":
            # the code's licence that was copied does not cover these weights
            (partial / "LICENSE").write_text(_license_text(bundle), encoding="utf-8")
    return bundle


def _save(folder: Path, name: str, state: Mapping[str, Tensor]) -> Weights:
    """Writes tensors as safetensors."""
    from safetensors.torch import save_file

    path = folder / name
    path.parent.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes for the owner only
    return Weights(name, file_sha256(path))


@contextmanager
def atomic_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary folder to fill, and gives it its name when the block ends well.

    Raises:
        ModelError: the folder is there already and ``overwrite`` is not set.
        WriteError: the block or the last step failed with an ``OSError``.
    """
    if folder.exists() and not overwrite:
        raise ModelError(f"{folder} is there already; choose another folder, or say that it may be overwritten")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            old = partial.with_suffix(".old")
            folder.rename(old)
            try:
                partial.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, ModelError | WriteError):
            raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error
        raise


def _metadata(template: Mapping[str, Any], bundle: Sam2Bundle, description: str) -> dict[str, Any]:
    side = bundle.network.image_size
    metadata = dict(template) | {
        "version": bundle.identity.version,
        "changelog": {bundle.identity.version: "converted by volseg"},
        "name": bundle.identity.name,
        "task": f"prompted segmentation with {network_title(bundle.network)}",
        "description": description,
        "authors": bundle.license.attribution or "unknown",
        "copyright": bundle.license.attribution or "unknown",
        "data_source": "see the authors of the weights",
        "intended_use": "research; not for diagnosis",
        BLOCK: bundle.to_json(),
    }
    shapes = json.loads(json.dumps(metadata["network_data_format"]))
    for part in (*shapes["inputs"].values(), *shapes["outputs"].values()):
        part["spatial_shape"] = [side, side]
    return metadata | {"network_data_format": shapes}


def _license_text(bundle: Sam2Bundle) -> str:
    terms = "allowed" if bundle.license.commercial else "not allowed, as far as volseg knows"
    return os.linesep.join(
        (
            f"The weights in models/ are not volseg's. Licence: {bundle.license.spdx or 'unknown'}.",
            f"Commercial use: {terms}.",
            f"Attribution: {bundle.license.attribution or 'unknown; ask who gave you the file'}.",
            "The configuration files are volseg's, Apache-2.0.",
            "",
        )
    )


def _readme(bundle: Sam2Bundle) -> str:
    origin = bundle.origin
    source = f"{origin.repository} at {origin.revision}, " if origin.repository else ""
    commercial = "yes" if bundle.license.commercial else "no"
    return f"""# {bundle.identity.name}

{bundle.identity.summary}

| | |
|---|---|
| network | {network_title(bundle.network)}, {bundle.network.image_size} pixels |
| weights from | {source}{origin.file}, SHA-256 {origin.sha256} |
| licence of the weights | {bundle.license.spdx or "unknown"}; commercial use: {commercial} |
| attribution | {bundle.license.attribution or "unknown"} |
| modalities | {", ".join(bundle.identity.modalities)} |

Use it with `volseg segment IMAGE -o OUT --model FOLDER ...`, `volseg.load_model(FOLDER)`, or

    python -m monai.bundle run --config_file FOLDER/configs/inference.yaml --bundle_root FOLDER \\
        --image IMAGE --prompts PROMPTS.json --output_dir OUT

Not a medical device; for research.
"""
