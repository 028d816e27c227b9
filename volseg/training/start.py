"""Weights that a training starts from, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from volseg.errors import ModelError, TrainingError
from volseg.models.bundles.load import bundle_weights
from volseg.models.bundles.metadata import Sam2Bundle, read_bundle
from volseg.models.checkpoints.convert import describe_checkpoint
from volseg.models.checkpoints.read import FileFormat, file_format
from volseg.models.checkpoints.recognise import inspect_checkpoint
from volseg.models.registry import find_model
from volseg.networks.sam2.config import Sam2Spec
from volseg.training.config import Adapt

LEARNING_RATES = {Adapt.FULL: 2e-4, Adapt.FROZEN_ENCODER: 3e-4, Adapt.LORA: 1e-3}
MAX_CALIBRATED_SIDE = 256
"""Calibrating presence encodes 40 frames at a time; beyond this size that takes many GB and minutes."""
SPEC_KEY = "spec"


@dataclass(frozen=True, eq=False)
class StartWeights:
    """Trained weights.

    Attributes:
        bundle: what is known of them: network, frames, zoom, licence, origin.
        sha256: of their file.
        state: the weights as stored, under ``Sam2Network``'s names.
        refine_state: those of the bundle's refining network, which is taken over as it is; None without one.
    """

    bundle: Sam2Bundle
    sha256: str
    state: Mapping[str, Tensor]
    refine_state: Mapping[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.bundle.identity.name

    def settings(self, adapt: Adapt) -> dict[str, Any]:
        """What a training configuration says where it follows the weights, as plain data."""
        frames = self.bundle.frames
        return {
            "spec": asdict(self.bundle.network),
            "mean": list(frames.mean),
            "std": list(frames.std),
            "channels": str(frames.channels),
            "calibrate": frames.image_size <= MAX_CALIBRATED_SIDE,
            "schedule": {"learning_rate": LEARNING_RATES[adapt]},
        }


def read_start(source: str | Path, *, image_size: int | None = None) -> StartWeights:
    """Reads weights as data; runs nothing.

    Args:
        source: the name of a model that is here, a bundle's folder, or a weights file (SAM 2, SAM 2.1, MedSAM2,
            transformers', sam2-nano; safetensors or PyTorch's format).
        image_size: side of the network's input in pixels, if another than the weights' own is wanted. No learned
            number depends on it.

    Raises:
        ModelError: there are no such weights, or they are damaged or of another network.
    """
    path = Path(source)
    start = _read_file(path, image_size) if path.is_file() else _read_model(source)
    if image_size is None:
        return start
    bundle = start.bundle
    sized = replace(
        bundle,
        network=replace(bundle.network, image_size=image_size),
        frames=replace(bundle.frames, image_size=image_size),
    )
    return replace(start, bundle=sized)


def _read_model(source: str | Path) -> StartWeights:
    folder = find_model(source)
    bundle = read_bundle(folder)
    refine_state = None if bundle.refinement is None else bundle_weights(folder, bundle.refinement.weights)
    return StartWeights(bundle, bundle.weights.sha256, bundle_weights(folder, bundle.weights), refine_state)


def _read_file(path: Path, image_size: int | None) -> StartWeights:
    checkpoint = inspect_checkpoint(path, image_size=image_size)
    checkpoint.require_complete()
    bundle = describe_checkpoint(checkpoint, path.stem)
    spec = _stated_spec(path)
    if spec is not None:
        bundle = replace(bundle, network=spec, frames=replace(bundle.frames, image_size=spec.image_size))
    return StartWeights(bundle, checkpoint.sha256, checkpoint.state)


def _stated_spec(path: Path) -> Sam2Spec | None:
    """The network that a safetensors file of volseg's own names; tensors alone do not tell all of it."""
    if file_format(path) is not FileFormat.SAFETENSORS:
        return None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(SPEC_KEY)
    try:
        return None if text is None else Sam2Spec.from_json(text)
    except ModelError as error:
        raise TrainingError(f"{path}: {error}") from error
