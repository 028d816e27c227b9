"""From trained weights to a bundle that volseg and MONAI load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from volseg.data.atomic import atomic_path
from volseg.models.bundles.folders import carried_folder
from volseg.models.bundles.metadata import BLOCK, METADATA_FILE, Identity, Weights
from volseg.models.bundles.text_metadata import Search, Structure, TextQueryBundle, WindowsAt
from volseg.models.card import License
from volseg.models.checkpoints.hashing import file_sha256
from volseg.networks.text_query.config import TextQuerySpec
from volseg.training.text_query.config import TextTrainConfig

TEMPLATE = "text_prompted_segmentation"
WEIGHTS_FILE = "models/model.safetensors"


def looked_for_at(config: TextTrainConfig) -> dict[str, float]:
    """The spacing each trained structure is looked for at: the one with the greatest weight."""
    views = [view for group in config.groups if group.source.train for view in group.views]
    best: dict[str, tuple[float, float]] = {}
    for view in views:
        for concept in view.concepts:
            if concept not in best or view.weight > best[concept][0]:
                best[concept] = (view.weight, view.spacing_mm)
    return {concept: spacing for concept, (_, spacing) in best.items()}


def windows_at(config: TextTrainConfig) -> tuple[WindowsAt, ...]:
    """The largest and the smallest window that were trained at each spacing, axis by axis."""
    trained: dict[float, list[tuple[int, int, int]]] = {}
    for view in (view for group in config.groups if group.source.train for view in group.views):
        trained.setdefault(view.spacing_mm, []).append(view.window)
    found = []
    for spacing, windows in sorted(trained.items()):
        (i, j, k), (a, b, c) = (tuple(map(choose, zip(*windows, strict=True))) for choose in (max, min))
        found.append(WindowsAt(spacing, (i, j, k), (a, b, c)))
    return tuple(found)


def write_text_bundle(
    folder: Path,
    weights: Path,
    spec: TextQuerySpec,
    config: TextTrainConfig,
    structures: Sequence[Structure],
    identity: Identity,
    license: License,
    facts: dict[str, Any],
) -> TextQueryBundle:
    """Writes weights, metadata and the facts of the card into a bundle folder.

    Args:
        folder: the bundle; configs and licence are taken from the carried one where they are not there.
        weights: safetensors that ``train_text`` wrote.
        spec: of the network.
        config: of the run.
        structures: what is offered, with what it rests on.
        identity: name, version, purpose.
        license: terms of the weights.
        facts: what the card says besides, as plain data.
    """
    template = carried_folder() / TEMPLATE
    if template.resolve() != folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(template / "configs", folder / "configs", dirs_exist_ok=True)
        shutil.copyfile(template / "LICENSE", folder / "LICENSE")
    for part in ("models", "docs"):
        (folder / part).mkdir(exist_ok=True)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        shutil.copyfile(weights, temporary)
    bundle = TextQueryBundle(
        identity,
        license,
        Weights(WEIGHTS_FILE, file_sha256(folder / WEIGHTS_FILE)),
        replace(spec),
        Search(windows_at(config)),
        tuple(structures),
    )
    metadata = json.loads((template / METADATA_FILE).read_text(encoding="utf-8"))
    metadata |= {"version": identity.version, BLOCK: bundle.to_json()}
    with atomic_path(folder / METADATA_FILE) as temporary:
        temporary.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    with atomic_path(folder / "docs" / "card.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return bundle
