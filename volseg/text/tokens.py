"""Phrases to words, in one spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from volseg.text.tables import plurals

_BRITISH = (
    ("oesophag", "esophag"),
    ("tumour", "tumor"),
    ("oedem", "edem"),
    ("haem", "hem"),
    ("coelia", "celia"),
    ("caec", "cec"),
    ("grey", "gray"),
    ("disk", "disc"),
    ("fibre", "fiber"),
    ("centre", "center"),
    ("calcul", "calcul"),
)
"""Spellings that mean the same, applied to names and phrases alike."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_SEPARATOR = re.compile(r"[,;/&+\n]")
_TOKEN = re.compile(f"{_WORD.pattern}|{_SEPARATOR.pattern}")
MEASURE = re.compile(
    r"(?<![\w.])\d+(?:[.,]\d+)?(?:\s*(?:x|×|by)\s*\d+(?:[.,]\d+)?){0,2}\s*(?:mm|cm|ml|cc)\b(?:\s*(?:x|×)\s*\d+(?:[.,]\d+)?\s*(?:mm|cm)\b){0,2}",
    re.IGNORECASE,
)
"""A size such as ``2.3 cm`` or ``12 x 9 mm``."""


@dataclass(frozen=True)
class Token:
    """One word, or one separating sign.

    Attributes:
        raw: as written.
        stem: folded and in the singular; a separator is its own stem.
        start: index of its first character in the text.
        separator: whether it is a comma, semicolon, slash, plus or ampersand, or the end of a line.
    """

    raw: str
    stem: str
    start: int
    separator: bool = False

    @property
    def stop(self) -> int:
        """Index of the character after it."""
        return self.start + len(self.raw)


def fold(text: str) -> str:
    """Lower case without accents, in American spelling: ``Œsophagus`` to ``esophagus``, ``Niere`` to ``niere``."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().replace("œ", "oe").replace("æ", "ae"))
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    for british, american in _BRITISH:
        if british in plain:
            plain = plain.replace(british, american)
    return plain


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word folded and in the singular.

    Names in the vocabulary go through the same rules, so a stem need not be a word: ``pancreas`` is ``pancrea``.
    """
    folded = re.sub(r"['’]s?$", "", fold(word))
    singular = plurals().get(folded)
    if singular is not None:
        return singular
    if len(folded) > 4 and folded.endswith("ies"):
        return folded[:-3] + "y"
    if len(folded) > 3 and folded.endswith("s") and not folded.endswith(("ss", "us", "is")):
        return folded[:-1]
    return folded


def tokenize(text: str) -> tuple[Token, ...]:
    """Words and separating signs in order; other signs only part words."""
    tokens = []
    for match in _TOKEN.finditer(text):
        raw = match.group()
        is_separator = _SEPARATOR.fullmatch(raw) is not None
        word = raw if is_separator else stem(raw)
        if word:
            tokens.append(Token(raw, word, match.start(), is_separator))
    return tuple(tokens)


def stems(text: str) -> tuple[str, ...]:
    """The stems of a name's words."""
    return tuple(token.stem for token in tokenize(text) if not token.separator)


def longest_match(words: tuple[str, ...], at: int, table: Mapping[tuple[str, ...], object], longest: int = 4) -> int:
    """How many words from ``at`` on form the longest key of ``table``; 0 if none does."""
    for length in range(min(longest, len(words) - at), 0, -1):
        if words[at : at + length] in table:
            return length
    return 0


def sorted_key(words: Iterable[str]) -> tuple[str, ...]:
    """A key that does not depend on the order of the words."""
    return tuple(sorted(words))
