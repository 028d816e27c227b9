"""Phrases to queries, against answers written by hand."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phrase_table import AMBIGUOUS, CONTRADICTIONS, MEANINGS, UNKNOWN

from volseg.errors import PromptError
from volseg.text.phrases import resolve
from volseg.text.problems import AmbiguousTermError, PhraseError, UnknownTermError
from volseg.text.query import Query, SelectorKind
from volseg.text.vocabulary import Laterality, load_vocabulary


def written(query: Query) -> str:
    """A query in the table's notation."""
    parts = [" ".join(query.include), *(f"-{one}" for one in query.exclude)]
    for selector in query.selectors:
        if selector.kind is SelectorKind.WITHIN:
            parts.append(f">in:{selector.region.include[0]}")
        else:
            parts.append(f">{selector.kind}" + (f"*{selector.count}" if selector.count > 1 else ""))
    return " ".join(parts)


def resolved(phrase: str) -> tuple[tuple[Query, ...], tuple[str, ...]]:
    """The queries of a phrase, or what it can mean."""
    try:
        return resolve(phrase), ()
    except AmbiguousTermError as error:
        return (), error.candidates


def test_the_table_is_large_enough():
    assert len(MEANINGS) + len(AMBIGUOUS) + len(UNKNOWN) + len(CONTRADICTIONS) >= 150
    assert len({phrase for phrase, _ in MEANINGS}) == len(MEANINGS)


@pytest.mark.parametrize(("phrase", "expected"), MEANINGS, ids=[repr(phrase) for phrase, _ in MEANINGS])
def test_meaning(phrase, expected):
    assert tuple(written(query) for query in resolve(phrase)) == expected


@pytest.mark.parametrize(("phrase", "candidates"), AMBIGUOUS, ids=[phrase for phrase, _ in AMBIGUOUS])
def test_ambiguity_is_reported(phrase, candidates):
    with pytest.raises(AmbiguousTermError) as caught:
        resolve(phrase)
    assert set(caught.value.candidates) <= candidates
    assert len(caught.value.candidates) == 2
    for candidate in caught.value.candidates:
        assert load_vocabulary().by_id(candidate).name in str(caught.value)


@pytest.mark.parametrize(("phrase", "near"), UNKNOWN, ids=[repr(phrase) for phrase, _ in UNKNOWN])
def test_unknown_words_are_refused_with_near_terms(phrase, near):
    with pytest.raises(UnknownTermError) as caught:
        resolve(phrase)
    assert not near or near in caught.value.nearest
    assert all(name in str(caught.value) for name in caught.value.nearest)


@pytest.mark.parametrize("phrase", CONTRADICTIONS, ids=repr)
def test_what_says_nothing_or_contradicts_itself_is_refused(phrase):
    with pytest.raises(PhraseError):
        resolve(phrase)


@pytest.mark.parametrize("value", [None, 3, b"liver", ["liver"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(PhraseError, match="a phrase has words"):
        resolve(value)


def test_a_page_of_text_is_no_phrase():
    with pytest.raises(PhraseError, match="5001"):
        resolve("a" * 5001)


def test_every_name_means_its_concept_or_is_said_to_be_ambiguous():
    """Also with a side in front, behind, in upper case, and with an s."""
    ambiguous = set()
    for concept in load_vocabulary():
        sided = concept.laterality in (Laterality.LEFT, Laterality.RIGHT) and concept.base != concept.id
        base = load_vocabulary().by_id(concept.base)
        for name in (concept.name, *concept.synonyms):
            full = f"{concept.laterality} {name}" if sided and name in base.synonyms else name
            for form in (full, full.upper(), f"the {full}", f"{full}."):
                queries, candidates = resolved(form)
                if candidates:
                    assert concept.id in candidates, form
                    ambiguous.add(full)
                    continue
                assert [query.include for query in queries] == [(concept.id,)], form
                assert not queries[0].corrections, form
                assert not queries[0].exclude, form
                assert not queries[0].selectors, form
    assert len(ambiguous) < 25, sorted(ambiguous)


def test_ids_resolve_to_themselves():
    for concept in load_vocabulary():
        assert resolve(concept.id)[0].include == (concept.id,)


def test_a_mended_word_is_said():
    assert resolve("lt kidny")[0].corrections == (("kidny", "kidney"),)
    assert resolve("left kidney")[0].corrections == ()


def test_an_offer_settles_an_ambiguity_and_says_so():
    offered = {"lateral_ventricle_left", "lateral_ventricle_right", "hippocampus_left"}
    query = resolve("left ventricle", among=offered)[0]
    assert query.include == ("lateral_ventricle_left",)
    assert query.notes
    assert "left ventricle of heart" in query.notes[0]
    with pytest.raises(AmbiguousTermError):
        resolve("left ventricle", among={"spleen"})
    with pytest.raises(AmbiguousTermError):
        resolve("left ventricle", among=offered | {"heart_ventricle_left"})


def test_attributes_are_kept_and_do_not_change_the_concept():
    query = resolve("2.3 cm hypodense ill-defined lesion in the liver")[0]
    assert query.include == ("liver_lesion",)
    assert query.attributes == ("hypodense", "ill defined", "2.3 cm")


def test_a_side_that_was_not_said_is_not_claimed():
    assert resolve("kidney")[0].laterality is Laterality.NONE
    assert resolve("both kidneys")[0].laterality is Laterality.BOTH
    assert resolve("kidney left")[0].laterality is Laterality.LEFT


def test_selectors_nearest_to_the_noun_apply_first():
    kinds = [selector.kind for selector in resolve("largest upper nodule")[0].selectors]
    assert kinds == [SelectorKind.UPPERMOST, SelectorKind.LARGEST]


def test_a_place_keeps_its_own_modifiers():
    region = resolve("cyst in the upper pole of the right kidney")[0].selectors[0].region
    assert region.include == ("kidney_right",)
    assert [selector.kind for selector in region.selectors] == [SelectorKind.UPPER]


@given(st.text(max_size=80))
@example("\ud800")
@example("İ ß ﬁ Ω")
@example("l" * 80)
@example("and and , , without without")
@example("in in in of of of")
@example("٣ ribs")
@example("² largest nodules")
def test_no_text_breaks_the_parser(text):
    try:
        queries = resolve(text)
    except PromptError:
        return
    assert queries
    assert all(one in load_vocabulary() for query in queries for one in query.concept_ids)


NAMES = ("spleen", "liver", "left kidney", "both kidneys", "L3", "hepatic cyst", "largest nodule", "third ventricle")
SIGNS = (
    "in",
    "of",
    "without",
    "and",
    ",",
    "the",
    "left",
    "right",
    "upper",
    "largest",
    "no",
    "2",
    "cyst",
    "kidny",
    "zzz",
)


@given(st.lists(st.sampled_from(NAMES + SIGNS), min_size=1, max_size=12))
def test_no_mixture_of_words_breaks_the_parser(parts):
    try:
        queries = resolve(" ".join(parts))
    except PromptError:
        return
    for query in queries:
        assert query.describe()
        assert query.to_json()["include"]


LISTED = ["spleen", "liver", "left kidney", "aorta", "lt lung", "L3", "GB"]


@given(
    st.lists(st.sampled_from(LISTED), min_size=1, max_size=7, unique=True),
    st.sampled_from([", ", " and ", "; ", " & ", ", and ", " sowie "]),
)
def test_a_list_means_what_its_parts_mean(parts, sign):
    together = resolve(sign.join(parts))
    assert [query.include for query in together] == [resolve(part)[0].include for part in parts]


@given(st.sampled_from([concept for concept in load_vocabulary() if concept.laterality is Laterality.BOTH]),
       st.sampled_from(["left {}", "{} left", "LT {}", "{} (left)", "l. {}", "{}, left", "linke {}"]))  # fmt: skip
def test_a_side_means_the_same_wherever_it_stands(concept, form):
    assert resolve(form.format(concept.name))[0].include == (f"{concept.id}_left",)


@given(st.sampled_from([concept.name for concept in load_vocabulary()]), st.data())
def test_a_small_misspelling_never_gives_another_thing_in_silence(name, data):
    """One letter missing in a long word: the same concept, or an error; or another one with the change said."""
    words = [word for word in re.findall(r"[a-z]+", name) if len(word) >= 6]
    if not words:
        return
    word = data.draw(st.sampled_from(words))
    at = data.draw(st.integers(1, len(word) - 2))
    phrase = name.replace(word, word[:at] + word[at + 1 :], 1)
    try:
        queries = resolve(phrase)
    except PromptError:
        return
    right = resolve(name)
    assert [query.include for query in queries] == [query.include for query in right] or queries[0].corrections


def test_a_thousand_phrases_take_no_time():
    phrases = [phrase for phrase, _ in MEANINGS] + [phrase for phrase, _ in UNKNOWN]
    many = (phrases * (1000 // len(phrases) + 1))[:1000]
    resolve("liver")  # the index is built once
    start = time.perf_counter()
    for phrase in many:
        with contextlib.suppress(PromptError):
            resolve(phrase)
    assert time.perf_counter() - start < 3.0
