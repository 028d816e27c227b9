"""What a session promises: undo, remembered masks, locks, threads, cancel."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from region_model import RegionModel, blocks_image

from volseg.data.labelmap import OverlapPolicy
from volseg.errors import Cancelled, CapabilityError, PromptError, SessionError
from volseg.geometry import Frame
from volseg.models.options import EncodeOptions
from volseg.prompts import Box, MaskPrompt, Point, Text
from volseg.sessions import Session

FIRST = Point((2, 2, 3), Frame.IJK)
SECOND = Point((7, 6, 2), Frame.IJK)


@pytest.fixture
def session():
    with Session(RegionModel(), blocks_image()) as session:
        yield session


def test_two_objects_become_their_blocks(session):
    first, second = session.add_object("first"), session.add_object("second", (1, 2, 3))
    session.add_prompt(first, FIRST)
    session.add_prompt(second, SECOND)
    labelmap = session.predict()
    assert (first, second) == (1, 2)
    expected = np.zeros((12, 10, 8), dtype=int)
    expected[1:4, 1:5, 2:6] = 1
    expected[6:10, 5:9, 1:5] = 2
    np.testing.assert_array_equal(labelmap.array, expected)
    assert [(label.name, label.presence) for label in labelmap.labels] == [("first", 0.75), ("second", 0.75)]
    assert labelmap.label(2).color_rgb == (1, 2, 3)
    assert labelmap.provenance.model == "region 1"
    assert labelmap.provenance.settings == (("window", "none"),)
    assert len(labelmap.provenance.image_sha256) == 64


def test_millimetres_mean_the_same_place(session):
    # Voxel (2, 2, 3) lies at -20 + 2 * 1, 30 + 2 * 2, 400 + 3 * 3.
    session.add_prompt(session.add_object(), Point((-18, 34, 409), Frame.RAS))
    in_ras = session.predict().array
    other = Session(session.engine.model, session.image)
    other.add_prompt(other.add_object(), Point((18, -34, 409), Frame.LPS))
    np.testing.assert_array_equal(other.predict().array, in_ras)
    assert in_ras.sum() == 3 * 4 * 4


def test_only_changed_objects_are_computed(session):
    first, second = session.add_object(), session.add_object()
    session.add_prompt(first, FIRST)
    session.predict()
    session.add_prompt(second, SECOND)
    session.predict()
    session.rename_object(first, "renamed")
    session.recolor_object(second, (9, 9, 9))
    session.set_overlap(OverlapPolicy.FIRST_WINS)
    labelmap = session.predict()
    assert session.engine.model.computed == [1, 2]
    assert labelmap.label(1).name == "renamed"


def test_undo_restores_masks_bit_for_bit_though_the_model_drifts():
    model = RegionModel(drift=True)
    session = Session(model, blocks_image())
    number = session.add_object()
    seen = []
    for position in ((2, 2, 3), (7, 6, 2), (0, 9, 0)):
        session.add_prompt(number, Point(position, Frame.IJK))
        seen.append(session.predict().array)
    assert not np.array_equal(seen[0], seen[1])
    for earlier in (seen[1], seen[0]):
        session.undo()
        np.testing.assert_array_equal(session.predict().array, earlier)
    session.redo()
    session.redo()
    np.testing.assert_array_equal(session.predict().array, seen[2])
    assert model.computed == [1, 1, 1], "nothing was computed again"


def test_exact_computes_approximate_masks_again_once():
    model = RegionModel(drift=True)
    session = Session(model, blocks_image())
    session.add_prompt(session.add_object(), FIRST)
    assert session.predict().array[0, 0, 0] == 1  # the drift
    exact = session.predict(exact=True).array
    assert exact[0, 0, 0] == 0
    np.testing.assert_array_equal(session.predict().array, exact)
    np.testing.assert_array_equal(session.predict(exact=True).array, exact)
    assert model.computed == [1, 1]


def test_a_new_prompt_after_undo_forgets_the_undone(session):
    number = session.add_object()
    session.add_prompt(number, FIRST)
    session.undo()
    session.add_prompt(number, SECOND)
    assert not session.can_redo
    with pytest.raises(SessionError, match="nothing to redo"):
        session.redo()
    assert session.predict().array.sum() == 4 * 4 * 4


def test_prompts_are_edited_and_deleted_by_entry(session):
    number = session.add_object()
    first = session.add_prompt(number, FIRST)
    second = session.add_prompt(number, SECOND)
    session.edit_prompt(first, Point((2, 2, 3), Frame.IJK, positive=False))
    assert [(entry.entry_id, entry.prompt.positive) for entry in session.history] == [(first, False), (second, True)]
    session.delete_prompt(first)
    assert [entry.entry_id for entry in session.history] == [second]
    with pytest.raises(SessionError, match=f"no prompt {first}"):
        session.edit_prompt(first, FIRST)
    session.undo()
    session.undo()
    assert session.state.entry(first).prompt == FIRST


def test_options_change_the_encoding_and_come_back_with_undo(session):
    session.add_prompt(session.add_object(), FIRST)
    session.predict()
    session.set_options(EncodeOptions(window="-100,300"))
    assert session.predict().provenance.settings == (("window", "-100,300"),)
    assert session.engine.model.encodings[0].closed
    session.undo()
    assert session.predict().provenance.settings == (("window", "none"),)
    assert len(session.engine.model.encodings) == 2


def test_overlap_policies(session):
    for name in ("big", "small"):
        session.add_object(name)
    session.add_prompt(1, Box((0, 0, 0), (5, 5, 5), Frame.IJK))
    session.add_prompt(2, FIRST)
    block = np.zeros((12, 10, 8), dtype=bool)
    block[1:4, 1:5, 2:6] = True
    assert (session.predict().array[block] == 2).all()
    session.set_overlap(OverlapPolicy.FIRST_WINS)
    assert (session.predict().array[block] == 1).all()
    session.set_overlap(OverlapPolicy.LAYERS)
    layers = session.predict()
    assert len(layers.layers) == 2
    np.testing.assert_array_equal(layers.mask(2), block)
    assert layers.mask(1).sum() == 6**3


def test_locked_objects_refuse_changes(session):
    number = session.add_object("liver")
    entry = session.add_prompt(number, FIRST)
    session.lock_object(number)
    before = session.state
    changes = [
        lambda: session.add_prompt(number, SECOND),
        lambda: session.edit_prompt(entry, SECOND),
        lambda: session.delete_prompt(entry),
        lambda: session.rename_object(number, "x"),
        lambda: session.recolor_object(number, (0, 0, 0)),
        lambda: session.remove_object(number),
    ]
    for change in changes:
        with pytest.raises(SessionError, match="liver is locked"):
            change()
    assert session.state is before
    session.lock_object(number, False)
    session.add_prompt(number, SECOND)


def test_bad_prompts_never_enter_the_history(session):
    number = session.add_object("liver")
    session.add_prompt(number, FIRST)
    before = session.state
    with pytest.raises(PromptError, match=r"prompt 2 \(point\) of liver.*outside"):
        session.add_prompt(number, Point((99, 0, 0), Frame.IJK))
    with pytest.raises(CapabilityError, match=r"prompt 2 \(text\) of liver.*no positive text"):
        session.add_prompt(number, Text("liver"))
    with pytest.raises(SessionError, match="no object 7"):
        session.add_prompt(7, FIRST)
    assert session.state is before


def test_objects_without_prompts_are_left_out(session):
    session.add_object("empty")
    session.add_prompt(session.add_object(), FIRST)
    assert [label.value for label in session.predict().labels] == [2]


def test_an_object_id_that_is_used_again_gets_no_foreign_mask(session):
    session.add_prompt(session.add_object(), FIRST)
    session.predict()
    session.remove_object(1)
    session.add_prompt(session.add_object(), SECOND)
    assert session.predict().array[7, 6, 2] == 1
    assert session.predict().array[2, 2, 3] == 0


def test_a_brush_correction_is_a_mask_prompt(session):
    number = session.add_object()
    session.add_prompt(number, FIRST)
    stroke = np.zeros(session.grid.shape, dtype=bool)
    stroke[7, 6, 2] = True
    session.add_prompt(number, MaskPrompt(stroke, session.grid))
    assert session.predict().array.sum() == 3 * 4 * 4 + 4 * 4 * 4


def test_cancel_leaves_everything_as_before(session):
    number = session.add_object()
    session.add_prompt(number, FIRST)
    before = session.state
    with pytest.raises(Cancelled):
        session.predict(progress=lambda fraction, text: "region" not in text)
    assert session.state is before
    assert session.result(number) is None
    assert session.predict().array.sum() == 3 * 4 * 4


def test_changes_while_predicting_do_not_disturb_it():
    model = RegionModel(wait=threading.Event())
    session = Session(model, blocks_image())
    number = session.add_object()
    session.add_prompt(number, FIRST)
    results = []
    worker = threading.Thread(target=lambda: results.append(session.predict()))
    worker.start()
    assert model.reached.wait(10)
    session.add_prompt(number, SECOND)  # must not wait for the prediction
    session.undo()
    session.redo()
    model.wait.set()
    worker.join(10)
    assert results[0].array.sum() == 3 * 4 * 4, "the state it started from"
    assert session.predict().array.sum() == 3 * 4 * 4 + 4 * 4 * 4


def test_a_prediction_that_waits_for_another_can_be_cancelled():
    model = RegionModel(wait=threading.Event())
    session = Session(model, blocks_image())
    session.add_prompt(session.add_object(), FIRST)
    worker = threading.Thread(target=session.predict)
    worker.start()
    assert model.reached.wait(10)
    with pytest.raises(Cancelled, match="waiting"):
        session.predict(progress=lambda fraction, text: False)
    model.wait.set()
    worker.join(10)
    assert model.computed == [1]


def test_a_result_tells_time_and_packs_small(session):
    number = session.add_object()
    session.add_prompt(number, FIRST)
    session.predict()
    result = session.result(number)
    assert result.seconds >= 0
    assert len(result.bits) < 100
    assert result.mask().voxels == 3 * 4 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("x", (0, 0, 256)), "0..255"), ((3,), "name is a text"), (("x", None, 1), "already an object 1")],
)
def test_objects_that_cannot_be(session, arguments, message):
    session.add_object()
    name, color, number = (*arguments, None, None)[:3]
    with pytest.raises(SessionError, match=message):
        session.add_object(name, color, object_id=number)
    assert len(session.objects) == 1


def test_prompt_sets_enter_whole_or_not_at_all(session):
    from volseg.prompts import PromptedObject, PromptSet

    good = PromptedObject(3, (FIRST,), "three")
    bad = PromptedObject(4, (Point((99, 0, 0), Frame.IJK),), "four")
    with pytest.raises(PromptError, match=r"prompt 1 \(point\) of four"):
        session.add_prompts(PromptSet(session.grid, (good, bad)))
    assert session.objects == ()
    session.add_prompts(PromptSet(session.grid, (good,)))
    assert [label.value for label in session.predict().labels] == [3]
    session.undo()
    assert session.objects == ()
