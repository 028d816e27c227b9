"""``volseg segment``: the grammar, the outputs, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from region_model import RegionModel, blocks_image

from volseg.cli.exit_codes import ExitCode
from volseg.data import read_image, read_labelmap
from volseg.errors import ModelError
from volseg.geometry import Frame, Grid
from volseg.prompts import Point, PromptedObject, PromptSet
from volseg.sessions import Session, replay

FIRST, SECOND = "-18,34,409", "-13,42,406"
"""RAS mm of voxels (2, 2, 3) and (7, 6, 2): in the blocks of 48 and 64 voxels."""


@pytest.fixture
def segment(run, image_path, tmp_path):
    def segment(*arguments, out="out.nii.gz"):
        return run("segment", image_path, "-o", tmp_path / out, *arguments)

    return segment


def result_of(tmp_path, name="out.nii.gz"):
    labelmap = read_labelmap(tmp_path / name)
    return {
        label.value: (label.name, int((labelmap.flattened().array == label.value).sum())) for label in labelmap.labels
    }


def test_a_click_in_each_frame(segment, tmp_path):
    for frame, point in (("ras", FIRST), ("lps", "18,-34,409"), ("ijk", "2,2,3"), ("IJK", "2,2,3")):
        assert segment("--frame", frame, "--point", point).exit_code == 0
        assert result_of(tmp_path) == {1: ("object 1", 48)}


@pytest.mark.parametrize("equals", [False, True])
def test_negative_numbers_are_values(segment, tmp_path, equals):
    options = [f"--point={FIRST}"] if equals else ["--point", FIRST]
    assert segment(*options).exit_code == 0
    assert result_of(tmp_path) == {1: ("object 1", 48)}


def test_prompts_belong_to_the_object_before_them(segment, tmp_path):
    assert segment("--object", "a", "--point", FIRST, "--object", "b", "--point", SECOND).exit_code == 0
    assert result_of(tmp_path) == {1: ("a", 48), 2: ("b", 64)}


def test_prompts_before_the_first_object_are_object_1(segment, tmp_path):
    assert segment("--point", FIRST, "--object", "b", "--point", SECOND).exit_code == 0
    assert result_of(tmp_path) == {1: ("object 1", 48), 2: ("b", 64)}


def test_the_order_between_kinds_of_options_counts(segment, tmp_path):
    box = ["--box", "-20,30,400,-9,48,421"]  # the whole volume
    assert segment(*box, "--point", f"{FIRST},neg").exit_code == 0
    assert result_of(tmp_path)[1][1] == 12 * 10 * 8 - 48
    assert segment("--point", f"{FIRST},neg", *box).exit_code == 0
    assert result_of(tmp_path)[1][1] == 12 * 10 * 8
    assert segment("--object", "x", "--point", SECOND, "--json", "--object", "y", *box, "--point", f"{SECOND},neg",
                   "--point", FIRST).exit_code == 0  # fmt: skip
    assert result_of(tmp_path) == {1: ("x", 64), 2: ("y", 12 * 10 * 8 - 64)}


def test_scribbles_and_masks(segment, tmp_path, image_path):
    assert segment("--scribble", "-18,34,409;-18,36,409", "--radius", "1").exit_code == 0
    assert result_of(tmp_path) == {1: ("object 1", 48)}
    assert segment("--object", "again", "--mask", tmp_path / "out.nii.gz", out="second.nii.gz").exit_code == 0
    assert result_of(tmp_path, "second.nii.gz") == {1: ("again", 48)}
    assert segment("--point", SECOND, "--mask", f"{tmp_path / 'out.nii.gz'},neg", out="third.nii.gz").exit_code == 0
    assert result_of(tmp_path, "third.nii.gz") == {1: ("object 1", 64)}


def test_prompt_files_come_first_and_keep_their_numbers(segment, tmp_path):
    grid = Grid.of(blocks_image("LPS"))  # another orientation than the image's
    first = tuple(grid.to_ijk((-18, 34, 409)))
    file = tmp_path / "p.json"
    file.write_text(PromptSet(grid, (PromptedObject(3, (Point(first, Frame.IJK),), "three"),)).dumps())
    assert segment("--object", "next", "--point", SECOND, "--prompts", file).exit_code == 0
    assert result_of(tmp_path) == {3: ("three", 48), 4: ("next", 64)}
    file.write_text(PromptSet(grid, (PromptedObject(1, (Point(first, Frame.IJK),), "one"),)).dumps())
    assert segment("--prompts", file, "--point", SECOND).exit_code == 0
    assert result_of(tmp_path) == {1: ("one", 48 + 64)}


def test_sessions_are_saved_replayed_and_taken_as_prompts(segment, tmp_path, image_path):
    session = tmp_path / "s.json"
    assert segment("--object", "a", "--point", FIRST, "--save-session", session).exit_code == 0
    image = read_image(image_path)
    np.testing.assert_array_equal(
        replay(session, RegionModel(), image).array, read_labelmap(tmp_path / "out.nii.gz").array
    )
    assert [item.name for item in Session.load(session, RegionModel(), image).objects] == ["a"]
    assert segment("--prompts", session, out="again.nii.gz").exit_code == 0
    assert result_of(tmp_path, "again.nii.gz") == {1: ("a", 48)}


def test_json_is_the_only_thing_on_stdout(segment, tmp_path):
    done = segment("--object", "a", "--point", FIRST, "--json", "--overlay", tmp_path / "o.png")
    data = json.loads(done.stdout)
    (item,) = data["objects"]
    assert set(item) == {"name", "label", "voxels", "ml", "presence", "seconds"}
    assert (item["name"], item["label"], item["voxels"], item["ml"]) == ("a", 1, 48, pytest.approx(48 * 6 / 1000))
    assert item["presence"] == 0.75
    assert data["image"]["shape"] == [12, 10, 8]
    assert data["image"]["orientation"] == "RAS"
    assert data["model"]["name"] == "region"
    assert data["output"].endswith("out.nii.gz")
    assert data["warnings"] == []
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_object_is_said_to_be_empty(segment):
    done = segment("--point", f"{FIRST},neg", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["warnings"] == ["object 1: no voxel was found"]


def test_overlap_policy(segment, tmp_path):
    options = ["--box", "-20,30,400,-9,48,421", "--object", "b", "--point", FIRST]
    assert segment(*options, "--overlap", "first").exit_code == 0
    assert result_of(tmp_path) == {1: ("object 1", 960), 2: ("b", 0)}
    assert segment(*options, "--overlap", "layers").exit_code == ExitCode.OUTPUT
    assert segment(*options, "--overlap", "layers", out="out.seg.nrrd").exit_code == 0
    assert len(read_labelmap(tmp_path / "out.seg.nrrd").layers) == 2


BAD_PROMPTS = {
    "no prompt": [],
    "two numbers": ["--point", "1,2"],
    "words": ["--point", "a,b,c"],
    "not finite": ["--point", "nan,0,0"],
    "outside": ["--point", "900,0,0"],
    "a box of one voxel": ["--box", "-18,34,409,-18,34,409"],
    "a box of five numbers": ["--box", "1,2,3,4,5"],
    "a scribble of one position": ["--scribble", FIRST],
    "an empty scribble": ["--scribble", ";"],
    "a missing mask": ["--mask", "nowhere.nii.gz"],
    "a missing prompt file": ["--prompts", "nowhere.json"],
    "an object without prompts": ["--point", FIRST, "--object", "b"],
    "an object without prompts between": ["--object", "a", "--object", "b", "--point", FIRST],
    "a blank name": ["--object", " ", "--point", FIRST],
}


def refused(done, code, tmp_path, kept=()):
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    sentences = done.stderr.strip().splitlines()
    assert len(sentences) == 1
    assert sentences[0].startswith("error: ")
    assert "Traceback" not in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"ct.nii.gz", *kept}


@pytest.mark.parametrize("kind", BAD_PROMPTS)
def test_bad_prompts(segment, tmp_path, kind):
    done = segment(*BAD_PROMPTS[kind], "--overlay", tmp_path / "o.png", "--json")
    refused(done, ExitCode.PROMPT, tmp_path)


def test_an_empty_mask_and_a_json_that_is_none(segment, run, image_path, tmp_path):
    run("segment", image_path, "-o", tmp_path / "empty.nii.gz", "--point", f"{FIRST},neg")
    (tmp_path / "p.json").write_text("{")
    kept = ("empty.nii.gz", "p.json")
    refused(segment("--mask", tmp_path / "empty.nii.gz"), ExitCode.PROMPT, tmp_path, kept)
    refused(segment("--prompts", tmp_path / "p.json"), ExitCode.PROMPT, tmp_path, kept)


def test_a_prompt_the_model_does_not_serve(segment, tmp_path):
    refused(segment("--text", "uterus"), ExitCode.MODEL, tmp_path)


def test_bad_images(run, tmp_path, image_path):
    (tmp_path / "cut.nii.gz").write_bytes(image_path.read_bytes()[:-40])
    (tmp_path / "noise.nii").write_bytes(b"x" * 1000)
    kept = ("cut.nii.gz", "noise.nii")
    for name in ("missing.nii.gz", *kept):
        done = run("segment", tmp_path / name, "-o", tmp_path / "out.nii.gz", "--point", FIRST)
        refused(done, ExitCode.IMAGE, tmp_path, kept)


@pytest.mark.parametrize("out", ["out.txt", "nowhere/out.nii.gz", "ct.nii.gz"])
def test_outputs_are_checked_before_the_work(segment, model, tmp_path, out, image_path):
    before = image_path.read_bytes()
    refused(segment("--point", FIRST, out=out), ExitCode.OUTPUT, tmp_path)
    assert model.computed == []
    assert image_path.read_bytes() == before


def test_a_link_to_the_input_is_the_input(segment, tmp_path, image_path):
    (tmp_path / "link.nii.gz").symlink_to(image_path)
    refused(segment("--point", FIRST, out="link.nii.gz"), ExitCode.OUTPUT, tmp_path, ("link.nii.gz",))


def test_outputs_are_not_one_another(segment, tmp_path):
    done = segment("--point", FIRST, "--save-session", tmp_path / "out.nii.gz")
    refused(done, ExitCode.OUTPUT, tmp_path)


def test_an_unknown_model(segment, tmp_path, monkeypatch):
    def missing(name, **options):
        raise ModelError(f"there is no model {name!r}")

    monkeypatch.setattr("volseg.models.registry.load_model", missing)
    refused(segment("--point", FIRST, "--model", "x"), ExitCode.MODEL, tmp_path)


@pytest.mark.parametrize(
    "options",
    [["--frame", "xyz"], ["--plane", "oblique"], ["--device", "tpu"], ["--device", "cpu:1"], ["--radius", "-1"],
     ["--overlap", "all"], ["--unknown"]],
)  # fmt: skip
def test_usage_errors(segment, tmp_path, options):
    done = segment("--point", FIRST, *options)
    assert done.exit_code == ExitCode.USAGE
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), ExitCode.CANCELLED, "cancelled"),
        (MemoryError(), ExitCode.FAILED, "memory"),
        (ZeroDivisionError("x"), ExitCode.BUG, "bug"),
        (RuntimeError("x"), ExitCode.BUG, "bug"),
    ],
)
def test_what_is_not_foreseen(segment, model, tmp_path, monkeypatch, error, code, word):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(model, "_segment", fail)
    done = segment("--point", FIRST, "--overlay", tmp_path / "o.png", "--save-session", tmp_path / "s.json")
    assert word in done.stderr
    refused(done, code, tmp_path)


def test_nothing_is_written_when_the_picture_fails(segment, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("no picture")

    monkeypatch.setattr("volseg.overlay.draw_overlay", fail)
    refused(segment("--point", FIRST, "--overlay", tmp_path / "o.png"), ExitCode.BUG, tmp_path)
