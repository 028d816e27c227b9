"""``volseg text``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from volseg.cli import app
from volseg.cli.exit_codes import ExitCode
from volseg.text.vocabulary import load_vocabulary


def run(*arguments):
    return CliRunner().invoke(app, ["text", *arguments])


def test_resolve_says_what_is_meant():
    done = run("resolve", "lt", "kidny")
    assert done.exit_code == 0, done.output
    assert "kidney_left" in done.stdout
    assert "'kidny' as 'kidney'" in done.stdout
    assert "64033007" in done.stdout


def test_resolve_as_json():
    done = run("resolve", "spleen and both kidneys, liver without tumour", "--json")
    data = json.loads(done.stdout)
    assert [query["include"] for query in data["queries"]] == [["spleen"], ["kidney"], ["liver"]]
    assert data["queries"][2]["exclude"] == ["liver_tumor"]
    assert data["queries"][1]["laterality"] == "both"


@pytest.mark.parametrize(
    ("phrase", "words"),
    [("qwertz", "unknown term"), ("SMA", "supplementary motor area"), ("no liver", "only what is not wanted"),
     ("splenus thing", "nearest terms are")],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(phrase, words):
    done = run("resolve", phrase)
    assert done.exit_code == ExitCode.PROMPT
    assert done.stdout == ""
    assert words in done.stderr


def test_a_model_without_words_offers_nothing():
    done = run("resolve", "spleen", "--model", "random-walker", "--json")
    assert json.loads(done.stdout)["queries"][0]["missing"] == ["spleen"]


def test_list():
    assert len(run("list").stdout.splitlines()) == len(load_vocabulary())
    lesions = json.loads(run("list", "--kind", "lesion", "--json").stdout)["concepts"]
    assert {concept["kind"] for concept in lesions} == {"lesion"}
    assert run("list", "--kind", "car").exit_code == ExitCode.USAGE
