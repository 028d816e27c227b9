"""Whether a report says that something is there, is not, or may be.

The idea of NegEx (Chapman et al. 2001, J Biomed Inform 34:301): words that open and words that close a scope.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from volseg.text.tables import LANGUAGES, rows
from volseg.text.tokens import Token, longest_match, stems


class Assertion(StrEnum):
    """What a report says about a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"


class _Cue(StrEnum):
    ABSENT_BEFORE = "absent_before"
    ABSENT_AFTER = "absent_after"
    PSEUDO = "pseudo"
    """Looks like a negation and is none: "no change"."""
    UNCERTAIN_BEFORE = "uncertain_before"
    UNCERTAIN_AFTER = "uncertain_after"
    END = "end"
    """Closes the scope of what stands before it."""


_ARTICLES = frozenset({("a",), ("an",), ("there",), ("multiple",), ("several",), ("new",), ("ein",), ("eine",)})
"""After a comma these begin a finding of its own: "no effusion, a small nodule"."""


def assert_mentions(
    tokens: Sequence[Token], spans: Sequence[tuple[int, int]], measured: Collection[int] = ()
) -> list[Assertion]:
    """What a clause says about each of its mentions.

    Args:
        tokens: of the clause.
        spans: (first, after the last) token of each mention.
        measured: indices of tokens right after which a size stood in the text, -1 for one at the beginning.
    """
    all_stems = tuple(token.stem for token in tokens)
    cues = _cues(all_stems, spans)
    return [_assertion(tokens, cues, span, measured) for span in spans]


def cue_words(tokens: Sequence[Token]) -> int:
    """How many cues of absence or doubt stand among some words."""
    return sum(cue is not _Cue.END for _, _, cue in _cues(tuple(token.stem for token in tokens), ()))


def _assertion(
    tokens: Sequence[Token], cues: Sequence[tuple[int, int, _Cue]], span: tuple[int, int], measured: Collection[int]
) -> Assertion:
    """The nearest cue in whose scope the mention lies; one that stands behind it goes first, as it is the verb."""
    start, stop = span
    for at, _, cue in cues:
        if at < stop:
            continue
        if cue in (_Cue.END, _Cue.ABSENT_BEFORE, _Cue.UNCERTAIN_BEFORE):
            break
        if cue is _Cue.UNCERTAIN_AFTER:
            return Assertion.UNCERTAIN
        if cue is _Cue.ABSENT_AFTER:
            return Assertion.ABSENT
    for at, length, cue in reversed(cues):
        if at >= start:
            continue
        if cue is _Cue.END:
            break
        if cue in (_Cue.ABSENT_BEFORE, _Cue.UNCERTAIN_BEFORE) and not _begins_anew(
            tokens, at + length, start, measured
        ):
            return Assertion.ABSENT if cue is _Cue.ABSENT_BEFORE else Assertion.UNCERTAIN
    return Assertion.PRESENT


def _begins_anew(tokens: Sequence[Token], start: int, stop: int, measured: Collection[int]) -> bool:
    """Whether between a cue and a mention a comma begins something of its own: "no effusion, a 5 mm nodule"."""
    for at in range(start, stop):
        if not tokens[at].separator:
            continue
        rest = range(at + 1, stop)
        if tokens[at].raw == ";" or any((tokens[n].stem,) in _ARTICLES for n in rest):
            return True
        if any(n in measured for n in (at, *rest)):
            return True
    return False


def _cues(all_stems: tuple[str, ...], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, _Cue]]:
    """(index, length, cue) of every cue outside of the mentions, the longest at each place."""
    table = _table()
    inside = {at for start, stop in spans for at in range(start, stop)}
    found: list[tuple[int, int, _Cue]] = []
    at = 0
    while at < len(all_stems):
        length = longest_match(all_stems, at, table)
        if not length or at in inside:
            at += 1
            continue
        found += [(at, length, cue) for cue in table[all_stems[at : at + length]] if cue is not _Cue.PSEUDO]
        at += length
    return found


@cache
def _table() -> Mapping[tuple[str, ...], tuple[_Cue, ...]]:
    table: dict[tuple[str, ...], tuple[_Cue, ...]] = {}
    for language in LANGUAGES:
        for row in rows(f"assertions_{language}.csv"):
            key = stems(row["words"])
            table[key] = (*table.get(key, ()), _Cue(row["role"]))
    return MappingProxyType(table)
