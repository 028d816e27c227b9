"""Vectors computed once, so that a large encoder need not be there when a model runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volseg.data.atomic import atomic_path
from volseg.errors import ModelError, PromptError
from volseg.text.encoders.base import TextEncoder
from volseg.text.tokens import stems

_FORMAT = "volseg-embedding-bank-1"


class EmbeddingBank:
    """Texts and their vectors. Implements ``TextEncoder`` for the texts it holds.

    ``sha256`` is that of the encoder that computed the vectors, as a segmenter paired with it understands them too.
    """

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32], encoder_sha256: str) -> None:
        """Args: texts, one for each row of vectors [N, D]; encoder_sha256, of the encoder that computed them.

        Raises:
            ModelError: the numbers of texts and vectors differ, or there are none.
        """
        if vectors.ndim != 2 or len(texts) != len(vectors) or len(texts) == 0:
            raise ModelError(f"a bank holds one vector a text, got {len(texts)} texts and vectors {vectors.shape}")
        self.texts = tuple(texts)
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._sha256 = encoder_sha256
        self._row = {stems(text): row for row, text in reversed(list(enumerate(self.texts)))}

    @classmethod
    def build(cls, encoder: TextEncoder, texts: Iterable[str]) -> EmbeddingBank:
        """Computes the vectors of some texts, each once."""
        each_once = tuple(dict.fromkeys(texts))
        return cls(each_once, encoder.encode(each_once), encoder.sha256)

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingBank:
        """Reads what ``save`` wrote.

        Raises:
            ModelError: the file is missing, something else, or its vectors were changed.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ModelError(f"{path}: is not an embedding bank of format {_FORMAT}")
                vectors = file.get_tensor("vectors")
            texts = json.loads(metadata["texts"])
            expected = metadata["content_sha256"]
            bank = cls(texts, vectors, metadata["encoder_sha256"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{path}: cannot be read as an embedding bank: {error}") from error
        if bank.content_sha256 != expected:
            raise ModelError(f"{path}: texts or vectors were changed after the bank was written; build it again")
        return bank

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file.

        Raises:
            WriteError: it cannot be written.
        """
        from safetensors.numpy import save_file

        metadata = {
            "format": _FORMAT,
            "texts": json.dumps(self.texts, ensure_ascii=False),
            "encoder_sha256": self._sha256,
            "content_sha256": self.content_sha256,
        }
        with atomic_path(path) as partial:
            save_file({"vectors": self._vectors}, str(partial), metadata=metadata)

    @property
    def content_sha256(self) -> str:
        """Hash of the texts, the vectors and the encoder's hash."""
        digest = hashlib.sha256(json.dumps([self.texts, self._sha256, self._vectors.shape]).encode())
        digest.update(self._vectors.astype("<f4").tobytes())
        return digest.hexdigest()

    @property
    def dimension(self) -> int:
        """See ``TextEncoder``."""
        return int(self._vectors.shape[1])

    @property
    def sha256(self) -> str:
        """See the class."""
        return self._sha256

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts that the bank holds; case, plural and punctuation make no difference.

        Raises:
            PromptError: a text is not in the bank.
        """
        rows = []
        for text in texts:
            row = self._row.get(stems(text))
            if row is None:
                raise PromptError(
                    f"the embedding bank has no vector for {text!r}; it holds {len(self.texts)} texts, and others need "
                    "the encoder that computed it"
                )
            rows.append(row)
        return self._vectors[rows]
