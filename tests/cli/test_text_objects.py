"""Words on the command line: one object for each thing listed."""

from __future__ import annotations

import pytest

from volseg.cli.prompt_options import OpenObject
from volseg.cli.words import everything_offered, model_for, spread_words
from volseg.data.labelmap import Label
from volseg.errors import CapabilityError, PromptError
from volseg.geometry import Frame
from volseg.models.card import ModelCard
from volseg.models.registry import DEFAULT_MODEL, PIPELINE, TEXT_MODEL
from volseg.prompts import Point, PromptKind, Text

CARD = ModelCard(
    "words",
    "1",
    "for tests",
    frozenset({PromptKind.TEXT}),
    labels=tuple(Label(n, name, (1, 2, 3)) for n, name in enumerate(("left kidney", "right kidney", "spleen"), 1)),
)


def test_each_thing_becomes_an_object() -> None:
    objects = spread_words((Text("left kidney, spleen and the right kidney"),), CARD)
    names = [one.name for one in objects if isinstance(one, OpenObject)]
    words = [one.text for one in objects if isinstance(one, Text)]
    assert names == ["left kidney", "spleen", "right kidney"]
    assert len(words) == 3


def test_a_named_object_takes_the_whole_phrase() -> None:
    said = (OpenObject("waste"), Text("left kidney, spleen"))
    assert spread_words(said, CARD) == said


def test_clicks_before_words_stay_with_them() -> None:
    said = (Point((1, 2, 3), Frame.RAS), Text("spleen"))
    assert spread_words(said, CARD) == said


def test_unknown_words_are_refused() -> None:
    with pytest.raises(PromptError):
        spread_words((Text("left kidney, blorbium"),), CARD)


def test_everything_that_is_offered() -> None:
    assert [one.name for one in everything_offered(CARD) if isinstance(one, OpenObject)] == [
        "left kidney",
        "right kidney",
        "spleen",
    ]
    with pytest.raises(CapabilityError, match="no label table"):
        everything_offered(ModelCard("clicks", "1", "", frozenset({PromptKind.POINT})))


def test_the_model_that_serves_what_was_said() -> None:
    assert model_for((Text("spleen"),), False) == TEXT_MODEL
    assert model_for((), True) == TEXT_MODEL
    assert model_for((OpenObject("a"), Text("spleen"), Point((1, 2, 3), Frame.RAS)), False) == PIPELINE
    assert model_for((Point((1, 2, 3), Frame.RAS),), False) == DEFAULT_MODEL
