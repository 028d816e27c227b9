"""Saving, loading, replaying; files that are damaged or hostile."""

from __future__ import annotations

import copy
import json
from dataclasses import fields

import numpy as np
import pytest
from region_model import RegionModel, blocks_image

from volseg.data.labelmap import OverlapPolicy
from volseg.data.modality import Modality
from volseg.errors import PromptError, SessionError, WriteError
from volseg.geometry import Frame, Grid, Plane, all_orientations
from volseg.models.options import EncodeOptions
from volseg.prompts import Box, MaskPrompt, Point, PromptSet, Scribble
from volseg.sessions import Session, read_prompts, replay
from volseg.sessions.session_file import options_from_json, options_to_json


def worked_session(image=None):
    """Every kind of prompt the model takes, edits, deletions, and one undone change."""
    session = Session(RegionModel(), blocks_image() if image is None else image)
    first, second = session.add_object("first", (10, 20, 30)), session.add_object("second")
    session.add_prompt(first, Point((-18, 34, 409), Frame.RAS))
    entry = session.add_prompt(second, Point((0, 0, 0), Frame.IJK))
    session.edit_prompt(entry, Scribble(((7, 6, 2), (8, 6, 2)), Frame.IJK, True, 1.0))
    stroke = np.zeros(session.grid.shape, dtype=bool)
    stroke[6, 5, 1:3] = True
    session.add_prompt(second, MaskPrompt(stroke, session.grid))
    gone = session.add_prompt(first, Box((3, 3, 3), (8, 8, 6), Frame.IJK, False))
    session.delete_prompt(gone)
    session.set_overlap(OverlapPolicy.FIRST_WINS)
    session.add_prompt(first, Box((0, 0, 0), (2, 2, 2), Frame.IJK))
    session.lock_object(first)
    session.rename_object(second, "undone")
    session.undo()
    return session


def test_load_restores_everything_and_replay_gives_the_same_map(tmp_path):
    session = worked_session()
    expected = session.predict()
    path = tmp_path / "session.json"
    session.save(path)
    again = Session.load(path, RegionModel(), blocks_image())
    labelmap = again.predict()
    np.testing.assert_array_equal(labelmap.array, expected.array)
    assert labelmap.labels == expected.labels
    assert labelmap.provenance == expected.provenance
    np.testing.assert_array_equal(replay(path, RegionModel(), blocks_image()).array, expected.array)
    # The whole history, both ways.
    again.redo()
    session.redo()
    assert again.objects == session.objects
    while session.can_undo:
        session.undo()
        again.undo()
        assert again.objects == session.objects
        assert [(e.entry_id, e.object_id, e.prompt) for e in again.history] == [
            (e.entry_id, e.object_id, e.prompt) for e in session.history
        ]
        np.testing.assert_array_equal(again.predict().layers, session.predict().layers)
    assert not again.can_undo


def test_new_prompts_after_loading_get_new_ids(tmp_path):
    session = worked_session()
    session.save(tmp_path / "s.json")
    again = Session.load(tmp_path / "s.json", RegionModel(), blocks_image())
    known = {entry.entry_id for entry in again.history}
    assert again.add_prompt(2, Point((1, 1, 2), Frame.IJK)) not in known
    assert again.predict().array[1, 1, 2] == 1, "first wins"


@pytest.mark.parametrize("axcodes", ["LPS", "PIR", "SAR", "IAL"])
def test_a_copy_in_another_orientation_is_refused_unless_allowed(tmp_path, axcodes):
    session = worked_session()
    expected = session.predict()
    session.save(tmp_path / "s.json")
    copy_ = blocks_image(axcodes)
    with pytest.raises(SessionError, match="another image"):
        Session.load(tmp_path / "s.json", RegionModel(), copy_)
    labelmap = replay(tmp_path / "s.json", RegionModel(), copy_, allow_other_image=True)
    back = np.argwhere(labelmap.array)
    moved = np.round(session.grid.to_ijk(labelmap.grid.to_ras_mm(back))).astype(int)
    found = np.zeros(session.grid.shape, dtype=int)
    found[tuple(moved.T)] = labelmap.array[tuple(back.T)]
    np.testing.assert_array_equal(found, expected.array)
    assert axcodes in set(all_orientations())


def test_another_model_is_refused_unless_allowed(tmp_path):
    worked_session().save(tmp_path / "s.json")
    other = RegionModel(name="other", version="7")
    with pytest.raises(SessionError, match=r"model region 1.*this one is other 7"):
        Session.load(tmp_path / "s.json", other, blocks_image())
    Session.load(tmp_path / "s.json", other, blocks_image(), allow_other_model=True)


def test_the_file_names_its_schema_and_holds_no_path(tmp_path):
    worked_session().save(tmp_path / "Patient Name.json")
    text = (tmp_path / "Patient Name.json").read_text()
    data = json.loads(text)
    assert (data["schema"], data["version"], data["software"].split()[0]) == ("volseg.session", 1, "volseg")
    assert "Patient" not in text
    assert set(data) == {
        "schema", "version", "software", "image", "model", "objects", "entries", "states", "position",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Patient Name.json"]


def test_history_costs_little(tmp_path):
    """Steps share their prompts: a mask that is in two hundred states is written once."""
    session = Session(RegionModel(), blocks_image())
    number = session.add_object()
    generator = np.random.default_rng(0)
    session.add_prompt(number, MaskPrompt(generator.random(session.grid.shape) > 0.5, session.grid))
    for step in range(200):
        session.add_prompt(number, Point((step % 12, 0, 0), Frame.IJK))
    session.save(tmp_path / "s.json")
    assert (tmp_path / "s.json").read_text().count('"bits"') == 1


def test_saving_to_no_folder_is_a_write_error(tmp_path):
    with pytest.raises(WriteError):
        worked_session().save(tmp_path / "nowhere" / "s.json")


def test_every_option_is_saved():
    values = {"window": "lung", "plane": Plane.CORONAL, "modality": Modality.MR}
    assert set(values) == {field.name for field in fields(EncodeOptions)}, "a new option must be saved too"
    options = EncodeOptions(**values)
    assert options_from_json(json.loads(json.dumps(options_to_json(options))), "here") == options


def damaged(change):
    def apply(data):
        data = copy.deepcopy(data)
        change(data)
        return data

    return apply


DAMAGE = {
    "a list": lambda data: [1, 2],
    "another schema": damaged(lambda d: d.update(schema="x")),
    "a newer version": damaged(lambda d: d.update(version=2)),
    "no image": damaged(lambda d: d.pop("image")),
    "a singular grid": damaged(lambda d: d["image"]["grid"].update(affine_ras=[[0] * 4] * 4)),
    "a grid of text": damaged(lambda d: d["image"].update(grid="x")),
    "a hash that is a number": damaged(lambda d: d["image"].update(sha256=5)),
    "no model version": damaged(lambda d: d["model"].pop("version")),
    "objects of another type": damaged(lambda d: d.update(objects={})),
    "an object id of text": damaged(lambda d: d["objects"][0].update(id="1")),
    "an object id 0": damaged(lambda d: d["objects"][0].update(id=0)),
    "a colour of two": damaged(lambda d: d["objects"][0].update(color_rgb=[1, 2])),
    "a lock of text": damaged(lambda d: d["objects"][0].update(locked="yes")),
    "a prompt of no kind": damaged(lambda d: d["entries"][0]["prompt"].update(type="x")),
    "a prompt that is null": damaged(lambda d: d["entries"][0].update(prompt=None)),
    "a NaN coordinate": damaged(lambda d: d["entries"][0]["prompt"].update(position=[float("nan"), 0, 0])),
    "an endless coordinate": damaged(lambda d: d["entries"][0]["prompt"].update(position=[10**400, 0, 0])),
    "an entry id of truth": damaged(lambda d: d["entries"][0].update(id=True)),
    "a row beyond the table": damaged(lambda d: d["states"][-1].update(entries=[99])),
    "a negative row": damaged(lambda d: d["states"][-1].update(objects=[-1])),
    "a row of truth": damaged(lambda d: d["states"][-1].update(objects=[True])),
    "a prompt of no object": damaged(lambda d: d["states"][-1].update(objects=[])),
    "an object twice": damaged(lambda d: d["states"][-1]["objects"].append(d["states"][-1]["objects"][0])),
    "an unknown policy": damaged(lambda d: d["states"][0].update(overlap="x")),
    "an unknown plane": damaged(lambda d: d["states"][0]["options"].update(plane="oblique")),
    "no state": damaged(lambda d: d.update(states=[])),
    "a position outside": damaged(lambda d: d.update(position=10**6)),
    "a position of text": damaged(lambda d: d.update(position="0")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_session_errors(tmp_path, kind):
    path = tmp_path / "s.json"
    worked_session().save(path)
    path.write_text(json.dumps(DAMAGE[kind](json.loads(path.read_text()))))
    with pytest.raises(SessionError):
        Session.load(path, RegionModel(), blocks_image())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"null"])
def test_files_that_are_no_json_are_session_errors(tmp_path, data):
    (tmp_path / "s.json").write_bytes(data)
    with pytest.raises(SessionError):
        Session.load(tmp_path / "s.json", RegionModel(), blocks_image())
    with pytest.raises(PromptError):
        read_prompts(tmp_path / "s.json")


def test_prompts_are_read_from_sessions_and_prompt_files(tmp_path):
    session = worked_session()
    session.save(tmp_path / "s.json")
    (tmp_path / "p.json").write_text(session.prompts.dumps())
    from_session, from_file = read_prompts(tmp_path / "s.json"), read_prompts(tmp_path / "p.json")
    assert from_session == from_file == session.prompts
    (tmp_path / "empty.json").write_text(PromptSet.of(Grid.of(blocks_image()), ()).dumps())
    with pytest.raises(PromptError, match="no prompt"):
        read_prompts(tmp_path / "empty.json")
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(tmp_path / "missing.json")
