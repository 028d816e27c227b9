"""Phrases to queries: what ``volseg segment --text`` and ``volseg text resolve`` understand."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import replace

from volseg.text.items import Item, split_items
from volseg.text.lexicon import load_lexicon
from volseg.text.meaning import Interpreter
from volseg.text.problems import AmbiguousTermError, PhraseError, UnknownTermError
from volseg.text.query import Query
from volseg.text.tokens import MEASURE, Token

MAX_CHARACTERS = 5000
"""Longer phrases are taken for a mistake; a report goes to ``read_report``."""

MAX_READINGS = 16
"""Ways to mend several misspelt words that are tried together."""


def resolve(text: str, *, among: Collection[str] | None = None) -> tuple[Query, ...]:
    """What a phrase asks for.

    Upper and lower case, plurals, word order, abbreviations, Latin and American or British spelling make no difference;
    small misspellings are mended and said in ``Query.corrections``. "Kidney" without a side is both. Things are listed
    with commas and "and"; "without" takes away what follows it, up to the next comma, from the thing right before it.

    Args:
        text: such as ``lt kidny``, ``spleen and both kidneys`` or ``largest nodule in the right lung``.
        among: ids that are offered, such as those of a model. A word with several meanings of which only one is offered
            is read as that one, and ``Query.notes`` says so; without this it is an error.

    Returns:
        One query for each thing listed, in order, each once.

    Raises:
        UnknownTermError: words that the vocabulary does not have; with the nearest terms, none of which is taken.
        AmbiguousTermError: words that can mean several things.
        PhraseError: nothing is named, only what is not wanted is named, or the words contradict themselves.
    """
    if not isinstance(text, str) or not text.strip():
        raise PhraseError(f"a phrase has words, got {reprlib.repr(text)}")
    if len(text) > MAX_CHARACTERS:
        raise PhraseError(f"a phrase has at most {MAX_CHARACTERS} characters, got {len(text)}")
    lexicon = load_lexicon()
    measures = tuple(match.group() for match in MEASURE.finditer(text))
    items = split_items(MEASURE.sub(" ", text), lexicon)
    if not items:
        raise PhraseError(f"{reprlib.repr(text)} names nothing to segment")
    interpreter = Interpreter(lexicon, among)
    queries = [_query(item, interpreter) for item in items]
    if measures and len(queries) == 1:
        queries[0] = replace(queries[0], attributes=queries[0].attributes + measures)
    each_once = {replace(query, text="", corrections=()): query for query in reversed(queries)}
    return tuple(reversed(each_once.values()))


def _query(item: Item, interpreter: Interpreter) -> Query:
    query = read_words(item.include, interpreter)
    exclude, corrections = [], list(query.corrections)
    for tokens in item.exclude:
        other = read_words(tokens, interpreter)
        if other.selectors:
            raise PhraseError(f"{other.text!r} cannot be left out: only whole structures and lesions can")
        # "without the tumour" of a liver is the liver's tumour.
        exclude.append(interpreter.narrowed(other.include[0], query.include[0]))
        corrections += other.corrections
    text = query.text if not exclude else f"{query.text} without {' and '.join(_raw(one) for one in item.exclude)}"
    return replace(query, text=text, exclude=tuple(dict.fromkeys(exclude)), corrections=tuple(corrections))


def read_words(tokens: Sequence[Token], interpreter: Interpreter) -> Query:
    """The query of one thing, with misspelt words mended where there is one way to do it."""
    try:
        return interpreter.read(tokens)
    except UnknownTermError as error:
        mended = _mended(tokens, interpreter)
        if mended is None:
            raise error
        return mended


def _mended(tokens: Sequence[Token], interpreter: Interpreter) -> Query | None:
    lexicon = interpreter.lexicon
    wrong = [at for at, token in enumerate(tokens) if not lexicon.knows(token.stem) and not token.stem.isdigit()]
    choices = [lexicon.corrections(tokens[at].stem) for at in wrong]
    if not wrong or not all(choices):
        return None
    readings: dict[Query, Query] = {}
    for chosen in itertools.islice(itertools.product(*choices), MAX_READINGS):
        mended = list(tokens)
        for at, word in zip(wrong, chosen, strict=True):
            mended[at] = replace(mended[at], stem=word)
        try:
            query = interpreter.read(mended)
        except (UnknownTermError, PhraseError):
            continue
        pairs = tuple((tokens[at].raw, lexicon.spelling(word)) for at, word in zip(wrong, chosen, strict=True))
        readings.setdefault(replace(query, text="", attributes=()), replace(query, corrections=pairs))
    if len(readings) > 1:
        ids = tuple(dict.fromkeys(query.include[0] for query in readings))
        raise AmbiguousTermError(_raw(tokens), ids, tuple(interpreter.vocabulary.by_id(one).name for one in ids))
    return next(iter(readings.values()), None)


def _raw(tokens: Sequence[Token]) -> str:
    return " ".join(token.raw for token in tokens)
