"""Finding concepts by name, and words that are nearly right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

from volseg.text.tables import LANGUAGES, Role, rows, words
from volseg.text.tokens import fold, sorted_key, stems, tokenize
from volseg.text.vocabulary import Concept, Laterality, Vocabulary, load_vocabulary

NEAREST = 3
"""How many terms an error about an unknown word lists."""


def allowed_edits(length: int) -> int:
    """How many letters may be wrong in a word of that length: short words are too near to one another.

    Up to three letters none (GB and PB are two things), up to seven one, from eight on two.
    """
    return 0 if length < 4 else 1 if length < 8 else 2


class Lexicon:
    """An index of all names of a vocabulary; the order of the words in a name does not count."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Args: vocabulary, whose English and other names are indexed."""
        self.vocabulary = vocabulary
        self.names: dict[str, tuple[str, ...]] = _all_names(vocabulary)
        self._by_key: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._joined: dict[str, tuple[str, ...]] = {}
        self.with_and: set[tuple[str, ...]] = set()
        """Stems of names that contain "and" or a comma's worth of it, so that they are not taken for a list."""
        self._index()
        self._known = self._known_words()
        self._by_length: dict[int, list[str]] = defaultdict(list)
        for word in sorted(self.vocabulary_words):
            self._by_length[len(word)].append(word)

    # ---- exact

    def find(self, name_stems: Iterable[str]) -> tuple[str, ...]:
        """Ids of the concepts with a name of exactly these words, in any order; sides not interpreted."""
        content = content_words(name_stems)
        if not content:
            return ()
        found = self._by_key.get(sorted_key(content))
        return found if found is not None else self._joined.get("".join(content), ())

    # ---- nearly right

    @property
    def vocabulary_words(self) -> frozenset[str]:
        """Stems of all words in names; what a misspelt word may be corrected to."""
        return self._vocabulary_words

    def knows(self, word: str) -> bool:
        """Whether a stem is a word of the vocabulary, of the grammar, or another anatomical term.

        A known word is never taken for a misspelling of another: "ileum" is not "ilium".
        """
        return word in self._known

    def corrections(self, word: str) -> tuple[str, ...]:
        """Stems nearest to an unknown one, all at the same distance; none if none is near enough."""
        return self._corrections(word)

    @lru_cache(maxsize=4096)  # noqa: B019 - there is one lexicon a process
    def _corrections(self, word: str) -> tuple[str, ...]:
        limit = allowed_edits(len(word))
        if limit == 0 or not word.isalpha():
            return ()
        best: list[str] = []
        for length in range(len(word) - limit, len(word) + limit + 1):
            for candidate in self._by_length.get(length, ()):
                # People rarely miss the first letter, and "iver" may be "river": only long words may differ there.
                if len(word) < 8 and candidate[0] != word[0]:
                    continue
                # Four letters with another letter in place of one are too often another word: "lang" is not "lung".
                if len(word) == 4 and len(candidate) == 4 and sorted(word) != sorted(candidate):
                    continue
                if len(candidate) < 4:
                    continue
                distance = edit_distance(word, candidate, limit)
                if distance < limit:
                    best, limit = [candidate], distance
                elif distance == limit:
                    best.append(candidate)
        return tuple(best)

    def spelling(self, word: str) -> str:
        """A stem as the names of the vocabulary spell it."""
        return self._spellings.get(word, word)

    def nearest(self, text: str, count: int = NEAREST) -> tuple[str, ...]:
        """Names that look most like a text, best first, one a concept; nothing where nothing is alike."""
        wanted = Counter(_trigrams(" ".join(stems(text))))
        if not wanted:
            return ()
        shared: Counter[str] = Counter()
        for gram in wanted:
            for name in self._grams.get(gram, ()):
                shared[name] += 1
        # Dice's coefficient of the two sets of trigrams.
        scored = sorted(
            (-2 * common / (len(wanted) + self._gram_counts[name]), name) for name, common in shared.items()
        )
        chosen: dict[str, str] = {}
        for score, name in scored:
            if score > -0.3 or len(chosen) == count:
                break
            for concept_id in self.names[name]:
                chosen.setdefault(concept_id, name)
        return tuple(dict.fromkeys(self._title(concept_id, name) for concept_id, name in chosen.items()))[:count]

    def _title(self, concept_id: str, name: str) -> str:
        own = self.vocabulary.by_id(concept_id).name
        return own if fold(own) == fold(name) else f"{name} ({own})"

    # ---- building

    def _index(self) -> None:
        by_key: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
        joined: dict[str, dict[str, None]] = defaultdict(dict)
        and_words = {key[0] for key in words(Role.LIST) if len(key) == 1}
        vocabulary_words: set[str] = set()
        self._grams: dict[str, list[str]] = defaultdict(list)
        self._gram_counts: dict[str, int] = {}
        for name, ids in self.names.items():
            name_stems = stems(name)
            content = content_words(name_stems)
            vocabulary_words.update(word for word in content if word.isalpha())
            for concept_id in ids:
                by_key[sorted_key(content)][concept_id] = None
                joined["".join(content)][concept_id] = None
            if and_words.intersection(name_stems):
                self.with_and.add(name_stems)
            grams = set(_trigrams(" ".join(name_stems)))
            self._gram_counts[name] = len(grams)
            for gram in grams:
                self._grams[gram].append(name)
        self._by_key = {key: tuple(ids) for key, ids in by_key.items()}
        self._joined = {key: tuple(ids) for key, ids in joined.items() if len(key) >= 6}
        sides = {key[0] for key in words(Role.SIDE) if len(key) == 1}
        self._vocabulary_words = frozenset(vocabulary_words - sides)
        self._spellings = {token.stem: token.raw for name in reversed(self.names) for token in tokenize(name)}

    def _known_words(self) -> frozenset[str]:
        known = set(self._vocabulary_words)
        for role in Role:
            for key in words(role):
                known.update(key)
        for language in LANGUAGES[:1]:
            for row in rows(f"other_terms_{language}.csv"):
                known.update(stems(row["term"]))
        return frozenset(known)


def content_words(name_stems: Iterable[str]) -> tuple[str, ...]:
    """The words of a name that tell it from others, each in the form the vocabulary prefers."""
    ignored, variants = _ignored(), words(Role.VARIANT)
    kept = (word for word in name_stems if (word,) not in ignored)
    return tuple(part for word in kept for part in stems(variants.get((word,), word)))


@cache
def load_lexicon() -> Lexicon:
    """The index of the shipped vocabulary, built once."""
    return Lexicon(load_vocabulary())


def edit_distance(a: str, b: str, limit: int) -> int:
    """Letters to insert, delete, replace or swap with their neighbour; ``limit + 1`` where it is more than ``limit``.

    Optimal string alignment distance (Damerau 1964).
    """
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    previous = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        current = [i]
        for j, other in enumerate(b, 1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        if min(current) > limit:
            return limit + 1
        before, previous = previous, current
    return previous[-1]


def names_of(concept: Concept) -> tuple[str, ...]:
    """English and Latin names of a concept; a sided one has the side in front."""
    if concept.laterality in (Laterality.LEFT, Laterality.RIGHT) and concept.base != concept.id:
        return (concept.name, *(f"{concept.laterality} {synonym}" for synonym in concept.synonyms if synonym))
    return (concept.name, *concept.synonyms)


def _all_names(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """Every name that is looked up as written, and the concepts it means; sided ones are found through their base."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for concept in vocabulary:
        if concept.base != concept.id:
            base = vocabulary.by_id(concept.base)
            for synonym in concept.synonyms:
                if synonym not in base.synonyms:
                    found[synonym][concept.id] = None
            continue
        for name in (concept.name, *concept.synonyms, concept.id.replace("_", " ")):
            found[name][concept.id] = None
    for language in LANGUAGES[1:]:
        for row in rows(f"names_{language}.csv"):
            for name in row["names"].split("|"):
                found[name][row["id"]] = None
                # German without its letters writes ä as ae.
                plain = name.casefold().replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")
                found[plain][row["id"]] = None
    return {name: tuple(ids) for name, ids in found.items()}


@cache
def _ignored() -> frozenset[tuple[str, ...]]:
    """Words that say nothing in a name."""
    return frozenset((*words(Role.STOP), *words(Role.OF), *words(Role.LIST), *words(Role.WITHIN)))


def _trigrams(text: str) -> Iterator[str]:
    padded = f"  {text} "
    for start in range(len(padded) - 2):
        yield padded[start : start + 3]
