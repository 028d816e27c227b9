"""Radiology reports to findings: what, on which side, where, how it looks, and whether it is said to be there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from volseg.text.assertions import Assertion, assert_mentions, cue_words
from volseg.text.lexicon import Lexicon, content_words, load_lexicon
from volseg.text.meaning import Interpreter
from volseg.text.problems import AmbiguousTermError, PhraseError
from volseg.text.query import Query, Selector, SelectorKind
from volseg.text.tables import Role, words
from volseg.text.tokens import MEASURE, Token, longest_match, tokenize
from volseg.text.vocabulary import ConceptKind

MAX_WORDS = 8
"""Longest name of a structure, in words, that is looked for."""

_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Za-z]\.)(?<!\b[Aa]pprox\.)(?<!\b[Cc]a\.)\s+(?=[A-ZÄÖÜ0-9(•*-])|\n+")
_HEADING = re.compile(r"\s*(?:[-•*\d.)]+\s*)?([^\W\d_][^:\n]{1,60}):\s*")


@dataclass(frozen=True)
class Finding:
    """One thing that a report says something about.

    Attributes:
        query: what to look for; its ``attributes`` are the descriptions and sizes the report gives.
        assertion: whether the report says it is there.
        phrase: the words that name it.
        sentence: the sentence they stand in.
        start: index of the sentence's first character in the report.
    """

    query: Query
    assertion: Assertion
    phrase: str
    sentence: str
    start: int


@dataclass(frozen=True)
class Problem:
    """Words of a report that could not be turned into a finding.

    Attributes:
        phrase: the words.
        message: why.
        sentence: the sentence they stand in.
    """

    phrase: str
    message: str
    sentence: str


@dataclass(frozen=True)
class Report:
    """What was read from a report.

    Attributes:
        findings: in the order of the text.
        problems: ambiguous words.
        unread: sentences in which no word of the vocabulary occurs.
    """

    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True)
class _Mention:
    """A name in a sentence: tokens ``start`` to ``stop``."""

    start: int
    stop: int
    query: Query
    is_structure: bool


def read_report(text: str) -> Report:
    """The findings of a report.

    A lesion is placed in the structure that is named with it ("nodule in the right lung") or by the heading of its line
    ("Liver: no focal lesion"). A structure is a finding of its own in sentences that name no lesion ("the spleen is
    enlarged"). Abbreviations count only in capitals, as "la" is also a word.

    Args:
        text: plain text, sentences or lines; English, with German names and cues.
    """
    findings: list[Finding] = []
    problems: list[Problem] = []
    unread: list[str] = []
    reader = _Reader(load_lexicon())
    for line in re.finditer(r"[^\n]+", text):
        site, body_start = reader.heading(line.group())
        body = line.group()[body_start:]
        at = 0
        for sentence in _SENTENCE_END.split(body):
            start = line.start() + body_start + body.index(sentence, at)
            at = body.index(sentence, at) + len(sentence)
            if not sentence.strip():
                continue
            found, unclear = reader.sentence(sentence, site)
            findings += [replace(finding, start=start) for finding in found]
            problems += unclear
            if not found and not unclear:
                unread.append(sentence.strip())
    return Report(tuple(findings), tuple(problems), tuple(unread))


class _Reader:
    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.interpreter = Interpreter(lexicon, None)

    def heading(self, line: str) -> tuple[Query | None, int]:
        """The structure that a line's heading names, if any, and where the text after the heading begins."""
        match = _HEADING.match(line)
        if match is None:
            return None, 0
        tokens = tokenize(match[1])
        mentions, _ = self._mentions(tokens, match[1])
        structures = [mention for mention in mentions if mention.is_structure]
        if structures and sum(mention.stop - mention.start for mention in mentions) == len(tokens):
            return structures[0].query, match.end()
        # "FINDINGS:" is a heading, "There are two lesions: one" is not.
        return None, match.end() if not mentions and len(tokens) <= 3 else 0

    def sentence(self, sentence: str, site: Query | None) -> tuple[list[Finding], list[Problem]]:
        """Findings and problems of one sentence."""
        measures = [(match.start(), match.group()) for match in MEASURE.finditer(sentence)]
        blank = MEASURE.sub(lambda match: " " * len(match.group()), sentence)
        tokens = tokenize(blank)
        mentions, problems = self._mentions(tokens, sentence)
        if not mentions:
            # "Liver: normal" says something about the liver.
            if site is None or not _descriptors(tokens):
                return [], problems
            attributes = tuple(text for _, text in _descriptors(tokens))
            query = replace(site, attributes=attributes)
            return [Finding(query, Assertion.PRESENT, site.text, sentence.strip(), 0)], problems
        spans = [(mention.start, mention.stop) for mention in mentions]
        measured = {max((n for n, token in enumerate(tokens) if token.start < at), default=-1) for at, _ in measures}
        assertions = assert_mentions(tokens, spans, measured)
        described = _describe(tokens, mentions, measures)
        findings = []
        for mention, placed in self._placed(tokens, mentions, assertions, site):
            index = mentions.index(mention)
            if mention.is_structure and assertions[index] is not Assertion.PRESENT and not _is_denied(tokens, mention):
                continue  # "no dilatation of the aorta" does not deny the aorta
            placed = replace(placed, selectors=(*placed.selectors, *_sizes(tokens, mention)))
            attributes = (*placed.attributes, *described[index])
            query = replace(placed, attributes=tuple(dict.fromkeys(attributes)))
            phrase = sentence[tokens[mention.start].start : tokens[mention.stop - 1].stop]
            findings.append(Finding(query, assertions[index], phrase, sentence.strip(), 0))
        return findings, problems

    def _mentions(self, tokens: Sequence[Token], text: str) -> tuple[list[_Mention], list[Problem]]:
        """Names of structures and lesions, the longest first at each place."""
        mentions: list[_Mention] = []
        problems: list[Problem] = []
        at = 0
        while at < len(tokens):
            step = 1
            for stop in range(min(len(tokens), at + MAX_WORDS), at, -1):
                part = tokens[at:stop]
                if not self._may_be_name(part) or self._takes_side_of_next(tokens, stop):
                    continue
                try:
                    query = self.interpreter.exactly(part)
                except AmbiguousTermError as error:
                    problems.append(Problem(error.term, str(error), text.strip()))
                    step = stop - at
                    break
                except PhraseError:
                    continue
                if query is not None:
                    kind = self.lexicon.vocabulary.by_id(query.include[0]).kind
                    mentions.append(_Mention(at, stop, query, kind is ConceptKind.STRUCTURE))
                    step = stop - at
                    break
            at += step
        return mentions, problems

    def _may_be_name(self, part: Sequence[Token]) -> bool:
        ends = (part[0], part[-1])
        if any(token.separator for token in part) or not all(content_words([token.stem]) for token in ends):
            return False
        places = [at for at, token in enumerate(part) if (token.stem,) in words(Role.WITHIN)]
        if places:
            # "cysts in the liver and in the kidney" is a cyst and two places, not a liver cyst.
            return self.lexicon.find([token.stem for token in part[: places[0]]]) == ()
        if len(part) > 1:
            return True
        # Abbreviations are words of their own in small letters; a side or a number alone names nothing.
        raw = part[0].raw
        return not (self.lexicon.spelling(part[0].stem).isupper() and not raw.isupper()) and not raw.isdigit()

    def _takes_side_of_next(self, tokens: Sequence[Token], stop: int) -> bool:
        """Whether a name that ends with a side takes it from the next noun: "nodule in the right | lower lobe"."""
        if stop == len(tokens) or (tokens[stop - 1].stem,) not in words(Role.SIDE):
            return False
        following = tokens[stop].stem
        return following in self.lexicon.vocabulary_words or (following,) in words(Role.POSITION)

    def _placed(
        self,
        tokens: Sequence[Token],
        mentions: Sequence[_Mention],
        assertions: Sequence[Assertion],
        site: Query | None,
    ) -> list[tuple[_Mention, Query]]:
        """Each finding's mention, and its query with the place it is in."""
        lesions = [mention for mention in mentions if not mention.is_structure]
        if not lesions:
            return [(mention, mention.query) for mention in mentions]
        placed = [(mention, mention.query) for mention in mentions if _is_subject(tokens, mention)]
        for lesion in lesions:
            places: list[Query | None] = [*self._places(tokens, mentions, assertions, lesion)]
            for place in places or [site]:
                known = place is None or lesion.query.selectors or self._is_within(lesion.query, place)
                query = lesion.query if known or place is None else self.interpreter.combined(lesion.query, place)
                placed.append((lesion, query))
        return sorted(placed, key=lambda pair: pair[0].start)

    def _is_within(self, lesion: Query, place: Query) -> bool:
        """Whether the lesion's own name says the place: a kidney cyst in the kidney."""
        vocabulary = self.lexicon.vocabulary
        return bool({place.include[0]} & vocabulary.ancestors(lesion.include[0]))

    def _places(
        self,
        tokens: Sequence[Token],
        mentions: Sequence[_Mention],
        assertions: Sequence[Assertion],
        lesion: _Mention,
    ) -> list[Query]:
        """Structures a lesion is said to be in: those that follow with "in" or "of", else the one right before it."""
        at = mentions.index(lesion)
        places: list[Query] = []
        previous = lesion
        for mention in mentions[at + 1 :]:
            between = tuple(token.stem for token in tokens[previous.stop : mention.start])
            if not mention.is_structure:
                if places:
                    break
                # "nodules and a cyst in the liver": both are in the liver, if both are there or neither is.
                alike = assertions[mentions.index(mention)] is assertions[at]
                if not alike or not all(_is_light(word) for word in between):
                    break
                previous = mention
                continue
            if not places and not any((word,) in words(Role.WITHIN) or (word,) in words(Role.OF) for word in between):
                break
            if places and not all(_is_light(word) for word in between):
                break
            places.append(mention.query)
            previous = mention
        if places or at == 0:
            return places
        before = mentions[at - 1]
        gap = tokens[before.stop : lesion.start]
        if before.is_structure and (len(gap) == 0 or _says_has(gap)):
            return [before.query]
        return []


def _is_denied(tokens: Sequence[Token], mention: _Mention) -> bool:
    """Whether what is denied or doubted in a sentence is the structure itself: "no spleen", "the spleen is absent"."""
    roles = (Role.STOP, Role.SIDE, Role.DESCRIPTOR, Role.NEGATION, Role.LIST, Role.FILLER)
    before = [token for token in tokens[: mention.start] if (token.stem,) not in words(Role.STOP)]
    after = tokens[mention.stop :]
    plain = all(token.separator or any((token.stem,) in words(role) for role in roles) for token in before)
    return (bool(before) and plain) or (not before and bool(after) and bool(cue_words(after)))


def _sizes(tokens: Sequence[Token], mention: _Mention) -> list[Selector]:
    """A size such as "largest" before a name, with nothing but descriptions between."""
    at = mention.start - 1
    while at >= 0 and (tokens[at].stem,) in words(Role.DESCRIPTOR):
        at -= 1
    size = words(Role.SIZE).get((tokens[at].stem,)) if at >= 0 else None
    return [] if size is None else [Selector(SelectorKind(size))]


def _says_has(gap: Sequence[Token]) -> bool:
    """Whether a verb places what follows in what stands before it: "the liver shows a small cyst"."""
    verbs = {"show", "contain", "demonstrate", "ha", "have", "with", "harbor", "reveal", "exhibit", "zeigt", "mit"}
    return any(token.stem in verbs for token in gap) and not any(token.separator for token in gap)


def _is_light(word: str) -> bool:
    """Words that part the members of a list."""
    key = (word,)
    roles = (Role.LIST, Role.STOP, Role.WITHIN, Role.OF, Role.SIDE, Role.DESCRIPTOR)
    return word in {",", "/", "&", "+"} or any(key in words(role) for role in roles)


def _descriptors(tokens: Sequence[Token]) -> list[tuple[int, str]]:
    """(index, words) of the descriptions in a sentence."""
    all_stems = tuple(token.stem for token in tokens)
    found = []
    at = 0
    while at < len(tokens):
        length = longest_match(all_stems, at, words(Role.DESCRIPTOR))
        if length:
            found.append((at, " ".join(token.raw for token in tokens[at : at + length])))
        at += max(1, length)
    return found


def _describe(
    tokens: Sequence[Token], mentions: Sequence[_Mention], measures: Sequence[tuple[int, str]]
) -> list[list[str]]:
    """For each mention the descriptions and sizes that belong to it: to the nearest lesion, or to all structures."""
    described: list[list[str]] = [[] for _ in mentions]
    lesions = [n for n, mention in enumerate(mentions) if not mention.is_structure]
    subjects = [n for n, mention in enumerate(mentions) if _is_subject(tokens, mention)]
    texts = [(tokens[at].start, text) for at, text in _descriptors(tokens) if not _inside(at, mentions)]
    for place, text in sorted([*texts, *measures]):
        if not lesions:
            for attributes in described:
                attributes.append(text)
            continue
        # After a verb it is its subject that is described: "the kidneys are normal without hydronephrosis".
        said_of = [n for n in subjects if _follows(place, tokens, mentions, n)]
        nearest = max(said_of) if said_of else min(lesions, key=lambda n: _distance(place, tokens, mentions[n]))
        described[nearest].append(text)
    return described


def _is_subject(tokens: Sequence[Token], mention: _Mention) -> bool:
    """Whether a verb says something of a structure: "the spleen is ..."."""
    verbs = {"is", "are", "was", "were", "appear", "remain", "look", "ist", "sind", "erscheint"}
    return mention.is_structure and mention.stop < len(tokens) and tokens[mention.stop].stem in verbs


def _follows(place: int, tokens: Sequence[Token], mentions: Sequence[_Mention], index: int) -> bool:
    """Whether a description stands after a mention and before the next one."""
    after = tokens[mentions[index].stop - 1].stop <= place
    return after and (index + 1 == len(mentions) or place < tokens[mentions[index + 1].start].start)


def _inside(at: int, mentions: Sequence[_Mention]) -> bool:
    return any(mention.start <= at < mention.stop for mention in mentions)


def _distance(place: int, tokens: Sequence[Token], mention: _Mention) -> int:
    """Characters between a description and a mention; what stands behind the mention is a little further away."""
    start, stop = tokens[mention.start].start, tokens[mention.stop - 1].stop
    return start - place if place < start else place - stop + 5
