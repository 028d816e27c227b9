"""Brush strokes as prompts, the command line of a session, and folders of images."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest
from region_model import RegionModel, blocks_image
from typer.testing import CliRunner

from volseg.data import read_labelmap
from volseg.data.object_mask import ObjectMask
from volseg.errors import CapabilityError, PromptError, SessionError
from volseg.geometry import Frame, Grid
from volseg.models.options import EncodeOptions
from volseg.models.random_walker import RandomWalker
from volseg.prompts import Point, PromptKind
from volseg.sessions import Session
from volseg.sessions.desk import Worklist, correction_prompts, segment_command

GRID = Grid((6, 7, 8), np.diag((1.0, 2.0, 3.0, 1.0)))


def block(*bounds):
    full = np.zeros(GRID.shape, dtype=bool)
    full[tuple(slice(a, b) for a, b in bounds)] = True
    return full


OLD = block((1, 4), (1, 4), (2, 5))
ADDED = np.argwhere(block((3, 6), (2, 3), (3, 4)))
REMOVED = np.argwhere(block((0, 2), (1, 2), (3, 4)))
NONE = np.empty((0, 3), dtype=np.int64)
MASK = ObjectMask.of(1, GRID, OLD)


def card(positive=(PromptKind.MASK,), negative=()):
    return replace(RegionModel().card, positive=frozenset(positive), negative=frozenset(negative))


def test_a_model_that_takes_negative_masks_is_told_what_to_add_and_what_to_remove():
    added, removed = correction_prompts(card(negative=(PromptKind.MASK,)), MASK, ADDED, REMOVED)
    assert (added.positive, removed.positive) == (True, False)
    np.testing.assert_array_equal(added.on(GRID), block((4, 6), (2, 3), (3, 4)))
    np.testing.assert_array_equal(removed.on(GRID), block((1, 2), (1, 2), (3, 4)))


def test_another_model_is_shown_the_whole_slice_as_it_is_now():
    (prompt,) = correction_prompts(card(), MASK, ADDED, REMOVED)
    want = OLD & block((0, 6), (0, 7), (3, 4))
    want[tuple(ADDED.T)] = True
    want[tuple(REMOVED.T)] = False
    np.testing.assert_array_equal(prompt.on(GRID), want)


def test_strokes_that_say_nothing_are_refused():
    with pytest.raises(PromptError, match="changes nothing"):
        correction_prompts(card(), MASK, NONE, NONE)
    with pytest.raises(PromptError, match="changes nothing"):
        correction_prompts(card(), MASK, np.array([[1, 1, 2]]), np.array([[5, 5, 5]]))
    with pytest.raises(PromptError, match="nothing is left"):
        correction_prompts(card(), MASK, NONE, np.argwhere(block((0, 6), (0, 7), (3, 4))))
    with pytest.raises(CapabilityError, match="takes no masks"):
        correction_prompts(card(positive=()), MASK, ADDED, NONE)


def test_the_command_line_gives_the_mask_of_the_session(tmp_path):
    import nibabel

    from volseg import read_image
    from volseg.cli import app

    image = blocks_image("LPS")
    path = tmp_path / "an image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image[0].numpy(), image.affine.numpy()), path)
    session = Session(RandomWalker(), read_image(path), EncodeOptions(window="-50,250"))
    session.add_prompt(session.add_object("block"), Point((-18, 34, 409), Frame.RAS))
    expected = session.predict(exact=True)
    session.save(tmp_path / "s.json")
    line = segment_command(session.state, session.card, path, tmp_path / "s.json", tmp_path / "out.nii.gz")
    words = shlex.split(line)
    assert words[0] == "volseg"
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_labelmap(tmp_path / "out.nii.gz").array, expected.array)
    assert expected.array.any()


def test_a_worklist_finds_images_and_remembers_what_is_done(tmp_path):
    for name in ("b.nii.gz", "a.nrrd", "c.seg.nrrd", "notes.txt", ".hidden.nii"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "other").mkdir()
    worklist = Worklist(tmp_path)
    cases = worklist.cases
    assert [case.name for case in cases] == ["a", "b", "series"]
    assert cases[1].session == tmp_path / "volseg" / "b.json"
    assert worklist.next_undone() == cases[0]
    assert worklist.next_undone(cases[2]) == cases[0]
    worklist.mark(cases[0])
    again = Worklist(tmp_path)
    assert [case.done for case in again.cases] == [True, False, False]
    assert again.next_undone().name == "b"
    again.mark(again.cases[0], done=False)
    assert not Worklist(tmp_path).cases[0].done
    for case in again.cases:
        again.mark(case)
    assert again.next_undone() is None


def test_a_damaged_worklist_is_refused(tmp_path):
    with pytest.raises(SessionError, match="no folder"):
        Worklist(tmp_path / "nowhere")
    (tmp_path / "volseg").mkdir()
    (tmp_path / "volseg" / "worklist.json").write_text('{"done": 3}')
    with pytest.raises(SessionError, match="no worklist"):
        Worklist(tmp_path)


def test_old_encodings_make_room(tmp_path):
    import os

    from volseg.sessions.desk.opening import prune

    for number in range(4):
        path = tmp_path / "image" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    prune(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == ["2.bin", "3.bin"]


def test_a_label_map_turns_without_moving():
    from phantom import centroids_ras_mm, make_phantom

    from volseg.data.labelmap import LabelMap

    phantom = make_phantom("RAS", oblique=True)
    labelmap = LabelMap(phantom.grid, (phantom.array.astype(np.uint8),), ())
    for axcodes in ("LPS", "SPL", "IAR"):
        turned = labelmap.reoriented(axcodes)
        assert turned.grid.axcodes == axcodes
        phantom.check(centroids_ras_mm(turned.array, turned.grid.affine_ras))
