"""Reading weights without running anything (P7)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("model", "state_dict", "model_state_dict", "network_weights")
"""Keys under which training programs put the weights beside their own state."""


class FileFormat(StrEnum):
    """How a weights file is stored, told from its first bytes, whatever its name."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch (zip)"
    TORCH_LEGACY = "torch (legacy pickle)"


def file_format(path: Path) -> FileFormat:
    """Tells a weights file's format.

    Raises:
        ModelError: it cannot be read or is no weights file.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}; expected a weights file") from error
    if head.startswith(b"PK\x03\x04"):
        return FileFormat.TORCH_ZIP
    if head[8:9] == b"{":
        return FileFormat.SAFETENSORS
    if head.startswith(b"\x80"):
        return FileFormat.TORCH_LEGACY
    raise ModelError(f"{path} is no weights file; expected safetensors or PyTorch's format, got bytes {head!r}")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a state dict on the CPU, mapped from the file where the format allows it.

    Pickles are read with ``weights_only=True``: they can hold tensors and plain containers and run nothing.

    Args:
        path: safetensors, or PyTorch's format with the state dict bare or under one of ``WRAPPERS``.

    Raises:
        ModelError: the file is damaged, holds code, or holds no state dict.
    """
    found = file_format(path)
    loaded = _load_safetensors(path) if found is FileFormat.SAFETENSORS else _load_torch(path, found)
    return _state_dict(loaded, path)


def _load_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    return tensors


def _load_torch(path: Path, found: FileFormat) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=found is FileFormat.TORCH_ZIP)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is no plain weights file: it would run {_foreign_code(path) or 'code'}, which volseg never does; "
            "ask its author for safetensors, or for a file that holds the state dict only"
        ) from error
    except Exception as error:  # a damaged archive or pickle fails in any way
        first_line = str(error).partition("\n")[0]
        raise ModelError(f"{path} is damaged, cut short or no weights file ({first_line}); fetch it again") from error


def _foreign_code(path: Path) -> str:
    """What a pickle would call, for the message; empty where that cannot be told."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return ", ".join(sorted(get_unsafe_globals_in_checkpoint(path)))
    except Exception:  # only the message suffers; the file is refused either way
        return ""


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    from torch import Tensor

    inner = loaded
    if isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    if not isinstance(inner, Mapping) or not inner:
        raise ModelError(f"{path} holds {_describe(inner)}; expected a state dict, bare or under one of {WRAPPERS}")
    strange = [str(key) for key, value in inner.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise ModelError(
            f"{path} is no state dict: {', '.join(strange[:5])} {'is' if len(strange) == 1 else 'are'} not tensors"
        )
    return dict(inner)


def _describe(value: object) -> str:
    return "nothing" if isinstance(value, Mapping) else f"a {type(value).__name__}"
