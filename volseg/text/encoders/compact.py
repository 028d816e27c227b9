"""The encoder that volseg ships: hashed pieces of words, weighed and mixed by a small network.

It needs nothing but NumPy to run. It knows the vocabulary it was trained with and forgives misspellings; it does
not know medicine. ``train_compact`` makes its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volseg.errors import ModelError
from volseg.text.encoders.features import encoder_words, pieces

FORMAT = "volseg-compact-text-encoder-1"
WEIGHTS = ("pieces", "gate", "hidden.weight", "hidden.bias", "out.weight", "out.bias")
"""Names of the tensors in the file: [B, W], [W], [H, W], [H], [D, H], [D]."""


class CompactEncoder:
    """See the module. Implements ``TextEncoder``."""

    def __init__(self, weights: dict[str, NDArray[np.float32]], sha256: str) -> None:
        """Args: weights, the tensors named in ``WEIGHTS``; sha256, of the file they come from."""
        self._weights = weights
        self._sha256 = sha256

    @classmethod
    def load(cls, path: str | Path) -> CompactEncoder:
        """Reads weights that ``train_compact`` wrote.

        Raises:
            ModelError: the file is missing or something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            data = Path(path).read_bytes()
            with safe_open(str(path), framework="numpy") as file:
                if (file.metadata() or {}).get("format") != FORMAT:
                    raise ModelError(f"{path}: is not a compact text encoder of format {FORMAT}")
                weights = {name: file.get_tensor(name).astype(np.float32) for name in WEIGHTS}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read as a compact text encoder: {error}") from error
        return cls(weights, hashlib.sha256(data).hexdigest())

    @property
    def dimension(self) -> int:
        """See ``TextEncoder``."""
        return len(self._weights["out.bias"])

    @property
    def sha256(self) -> str:
        """See ``TextEncoder``."""
        return self._sha256

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ``TextEncoder``; every text has a vector."""
        weights = self._weights
        table, gate = weights["pieces"], weights["gate"]
        mixed = np.zeros((len(texts), table.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors = np.stack([table[list(pieces(word, len(table)))].mean(axis=0) for word in encoder_words(text)])
            scores = np.logaddexp(0.0, vectors @ gate)
            mixed[row] = scores @ vectors / np.sqrt(len(vectors))
        # Row by row, so that a vector does not depend on the batch it is computed in.
        hidden = (
            np.stack([weights["hidden.weight"] @ row for row in mixed])
            if len(texts)
            else mixed @ weights["hidden.weight"].T
        )
        hidden = np.maximum(hidden + weights["hidden.bias"], 0.0)
        out = (
            np.stack([weights["out.weight"] @ row for row in hidden])
            if len(texts)
            else hidden @ weights["out.weight"].T
        )
        out = out + weights["out.bias"]
        unit: NDArray[np.float32] = (out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)).astype(
            np.float32
        )
        return unit


@cache
def load_compact_encoder() -> CompactEncoder:
    """The encoder that volseg ships, read once."""
    with as_file(files("volseg.text").joinpath("data/compact_encoder.safetensors")) as path:
        return CompactEncoder.load(path)
