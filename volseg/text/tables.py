"""Tables of words, one file a language: what a word does in a phrase."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType

LANGUAGES = ("en", "de")
"""Languages with a table of grammar words; their names of structures are in ``names_<language>.csv``."""


class Role(StrEnum):
    """What a word does in a phrase."""

    SIDE = "side"
    LIST = "list"
    WITHOUT = "without"
    WITHIN = "within"
    OF = "of"
    STOP = "stop"
    FILLER = "filler"
    NEGATION = "negation"
    VARIANT = "variant"
    """Another word for a word of the vocabulary."""
    ADJECTIVE = "adjective"
    """The adjective of a structure; tried where the phrase as written is not known."""
    ORDINAL = "ordinal"
    """May stand for a whole name before "and": "third and fourth ventricle"."""
    SIZE = "size"
    NUMBER = "number"
    POSITION = "position"
    EXTREME = "extreme"
    PART = "part"
    DESCRIPTOR = "descriptor"


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a file in ``volseg/text/data``."""
    text = files("volseg.text").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def plurals() -> Mapping[str, str]:
    """Irregular plurals and their singular, both folded."""
    return MappingProxyType({row["plural"]: row["singular"] for row in rows("plurals.csv")})


@cache
def words(role: Role) -> Mapping[tuple[str, ...], str]:
    """Stems of the words with a role, and their value (empty where the role needs none), of all languages."""
    from volseg.text.tokens import stems

    table: dict[tuple[str, ...], str] = {}
    for row in _word_rows():
        if row["role"] == role:
            table.setdefault(stems(row["words"]), row["value"])
    return MappingProxyType(table)


@cache
def _word_rows() -> tuple[dict[str, str], ...]:
    return tuple(row for language in LANGUAGES for row in rows(f"words_{language}.csv"))
