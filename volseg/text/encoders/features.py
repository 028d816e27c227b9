"""Words to hashed pieces, the input of the compact encoder."""

from __future__ import annotations

import zlib
from functools import lru_cache

from volseg.text.tables import Role, words
from volseg.text.tokens import stems

SHORTEST, LONGEST = 2, 5
"""Lengths of the pieces of a word."""

MAX_WORDS = 24
"""Words of a text beyond these do not count."""


def encoder_words(text: str) -> tuple[str, ...]:
    """The words the encoder sees: in one spelling, sides under one name, words such as "of" left out."""
    sides, stop, of = words(Role.SIDE), words(Role.STOP), words(Role.OF)
    kept = [sides.get((word,), word) for word in stems(text) if (word,) not in stop and (word,) not in of]
    return tuple(kept[:MAX_WORDS]) or ("",)


@lru_cache(maxsize=65536)
def pieces(word: str, buckets: int) -> tuple[int, ...]:
    """Buckets of a word's pieces and of the word itself, by CRC-32."""
    marked = f"<{word}>"
    parts = {marked}
    for length in range(SHORTEST + 1, LONGEST + 1):
        parts.update(marked[start : start + length] for start in range(len(marked) - length + 1))
    return tuple(sorted(zlib.crc32(part.encode("utf-8", "replace")) % buckets for part in parts))
