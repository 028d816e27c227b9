"""What things look like, in words.

K2Sight (Li et al. 2025, arXiv 2508.04572) showed that a description of shape, density and place helps a model to find
what it has rarely seen by name. The shipped model knows names alone; the descriptions are carried so that others can
use them.
"""

from __future__ import annotations

from functools import cache

from volseg.text.query import Query
from volseg.text.tables import rows
from volseg.text.vocabulary import Vocabulary, load_vocabulary


def appearance(concept_id: str, vocabulary: Vocabulary | None = None) -> str:
    """What a lesion looks like, a few words; empty where the vocabulary has no description."""
    known = vocabulary or load_vocabulary()
    return _appearances().get(known.by_id(concept_id).base, "")


def attribute_prompt(query: Query, vocabulary: Vocabulary | None = None) -> str:
    """A query's name, what a report says about it, and what such things look like.

    Such as ``left kidney cyst: simple, 12 x 9 mm; round, smooth thin wall, fluid density, in or on the kidney``.
    """
    known = vocabulary or load_vocabulary()
    name = query.describe(known)
    looks = (", ".join(query.attributes), *(appearance(one, known) for one in query.include))
    said = "; ".join(text for text in dict.fromkeys(looks) if text)
    return f"{name}: {said}" if said else name


@cache
def _appearances() -> dict[str, str]:
    return {row["id"]: row["appearance"] for row in rows("appearance_en.csv")}
