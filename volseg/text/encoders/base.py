"""What every text encoder is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class TextEncoder(Protocol):
    """Turns texts into vectors; the same text always into the same one, whatever else is encoded with it."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def sha256(self) -> str:
        """Identity of everything the vectors depend on, 64 hexadecimal digits; see ``check_pair``."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of unit length, float32 [N, D], in the order of the texts.

        Raises:
            PromptError: a text that the encoder has no vector for.
        """
