"""A phrase to the things it lists: "spleen and both kidneys, liver without tumour" lists three."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from volseg.text.lexicon import Lexicon
from volseg.text.tables import Role, words
from volseg.text.tokens import Token, longest_match, tokenize

_SPINE = [f"C{n}" for n in range(1, 8)] + [f"T{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 6)] + ["S1"]
_TO = r"\s*(?:-|–|to|through|bis)\s*"
_VERTEBRA_RANGE = re.compile(rf"\b(C|Th|T|L)\s?(\d{{1,2}}){_TO}(C|Th|T|L|S)?\s?(\d{{1,2}})(?!\w)", re.IGNORECASE)
_RIB_RANGE = re.compile(rf"\b((?:left |right |both |lt |rt )?)ribs?\s+(\d{{1,2}}){_TO}(\d{{1,2}})(?!\w)", re.IGNORECASE)


@dataclass
class Item:
    """One thing that is listed.

    Attributes:
        include: the words of what is wanted.
        exclude: the words of each thing to leave out.
        after_sign: whether a comma or another sign, and no word, parts it from the item before.
    """

    include: list[Token]
    exclude: list[list[Token]] = field(default_factory=list)
    after_sign: bool = False


def split_items(text: str, lexicon: Lexicon) -> list[Item]:
    """The things a phrase lists, in order, with what is left unsaid filled in."""
    tokens = tokenize(expand_ranges(re.sub(r"\bw/o\b", "without", text, flags=re.IGNORECASE)))
    return _fill_in(_split(tokens, lexicon))


def expand_ranges(text: str) -> str:
    """Writes "L1-L3" and "left ribs 3 to 5" out as lists; a range that runs backwards is left as it is."""

    def vertebrae(match: re.Match[str]) -> str:
        first, last = (letter.upper()[:1] for letter in (match[1], match[3] or match[1]))
        names = (f"{first}{int(match[2])}", f"{last}{int(match[4])}")
        if not set(names) <= set(_SPINE) or _SPINE.index(names[0]) > _SPINE.index(names[1]):
            return match.group()
        return ", ".join(_SPINE[_SPINE.index(names[0]) : _SPINE.index(names[1]) + 1])

    def ribs(match: re.Match[str]) -> str:
        first, last = int(match[2]), int(match[3])
        if not 1 <= first <= last <= 12:
            return match.group()
        return ", ".join(f"{match[1]}rib {number}" for number in range(first, last + 1))

    return _RIB_RANGE.sub(ribs, _VERTEBRA_RANGE.sub(vertebrae, text))


def _split(tokens: tuple[Token, ...], lexicon: Lexicon) -> list[Item]:
    all_stems = tuple(token.stem for token in tokens)
    names = dict.fromkeys(lexicon.with_and)
    longest_name = max(map(len, lexicon.with_and), default=0)
    items: list[Item] = []
    current: list[Token] = []
    excluding, after_sign = False, False

    def close() -> None:
        nonlocal current
        if current and excluding and items:
            items[-1].exclude.append(current)
        elif current:
            items.append(Item(current, after_sign=after_sign))
        current = []

    at = 0
    while at < len(tokens):
        name = longest_match(all_stems, at, names, longest_name)
        if name:  # "portal vein and splenic vein" is one thing
            current += [token for token in tokens[at : at + name] if not token.separator]
            at += name
            continue
        without = longest_match(all_stems, at, words(Role.WITHOUT))
        listed = longest_match(all_stems, at, words(Role.LIST))
        if without:
            close()
            # "without" with nothing before it is not a list of things to leave out of the item before.
            excluding = bool(items)
            if not excluding:
                current += tokens[at : at + without]
            at += without
        elif tokens[at].separator or listed:
            close()
            sign = tokens[at].separator
            after_sign = sign
            excluding = excluding and not sign
            at += max(1, listed)
        else:
            current.append(tokens[at])
            at += 1
    close()
    return items


def _fill_in(items: list[Item]) -> list[Item]:
    """Gives items of a side or a number alone the words they share with their neighbour."""
    filled: list[Item] = []
    for index in range(len(items) - 1, -1, -1):  # from the end: "upper, middle and lower lobe"
        item = items[index]
        following = filled[0] if filled else None
        if _only(item.include, _SHARING) and not item.exclude:
            is_side = _only(item.include, (Role.SIDE,))
            before = items[index - 1] if index else None
            can_go_back = is_side and item.after_sign and before is not None and not _any(before.include, Role.SIDE)
            if can_go_back and before is not None and not _only(before.include, _SHARING):
                before.include = before.include + item.include  # "kidney, left"
                continue
            if following is not None:
                rest = _without_leading(following.include)
                if rest:
                    filled.insert(0, Item(item.include + rest, list(following.exclude), item.after_sign))
                    continue
        filled.insert(0, item)
    for item in filled:
        # "kidneys without the left one" leaves out the left kidney.
        rest = _without_leading(item.include)
        item.exclude = [said + rest if rest and _only(said, (Role.SIDE,)) else said for said in item.exclude]
    for before, item in pairwise(filled):
        numbers = [n for n, token in enumerate(before.include) if token.stem.isdigit()]
        if len(item.include) == 1 and item.include[0].stem.isdigit() and len(numbers) == 1:  # "ribs 3 and 4"
            item.include = [*before.include[: numbers[0]], item.include[0], *before.include[numbers[0] + 1 :]]
    return filled


_SHARING = (Role.SIDE, Role.POSITION, Role.ORDINAL, Role.STOP, Role.EXTREME)


def _only(tokens: list[Token], roles: tuple[Role, ...]) -> bool:
    meant = [token for token in tokens if (token.stem,) not in words(Role.STOP)]
    return bool(meant) and all(any((token.stem,) in words(role) for role in roles) for token in meant)


def _any(tokens: list[Token], role: Role) -> bool:
    return any((token.stem,) in words(role) for token in tokens)


def _without_leading(tokens: list[Token]) -> list[Token]:
    """The words after those that the item before replaces."""
    start = 0
    while start < len(tokens) and _only([tokens[start]], _SHARING):
        start += 1
    return tokens[start:]
