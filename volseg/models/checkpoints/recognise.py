"""What a checkpoint file is: layout, size, release, and whether it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.errors import ModelError
from volseg.models.checkpoints.hashing import file_sha256
from volseg.models.checkpoints.known import KnownModel, known_by_hash
from volseg.models.checkpoints.read import FileFormat, file_format, read_state_dict
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.layouts import Layout, expected_shapes, from_meta, recognise

if TYPE_CHECKING:
    from torch import Tensor

_OTHERS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "SAM (the first, for single images)",
        frozenset({"image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight"}),
    ),
    ("VISTA3D", frozenset({"class_head.class_embeddings.weight"})),
    ("VISTA3D", frozenset({"module.class_head.class_embeddings.weight"})),
    ("a ResNet", frozenset({"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"})),
    ("a network trained in parallel, with its keys still under module.", frozenset({"module.no_mem_embed"})),
)
"""Other networks that people may have at hand, and keys that give them away."""

_POSITION = "shared_image_embedding.positional_embedding"
_POSITION_COPY = "prompt_encoder.shared_embedding.positional_embedding"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A weights file that was recognised as some SAM 2.

    Attributes:
        path: the file.
        format: how it is stored.
        sha256: of the file.
        known: the public checkpoint that has this hash.
        layout: how its keys are named.
        spec: the network.
        state: tensors under volseg's key names (transformers').
        missing: keys that the network needs and the file lacks.
        unexpected: keys that the network has no place for.
        misshapen: keys whose tensors have another shape, with both shapes.
    """

    path: Path
    format: FileFormat
    sha256: str
    known: KnownModel | None
    layout: Layout
    spec: Sam2Spec
    state: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the tensors are exactly those of the network."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def title(self) -> str:
        """What it is, in words, such as ``SAM 2.1 tiny (meta layout)``."""
        return f"{network_title(self.spec)} ({self.layout} layout)"

    def require_complete(self) -> None:
        """Raises ``ModelError`` with all keys that do not fit."""
        if not self.complete:
            parts = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.misshapen))
            listed = "; ".join(f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in parts if keys)
            raise ModelError(f"{self.path} looks like {self.title}, but its tensors do not fit. {listed}")


def network_title(spec: Sam2Spec) -> str:
    """Name, release and size of a network in words."""
    return f"SAM {spec.version} {spec.variant.replace('_', ' ')}"


def inspect_checkpoint(path: str | Path, *, image_size: int | None = None) -> Checkpoint:
    """Reads a weights file and tells what it is.

    Args:
        path: safetensors or PyTorch's format; a folder stands for its ``model.safetensors``.
        image_size: side of the network's input in pixels; None takes the known checkpoint's, or goes by the file name.

    Raises:
        ModelError: the file cannot be read safely, or is no SAM 2.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    found = file_format(path)
    state = read_state_dict(path)
    _refuse_others(state, path)
    sha256 = file_sha256(path)
    known = known_by_hash(sha256)
    if image_size is None and known is not None:
        image_size = known.spec.image_size
    try:
        recognised = recognise(state, image_size=image_size, file_name=path.name)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    renamed = from_meta(state) if recognised.layout is Layout.META else state
    if _POSITION in renamed and _POSITION_COPY not in renamed:
        # transformers stores the tied positional matrix once or twice, depending on its version
        renamed[_POSITION_COPY] = renamed[_POSITION].clone()
    expected = expected_shapes(recognised.spec)
    return Checkpoint(
        path=path,
        format=found,
        sha256=sha256,
        known=known,
        layout=recognised.layout,
        spec=recognised.spec,
        state=renamed,
        missing=tuple(sorted(set(expected) - set(renamed))),
        unexpected=tuple(sorted(set(renamed) - set(expected))),
        misshapen=tuple(
            f"{key} is {tuple(renamed[key].shape)}, expected {expected[key]}"
            for key in sorted(set(expected) & set(renamed))
            if tuple(renamed[key].shape) != expected[key]
        ),
    )


def _refuse_others(state: Mapping[str, Tensor], path: Path) -> None:
    for name, keys in _OTHERS:
        if keys <= set(state):
            raise ModelError(f"{path} looks like {name}; expected SAM 2, SAM 2.1, MedSAM2 or sam2-nano")
