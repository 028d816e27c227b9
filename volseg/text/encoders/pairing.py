"""Which encoder belongs to which segmenter.

A segmenter understands the vectors of the one encoder it was trained with. Vectors of another one have the same shape
and no meaning, so the two carry each other's hash and a mismatch is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from volseg.errors import ModelError
from volseg.text.encoders.base import TextEncoder

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pairing:
    """An encoder and the segmenter that was trained with it.

    Attributes:
        encoder_sha256: ``TextEncoder.sha256``.
        segmenter_sha256: hash of the segmenter's weights.

    Raises:
        ModelError: one of them is no SHA-256.
    """

    encoder_sha256: str
    segmenter_sha256: str

    def __post_init__(self) -> None:
        for name in ("encoder_sha256", "segmenter_sha256"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _SHA256.fullmatch(value):
                raise ModelError(f"{name} of a pairing is 64 hexadecimal digits, got {value!r}")

    def check(self, encoder_sha256: str, segmenter_sha256: str) -> None:
        """Raises ``ModelError`` unless both are the ones that belong together."""
        _check("text encoder", encoder_sha256, self.encoder_sha256)
        _check("segmenter", segmenter_sha256, self.segmenter_sha256)

    def dumps(self) -> str:
        """JSON that ``loads`` reads back."""
        return json.dumps({"encoder_sha256": self.encoder_sha256, "segmenter_sha256": self.segmenter_sha256}, indent=2)

    @classmethod
    def loads(cls, text: str) -> Pairing:
        """Reads what ``dumps`` wrote.

        Raises:
            ModelError: the text is something else.
        """
        try:
            data: Any = json.loads(text)
            return cls(data["encoder_sha256"], data["segmenter_sha256"])
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"a pairing is JSON with encoder_sha256 and segmenter_sha256, got {text[:80]!r}"
            ) from error


def check_pair(encoder: TextEncoder, expected_sha256: str, *, model: str = "the segmenter") -> None:
    """Refuses an encoder that a segmenter was not trained with.

    Args:
        encoder: the one at hand.
        expected_sha256: the hash the segmenter carries.
        model: how the segmenter is called in the message.

    Raises:
        ModelError: they do not belong together.
    """
    _check(f"text encoder of {model}", encoder.sha256, expected_sha256)


def _check(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise ModelError(
            f"the {what} has the hash {found[:12]}..., expected {expected[:12]}...: encoder and segmenter were not "
            "trained together, so the words would mean nothing; use the encoder that belongs to these weights"
        )
