"""The words of one thing to the query they stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from volseg.text.lexicon import Lexicon, content_words, names_of
from volseg.text.problems import AmbiguousTermError, PhraseError, UnknownTermError
from volseg.text.query import Query, Selector, SelectorKind, recipe, with_notes
from volseg.text.tables import Role, words
from volseg.text.tokens import Token, longest_match, stems
from volseg.text.vocabulary import ConceptKind, Laterality

_EXTREMES = {
    "upper": SelectorKind.UPPERMOST,
    "lower": SelectorKind.LOWERMOST,
    "anterior": SelectorKind.FOREMOST,
    "posterior": SelectorKind.REARMOST,
    "left": SelectorKind.LEFTMOST,
    "right": SelectorKind.RIGHTMOST,
}
_SIDES = (Laterality.LEFT, Laterality.RIGHT)


@dataclass(frozen=True)
class _Modifier:
    """A word or words that narrow the meaning.

    Attributes:
        role: which table they are from.
        value: what the table says they mean.
        text: as written.
    """

    role: Role
    value: str
    text: str


class Interpreter:
    """Reads the words of one thing, exactly as written; misspellings are for the caller to mend."""

    def __init__(self, lexicon: Lexicon, among: Collection[str] | None) -> None:
        """Args: lexicon, the names; among, ids that settle an ambiguity where only one candidate is among them."""
        self.lexicon = lexicon
        self.vocabulary = lexicon.vocabulary
        self.among = among

    def read(self, tokens: Sequence[Token]) -> Query:
        """The query of one thing.

        Raises:
            UnknownTermError: no reading makes sense of all words.
            AmbiguousTermError: the words have several meanings.
            PhraseError: they contradict themselves.
        """
        text = " ".join(token.raw for token in tokens)
        for start in range(len(tokens)):
            # "segment 4 of the liver" is a name, "segment the liver" is not.
            query = self._as_name(tokens[start:])
            if query is not None:
                return replace(query, text=text)
            if not _is_filler(tokens[start]):
                break
        tokens = _after_fillers(tokens)
        if not tokens:
            raise PhraseError(f"{text!r} names nothing to segment")
        if _starts_with(tokens, Role.NEGATION) or _starts_with(tokens, Role.WITHOUT):
            raise PhraseError(f"{text!r} says only what is not wanted; name what is wanted first")
        for reading in (self._as_name, self._in_place, self._described, self._placed, self._part_of, self._lesion_of):
            query = reading(tokens)
            if query is not None:
                return replace(query, text=text)
        raise UnknownTermError(text, self.lexicon.nearest(" ".join(token.raw for token in tokens)))

    # ---- readings, the most literal first

    def _as_name(self, tokens: Sequence[Token]) -> Query | None:
        """All words together are a name, perhaps with a side."""
        names = [token.stem for token in tokens]
        text = " ".join(token.raw for token in tokens)
        for form in _forms(names):
            ids = self.lexicon.find(form)
            if ids:
                return self._one_of(text, [Query(text, (concept_id,), laterality=self._side(concept_id))
                                           for concept_id in ids])  # fmt: skip
            rest = [word for word in form if (word,) not in words(Role.SIDE)]
            said = {words(Role.SIDE)[word,] for word in form if (word,) in words(Role.SIDE)}
            ids = self.lexicon.find(rest) if said else ()
            if ids:
                if len(said) > 1:
                    raise PhraseError(f"{text!r} names {' and '.join(sorted(said))} at once; list them with 'and'")
                return self._one_of(text, self._on_side(text, ids, Laterality(said.pop())))
        return None

    def _in_place(self, tokens: Sequence[Token]) -> Query | None:
        """A thing in a place: "nodule in the right lung"."""
        return self._split_at(tokens, Role.WITHIN)

    def _part_of(self, tokens: Sequence[Token]) -> Query | None:
        """A thing of a place: "tumour of the prostate"."""
        return self._split_at(tokens, Role.OF)

    def _described(self, tokens: Sequence[Token]) -> Query | None:
        """Descriptions and sizes around a name: "largest calcified nodule"."""
        return self._stripped(tokens, (Role.DESCRIPTOR, Role.SIZE, Role.NUMBER))

    def _placed(self, tokens: Sequence[Token]) -> Query | None:
        """Positions as well: "upper half of the left kidney"."""
        roles = (Role.DESCRIPTOR, Role.SIZE, Role.NUMBER, Role.EXTREME, Role.POSITION, Role.PART)
        return self._stripped(tokens, roles)

    def _lesion_of(self, tokens: Sequence[Token]) -> Query | None:
        """A structure and a lesion side by side: "prostate tumour"; descriptions may stand around them."""
        roles = (Role.DESCRIPTOR, Role.SIZE, Role.NUMBER, Role.EXTREME)
        rest, modifiers = _strip(tokens, roles)
        for cut in range(1, len(rest)):
            site, head = self._as_name(rest[:cut]), self._as_name(rest[cut:])
            if site is None or head is None:
                continue
            kinds = [self.vocabulary.by_id(query.include[0]).kind for query in (site, head)]
            if kinds[0] is ConceptKind.STRUCTURE and kinds[1] is not ConceptKind.STRUCTURE:
                return self._modified(self.combined(head, site), modifiers)
        return None

    # ---- parts of readings

    def _split_at(self, tokens: Sequence[Token], role: Role) -> Query | None:
        all_stems = tuple(token.stem for token in tokens)
        for at in range(1, len(tokens) - 1):
            length = longest_match(all_stems, at, words(role))
            if not length or at + length >= len(tokens):
                continue
            try:
                head, site = self.read(tokens[:at]), self.read(tokens[at + length :])
            except UnknownTermError:
                continue
            if self.vocabulary.by_id(head.include[0]).kind is ConceptKind.STRUCTURE and role is Role.OF:
                continue  # "spleen of the liver" is no finding in an organ
            return self.combined(head, site)
        return None

    def _stripped(self, tokens: Sequence[Token], roles: tuple[Role, ...]) -> Query | None:
        rest, modifiers = _strip(tokens, roles)
        counted = any(modifier.role in (Role.SIZE, Role.EXTREME) for modifier in modifiers)
        if not modifiers or not rest or (not counted and any(one.role is Role.NUMBER for one in modifiers)):
            return None  # "4 liver" is not the liver
        query = self._as_name(rest) or self._in_place(rest)
        return None if query is None else self._modified(query, modifiers)

    def _modified(self, query: Query, modifiers: Sequence[_Modifier]) -> Query:
        """Adds what modifiers say; the one nearest to the noun, which stands last, applies first."""
        is_structure = all(self.vocabulary.by_id(one).kind is ConceptKind.STRUCTURE for one in query.include)
        has_part = any(modifier.role is Role.PART for modifier in modifiers)
        count = next((int(item.value) for item in modifiers if item.role is Role.NUMBER), 1)
        selectors = list(query.selectors)
        attributes = list(query.attributes)
        for modifier in reversed(modifiers):
            match modifier.role:
                case Role.SIZE:
                    selectors.append(Selector(SelectorKind(modifier.value), count))
                case Role.EXTREME:
                    selectors.append(Selector(_EXTREMES[modifier.value], count))
                case Role.POSITION if is_structure or has_part:
                    selectors.append(Selector(SelectorKind(modifier.value)))
                case Role.POSITION:
                    selectors.append(Selector(_EXTREMES[modifier.value], count))
                case Role.DESCRIPTOR:
                    attributes.insert(0, modifier.text)
                case _:
                    pass
        return replace(query, selectors=tuple(selectors), attributes=tuple(attributes))

    def combined(self, head: Query, site: Query) -> Query:
        """A thing in a place; "tumour" in "liver" is the concept liver tumour where there is one."""
        narrow = self._narrowed(head.include[0], site.include[0])
        plain_site = not site.selectors and not site.exclude
        include = head.include if narrow is None else (narrow,)
        selectors = head.selectors
        if narrow is None or not plain_site:
            selectors = (Selector(SelectorKind.WITHIN, region=site), *selectors)
        laterality = site.laterality if narrow is not None else head.laterality
        return replace(head, include=include, selectors=selectors, laterality=laterality,
                       corrections=head.corrections + site.corrections)  # fmt: skip

    def exactly(self, tokens: Sequence[Token]) -> Query | None:
        """The query of words that together are a name, perhaps with a side; None where they are not.

        Raises:
            AmbiguousTermError: the name has several meanings.
            PhraseError: there is no such side.
        """
        return self._as_name(tokens)

    def narrowed(self, head_id: str, site_id: str) -> str:
        """The concept for something in a place, or the thing itself where there is no such concept."""
        return self._narrowed(head_id, site_id) or head_id

    def _narrowed(self, head_id: str, site_id: str) -> str | None:
        head, site = self.vocabulary.by_id(head_id), self.vocabulary.by_id(site_id)
        base = self.vocabulary.by_id(site.base)
        for site_name in (base.name, *base.synonyms):
            for head_name in names_of(head):
                for concept_id in self.lexicon.find((*stems(site_name), *stems(head_name))):
                    sided = self.vocabulary.sided(concept_id, site.laterality)
                    if sided is not None and head_id in self.vocabulary.ancestors(sided.id):
                        return sided.id
        return None

    def _side(self, concept_id: str) -> Laterality:
        """The side that the words said when they matched without one: that of a name such as "left ventricle"."""
        concept = self.vocabulary.by_id(concept_id)
        return concept.laterality if concept.laterality in _SIDES else Laterality.NONE

    def _on_side(self, text: str, ids: Sequence[str], side: Laterality) -> list[Query]:
        """What the concepts are on a side; those that have such a side go before those that do not."""
        fitting: list[Query] = []
        halves: list[Query] = []
        impossible: list[Query] = []
        for concept_id in ids:
            concept = self.vocabulary.by_id(concept_id)
            if side is Laterality.BOTH:
                one = concept.kind is ConceptKind.STRUCTURE and concept.laterality is not side and not concept.parts
                (impossible if one else fitting).append(Query(text, (concept_id,), laterality=side))
                continue
            sided = self.vocabulary.sided(concept_id, side)
            if sided is not None:
                fitting.append(Query(text, (sided.id,), laterality=side))
            elif concept.laterality is side:
                fitting.append(Query(text, (concept_id,), laterality=side))
            elif concept.laterality is Laterality.NONE:
                selector = Selector(SelectorKind(side))
                halves.append(Query(text, (concept_id,), laterality=side, selectors=(selector,)))
            else:
                impossible.append(Query(text, (concept_id,)))
        if not fitting and not halves:
            name = self.vocabulary.by_id(ids[0]).name
            raise PhraseError(f"{text!r}: there is no {side} {name}" if side is not Laterality.BOTH else
                              f"{text!r}: there is only one {name}")  # fmt: skip
        return fitting or halves

    def _one_of(self, text: str, queries: Sequence[Query]) -> Query:
        if len(queries) == 1:
            return queries[0]
        candidates = tuple(query.include[0] for query in queries)
        names = tuple(self.vocabulary.by_id(concept_id).name for concept_id in candidates)
        if self.among is not None:
            offered = [query for query in queries if recipe(query.include[0], self.among, self.vocabulary) is not None]
            if len(offered) == 1:
                name = self.vocabulary.by_id(offered[0].include[0]).name
                others = " or ".join(other for other in names if other != name)
                return with_notes(offered[0], f"{text!r} was read as {name}; {others} is not offered")
        raise AmbiguousTermError(text, candidates, names)


def _forms(names: list[str]) -> Iterator[list[str]]:
    """The words as they are, then with adjectives as nouns: "hepatic" as "liver"."""
    yield names
    adjectives = words(Role.ADJECTIVE)
    if any((word,) in adjectives for word in names):
        yield [part for word in names for part in stems(adjectives.get((word,), word))]


def _is_filler(token: Token) -> bool:
    return any((token.stem,) in words(role) for role in (Role.FILLER, Role.STOP))


def _after_fillers(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without words such as "please segment the" at either end."""
    start, stop = 0, len(tokens)
    all_stems = tuple(token.stem for token in tokens)
    while start < stop and (length := _filler(all_stems, start)):
        start += length
    while stop > start and (all_stems[stop - 1],) in words(Role.FILLER):
        stop -= 1
    return tokens[start:stop]


def _filler(all_stems: tuple[str, ...], at: int) -> int:
    return longest_match(all_stems, at, words(Role.FILLER)) or longest_match(all_stems, at, words(Role.STOP))


def _starts_with(tokens: Sequence[Token], role: Role) -> bool:
    return longest_match(tuple(token.stem for token in tokens), 0, words(role)) > 0


def _strip(tokens: Sequence[Token], roles: tuple[Role, ...]) -> tuple[list[Token], list[_Modifier]]:
    """Takes the words with some roles out, longest first."""
    all_stems = tuple(token.stem for token in tokens)
    rest: list[Token] = []
    modifiers: list[_Modifier] = []
    at = 0
    while at < len(tokens):
        lengths = {role: longest_match(all_stems, at, words(role)) for role in roles}
        role = max(roles, key=lambda one: lengths[one])
        number = all_stems[at]
        if lengths[role]:
            key = all_stems[at : at + lengths[role]]
            text = " ".join(token.raw for token in tokens[at : at + lengths[role]])
            modifiers.append(_Modifier(role, words(role)[key], text))
            at += lengths[role]
        elif Role.NUMBER in roles and number.isdecimal() and number.isascii() and 0 < int(number[:4]) <= 100:
            modifiers.append(_Modifier(Role.NUMBER, number, tokens[at].raw))
            at += 1
        else:
            rest.append(tokens[at])
            at += 1
    if not content_words(token.stem for token in rest):
        return [], modifiers
    return rest, modifiers
