"""Words that are typed at a desk: what is offered, and what a phrase becomes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from region_model import RegionModel

from volseg.data import Label
from volseg.errors import CapabilityError, PromptError
from volseg.models.card import ModelCard
from volseg.prompts import PromptKind
from volseg.sessions.desk import known_terms, read_phrase


def card_of(*names):
    labels = tuple(Label(number, name, (255, 0, 0)) for number, name in enumerate(names, start=1))
    return ModelCard("words", "1", "Knows words.", frozenset({PromptKind.TEXT}), labels=labels)


def test_what_the_model_serves_comes_first_and_the_rest_says_why_not():
    terms = known_terms(card_of("kidney", "spleen"))
    reasons = {term.words: term.reason for term in terms}
    # A side of what is offered for both is served, too; so are synonyms.
    served = [term.words for term in terms if not term.reason]
    assert {"kidney", "left kidney", "right kidney", "spleen", "lien"} <= set(served)
    assert [term.words for term in terms][: len(served)] == served
    assert reasons["liver"] == "words was not trained for it"
    assert len(reasons) == len(terms) > 1000


def test_a_model_without_a_table_serves_every_word():
    assert not [term for term in known_terms(card_of()) if term.reason]
    assert read_phrase("liver", card_of())[0].name == "liver"


def test_a_phrase_becomes_one_thing_for_each_that_it_lists():
    card = card_of("kidney", "spleen")
    (one,) = read_phrase("lt kidney", card)
    assert (one.name, one.words) == ("left kidney", "lt kidney")
    both = read_phrase("spleen and left kidney", card)
    assert [asked.name for asked in both] == ["spleen", "left kidney"]
    for asked in both:
        assert [again.name for again in read_phrase(asked.words, card)] == [asked.name]


def test_unknown_words_name_the_nearest_and_unserved_ones_are_refused():
    card = card_of("kidney", "spleen")
    with pytest.raises(PromptError, match="unknown term 'kindergarden'"):
        read_phrase("kindergarden", card)
    with pytest.raises(PromptError, match=r"nearest terms are: .*kidney"):
        read_phrase("kidneyish", card)
    with pytest.raises(CapabilityError, match="not trained for 'liver'; it serves kidney, spleen"):
        read_phrase("liver", card)
    with pytest.raises(CapabilityError, match="takes no words"):
        read_phrase("liver", replace(RegionModel().card, name="clicks"))
