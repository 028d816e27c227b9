"""A desk computes behind the person's back: previews, superseding, cancel, undo, files, crashes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from desk_tools import Heard, SlowModel, open_desk, settle
from region_model import RegionModel, blocks_image

from volseg.data import read_labelmap
from volseg.data.labelmap import OverlapPolicy
from volseg.errors import ImageReadError, SessionError
from volseg.geometry import Frame
from volseg.prompts import Box, Point
from volseg.sessions import LocalEngine, Session
from volseg.sessions.desk import (
    Autosaved,
    Connected,
    Desk,
    Disconnected,
    Exported,
    Failed,
    Idle,
    Opened,
    Painted,
    Saved,
    StateChanged,
    Working,
)

FIRST = Point((2, 2, 3), Frame.IJK)
SECOND = Point((7, 6, 2), Frame.IJK)


def expected(*blocks):
    values = np.zeros((12, 10, 8), dtype=int)
    for number, block in blocks:
        if block == "first":
            values[1:4, 1:5, 2:6] = number
        else:
            values[6:10, 5:9, 1:5] = number
    return values


@pytest.fixture
def desk_of():
    open_desks = []
    before = set(threading.enumerate())

    def make(*args, **kwargs):
        desk, heard = open_desk(*args, **kwargs)
        open_desks.append(desk)
        return desk, heard

    yield make
    for desk in open_desks:
        desk.close()
    assert not [t for t in set(threading.enumerate()) - before if t.name in ("volseg-desk", "volseg-clerk")]


def test_a_prompt_is_computed_and_painted(desk_of):
    desk, heard = desk_of()
    number = desk.session.add_object("first")
    desk.session.add_prompt(number, FIRST)
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))
    summary = desk.summary(number)
    assert summary.voxels == 48
    assert summary.volume_ml == pytest.approx(48 * 6 / 1000)
    assert summary.presence == 0.75
    assert heard.of(StateChanged)
    assert heard.of(Painted)[-1].preview is False


def test_changes_return_at_once_while_it_computes(desk_of):
    desk, heard = desk_of(SlowModel(step_s=0.05))
    number = desk.session.add_object()
    start = time.perf_counter()
    desk.session.add_prompt(number, FIRST)
    desk.session.rename_object(number, "renamed")
    assert time.perf_counter() - start < 0.05
    settle(desk, heard)
    assert desk.session.engine.model.started == [1], "a new name is no reason to begin anew"


def test_the_clicked_slice_comes_first_and_the_volume_grows(desk_of):
    desk, heard = desk_of(SlowModel())
    pictures = []
    heard_of = heard.__call__

    def listener(event):
        if isinstance(event, Painted) and event.preview:
            pictures.append(desk.canvas.array.copy())
        heard_of(event)

    desk._listener = listener
    desk.session.add_prompt(desk.session.add_object(), FIRST)
    settle(desk, heard)
    filled = [np.flatnonzero(picture.any(axis=(0, 1))).tolist() for picture in pictures]
    assert filled[0] == [3]
    assert all(set(a) <= set(b) for a, b in zip(filled, filled[1:], strict=False))
    assert len({tuple(one) for one in filled}) >= 4


def test_a_correction_shows_the_old_mask_where_the_new_one_has_not_come_yet(desk_of):
    desk, heard = desk_of(SlowModel())
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    settle(desk, heard)
    first_preview = []
    heard_of = heard.__call__

    def listener(event):
        if isinstance(event, Painted) and event.preview and not first_preview:
            first_preview.append(desk.canvas.array.copy())
        heard_of(event)

    desk._listener = listener
    desk.session.add_prompt(number, SECOND)
    settle(desk, heard)
    (picture,) = first_preview
    both = expected((1, "first"), (1, "second"))
    np.testing.assert_array_equal(picture[..., 2], both[..., 2])
    np.testing.assert_array_equal(picture[..., 5], expected((1, "first"))[..., 5])
    np.testing.assert_array_equal(desk.canvas.array, both)


def test_a_new_prompt_supersedes_the_running_prediction(desk_of):
    model = SlowModel(step_s=0.1)
    desk, heard = desk_of(model)
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    heard.wait(Painted, where=lambda event: event.preview)
    start = time.perf_counter()
    desk.session.add_prompt(number, SECOND)
    settle(desk, heard)
    assert model.computed == [1], "the first prediction was given up"
    assert time.perf_counter() - start < 0.1 * (8 + 6)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first"), (1, "second")))


def test_the_latest_objects_prompt_is_computed_first_and_the_other_one_after_it(desk_of):
    model = SlowModel(step_s=0.05)
    desk, heard = desk_of(model)
    first, second = desk.session.add_object(), desk.session.add_object()
    desk.session.add_prompt(first, FIRST)
    heard.wait(Painted, where=lambda event: event.preview)
    desk.session.add_prompt(second, SECOND)
    settle(desk, heard)
    assert model.computed == [2, 1]
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first"), (2, "second")))


def test_undo_takes_the_running_prediction_back_and_shows_what_was(desk_of):
    model = SlowModel(step_s=0.05)
    desk, heard = desk_of(model)
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    settle(desk, heard)
    desk.session.add_prompt(number, SECOND)
    heard.wait(Painted, where=lambda event: event.preview)
    desk.session.undo()
    settle(desk, heard)
    time.sleep(0.2)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))
    assert model.computed == [1]
    desk.session.redo()
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first"), (1, "second")))


def test_cancel_stops_and_the_next_change_goes_on(desk_of):
    model = SlowModel(step_s=0.05)
    desk, heard = desk_of(model)
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    heard.wait(Painted, where=lambda event: event.preview)
    desk.cancel()
    heard.wait(Idle, where=lambda event: event.cancelled)
    time.sleep(0.15)
    assert model.computed == []
    assert desk.canvas.array.max() == 0, "half a mask is no result"
    desk.predict()
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))


def test_progress_is_told(desk_of):
    desk, heard = desk_of(SlowModel(step_s=0.05))
    heard.clear()
    desk.session.add_prompt(desk.session.add_object("liver"), FIRST)
    settle(desk, heard)
    fractions = [event.fraction for event in heard.of(Working)]
    assert fractions == sorted(fractions)
    assert len(fractions) >= 3
    assert any("liver" in event.text for event in heard.of(Working))


def test_an_object_that_fails_leaves_the_others_alone_and_is_not_tried_for_ever(desk_of):
    class Fussy(RegionModel):
        def _segment(self, encoding, prompts, **kwargs):
            if not any(prompt.positive for prompt in prompts.objects[0].prompts):
                self.computed.append(-prompts.objects[0].object_id)
                raise ImageReadError("say also what belongs to it")
            return super()._segment(encoding, prompts, **kwargs)

    model = Fussy()
    desk, heard = desk_of(model)
    bad, good = desk.session.add_object(), desk.session.add_object()
    desk.session.add_prompt(bad, Point((2, 2, 3), Frame.IJK, positive=False))
    failed = heard.wait(Failed)
    assert failed.object_id == bad
    assert "say also" in str(failed.error)
    desk.session.add_prompt(good, SECOND)
    heard.wait(Painted, where=lambda event: desk.summary(good) is not None)
    assert model.computed == [-1, 2]
    desk.session.add_prompt(bad, FIRST)
    heard.wait(Painted, where=lambda event: desk.summary(bad) is not None)


def test_a_model_with_a_bug_does_not_end_the_desk(desk_of):
    class Buggy(RegionModel):
        def _segment(self, encoding, prompts, **kwargs):
            if len(prompts.objects[0].prompts) == 1:
                raise ZeroDivisionError("a bug")
            return super()._segment(encoding, prompts, **kwargs)

    desk, heard = desk_of(Buggy())
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    assert isinstance(heard.wait(Failed).error, ZeroDivisionError)
    desk.session.add_prompt(number, SECOND)
    heard.wait(Painted, where=lambda event: desk.summary(number) is not None)


def test_what_cannot_be_opened_is_said(desk_of):
    def broken(progress):
        raise ImageReadError("no such image")

    heard = Heard()
    desk = Desk(broken, heard)
    assert heard.wait(Failed).fatal
    with pytest.raises(SessionError, match="still being opened"):
        desk.session  # noqa: B018
    desk.close()


def test_overlap_policy_decides_what_is_seen(desk_of):
    desk, heard = desk_of()
    big, small = desk.session.add_object(), desk.session.add_object()
    desk.session.add_prompt(big, Box((0, 0, 0), (5, 5, 5), Frame.IJK))
    desk.session.add_prompt(small, FIRST)
    settle(desk, heard)
    assert desk.canvas.array[2, 2, 3] == small
    desk.session.set_overlap(OverlapPolicy.FIRST_WINS)
    heard.wait(Painted, where=lambda event: desk.canvas.array[2, 2, 3] == big)
    assert (desk.canvas.array == big).sum() == 6**3
    np.testing.assert_array_equal(desk.canvas.array, desk.session.predict().array)


def test_ids_beyond_the_arrays_type_get_a_wider_array(desk_of):
    desk, heard = desk_of()
    desk.session.add_object(object_id=70000)
    desk.session.add_prompt(70000, FIRST)
    settle(desk, heard)
    heard.wait(Painted, where=lambda event: event.array_replaced)
    assert (desk.canvas.array == 70000).sum() == 48


def test_removed_objects_vanish(desk_of):
    desk, heard = desk_of()
    first, second = desk.session.add_object(), desk.session.add_object()
    desk.session.add_prompt(first, FIRST)
    desk.session.add_prompt(second, SECOND)
    settle(desk, heard)
    desk.session.remove_object(first)
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((2, "second")))


def test_save_resume_and_go_on(desk_of, tmp_path):
    desk, heard = desk_of()
    desk.session.add_prompt(desk.session.add_object("first"), FIRST)
    desk.session.add_prompt(desk.session.add_object("second"), SECOND)
    settle(desk, heard)
    assert desk.has_unsaved_changes
    desk.save(tmp_path / "s.json")
    heard.wait(Saved)
    assert not desk.has_unsaved_changes

    again, other_heard = desk_of()
    again.session.add_prompt(again.session.add_object("to be replaced"), SECOND)
    settle(again, other_heard)
    again.resume(tmp_path / "s.json")
    other_heard.wait(StateChanged, where=lambda event: len(again.session.objects) == 2)
    settle(again, other_heard)
    np.testing.assert_array_equal(again.canvas.array, desk.canvas.array)
    assert not again.has_unsaved_changes
    again.session.undo()
    assert again.has_unsaved_changes
    settle(again, other_heard)
    np.testing.assert_array_equal(again.canvas.array, expected((1, "first")))


def test_another_images_session_is_refused_unless_allowed(desk_of, tmp_path):
    desk, heard = desk_of(image=blocks_image("LPS"))
    desk.session.add_prompt(desk.session.add_object(), Point((-18, 34, 409), Frame.RAS))
    desk.save(tmp_path / "s.json")
    heard.wait(Saved)
    again, other_heard = desk_of()
    again.resume(tmp_path / "s.json")
    assert "another image" in str(other_heard.wait(Failed).error)
    assert again.session.objects == ()
    other_heard.clear()
    again.resume(tmp_path / "s.json", allow_other=True)
    other_heard.wait(StateChanged)
    settle(again, other_heard)
    np.testing.assert_array_equal(again.canvas.array, expected((1, "first")))


def test_export_is_exact(desk_of, tmp_path):
    desk, heard = desk_of(RegionModel(drift=True))
    desk.session.add_prompt(desk.session.add_object(), FIRST)
    settle(desk, heard)
    assert desk.canvas.array[0, 0, 0] == 1  # the approximate update
    desk.export(tmp_path / "out.nii.gz")
    heard.wait(Exported)
    np.testing.assert_array_equal(read_labelmap(tmp_path / "out.nii.gz").array, expected((1, "first")))
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))


def test_an_export_that_fails_says_so(desk_of, tmp_path):
    desk, heard = desk_of()
    desk.session.add_prompt(desk.session.add_object(), FIRST)
    desk.export(tmp_path / "nowhere" / "out.nii.gz")
    assert "nowhere" in str(heard.wait(Failed).error)


def test_a_crash_loses_nothing(desk_of, tmp_path):
    desk, heard = desk_of(autosave_folder=tmp_path)
    desk.session.add_prompt(desk.session.add_object("first"), FIRST)
    autosaved = heard.wait(Autosaved)
    # What a crash leaves: the file, and a lock that the system let go.
    kept = autosaved.path.read_bytes()
    desk.session.remove_object(1)
    desk.close()
    autosaved.path.write_bytes(kept)

    again, other_heard = desk_of(autosave_folder=tmp_path)
    found = other_heard.wait(Opened).found
    assert (found.prompts, found.objects, found.path) == (1, 1, autosaved.path)
    again.resume(found.path)
    other_heard.wait(StateChanged)
    settle(again, other_heard)
    np.testing.assert_array_equal(again.canvas.array, expected((1, "first")))


def test_closing_keeps_unsaved_work_and_saving_clears_it(desk_of, tmp_path):
    desk, heard = desk_of(autosave_folder=tmp_path)
    desk.session.add_prompt(desk.session.add_object(), FIRST)
    desk.close()
    assert len(list(tmp_path.glob("*.json"))) == 1
    again, heard = desk_of(autosave_folder=tmp_path)
    found = heard.wait(Opened).found
    again.resume(found.path)
    heard.wait(StateChanged)
    again.save(tmp_path / "mine" / "s.json")
    assert "mine" in str(heard.wait(Failed).error)
    assert list(tmp_path.glob("*.json"))
    (tmp_path / "mine").mkdir()
    again.save(tmp_path / "mine" / "s.json")
    heard.wait(Saved)
    assert not list(tmp_path.glob("*.json"))


def test_a_found_autosave_is_not_overwritten_by_a_new_start(desk_of, tmp_path):
    desk, heard = desk_of(autosave_folder=tmp_path)
    desk.session.add_prompt(desk.session.add_object("precious"), FIRST)
    desk.close()
    again, heard = desk_of(autosave_folder=tmp_path)
    again.session.add_prompt(again.session.add_object("anew"), SECOND)
    heard.wait(Autosaved)
    (previous,) = tmp_path.glob("*.previous.json")
    assert "precious" in previous.read_text()


def test_two_desks_on_one_image_keep_apart(desk_of, tmp_path):
    desks = [desk_of(autosave_folder=tmp_path) for _ in range(2)]
    for number, (desk, heard) in enumerate(desks):
        desk.session.add_prompt(desk.session.add_object(f"desk {number}"), FIRST)
        heard.wait(Autosaved)
    texts = [path.read_text() for path in sorted(tmp_path.glob("*.json"))]
    assert len(texts) == 2
    assert sum("desk 0" in text for text in texts) == sum("desk 1" in text for text in texts) == 1


def test_closing_ends_a_running_prediction_and_frees_the_image(desk_of):
    model = SlowModel(step_s=0.05)
    desk, heard = desk_of(model)
    desk.session.add_prompt(desk.session.add_object(), FIRST)
    heard.wait(Painted, where=lambda event: event.preview)
    heard.clear()
    start = time.perf_counter()
    desk.close()
    assert time.perf_counter() - start < 1.0
    assert not desk.is_open
    assert model.encodings[0].closed
    assert heard.events == [], "a closed desk says nothing"


class Lost(SessionError, ConnectionError):
    """As an engine's errors are while its server is away."""


def test_an_engine_that_is_away_at_opening_is_waited_for():
    """Also where it goes away between opening and encoding."""
    heard, attempts = Heard(), []

    class Flaky(LocalEngine):
        def encode(self, options, progress=None):
            attempts.append("encode")
            if attempts.count("encode") == 1:
                raise Lost("the server cannot be reached")
            super().encode(options, progress)

    def open_session(progress):
        attempts.append("open")
        if attempts.count("open") == 1:
            raise Lost("the server cannot be reached")
        return Session.on(Flaky(RegionModel(), blocks_image()))

    desk = Desk(open_session, heard)
    heard.wait(Idle)
    assert attempts == ["open", "open", "encode", "encode"]
    told = [type(event).__name__ for event in heard.events if not isinstance(event, Working | Painted)]
    assert told == ["Disconnected", "Connected", "Opened", "Disconnected", "Connected", "Idle"]
    desk.session.add_prompt(desk.session.add_object(), FIRST)
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))
    desk.close()


def test_waiting_for_an_engine_ends_when_the_person_or_the_window_does():
    def never(progress):
        raise Lost("the server cannot be reached")

    heard = Heard()
    desk = Desk(never, heard)
    heard.wait(Disconnected)
    desk.cancel()
    assert heard.wait(Failed).fatal
    desk.close()
    heard = Heard()
    desk = Desk(never, heard)
    heard.wait(Disconnected)
    start = time.monotonic()
    desk.close()
    assert time.monotonic() - start < 2
    assert not heard.of(Failed)


def test_a_lost_engine_is_told_and_tried_until_it_is_back(desk_of):
    class Flaky(LocalEngine):
        away = 0

        def segment(self, options, prompts, **kwargs):
            if self.away:
                raise Lost("the server cannot be reached")
            return super().segment(options, prompts, **kwargs)

        def encode(self, options, progress=None):
            if self.away:
                self.away -= 1
                raise Lost("the server cannot be reached")
            super().encode(options, progress)

    engine = Flaky(RegionModel(), blocks_image())
    heard = Heard()
    desk = Desk(lambda progress: Session.on(engine), heard)
    heard.wait(Idle)
    engine.away = 2
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    heard.wait(Disconnected, count=2)
    heard.wait(Connected)
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))
    desk.close()


def test_slow_tasks_run_beside_a_prediction(desk_of):
    desk, heard = desk_of(SlowModel(step_s=0.1))
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    heard.wait(Painted, where=lambda event: event.preview)
    done = threading.Event()
    desk.do(lambda session: done.set())
    assert done.wait(0.5)
    desk.do(lambda session: session.remove_object(99))
    assert "no object 99" in str(heard.wait(Failed).error)


def test_two_hundred_prompts_keep_pace(desk_of):
    desk, heard = desk_of()
    number = desk.session.add_object()
    rng = np.random.default_rng(0)
    slowest = 0.0
    for _ in range(200):
        position = rng.integers(0, (12, 10, 8)).tolist()
        start = time.perf_counter()
        desk.session.add_prompt(number, Point(position, Frame.IJK, positive=bool(rng.integers(2))))
        slowest = max(slowest, time.perf_counter() - start)
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, desk.session.predict().array)
    for _ in range(200):
        desk.session.undo()
    settle(desk, heard)
    assert desk.canvas.array.max() == 0
    assert slowest < 0.2


def test_a_brush_stroke_corrects_the_mask_stays_in_sight_and_is_undone(desk_of):
    desk, heard = desk_of(SlowModel(step_s=0.03))
    number, other = desk.session.add_object(), desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    desk.session.add_prompt(other, SECOND)
    settle(desk, heard)
    # A stroke on slice 3 that joins the first block to a voxel of the background; region growing takes all of that.
    desk.canvas.array[5, 0, 3] = number
    desk.canvas.array[7, 6, 3] = 0  # a slip of the eraser over the other object
    region = (slice(0, 12), slice(0, 10), slice(3, 4))
    heard.clear()
    desk.correct(number, region)
    heard.wait(Painted, where=lambda event: event.preview)
    assert desk.canvas.array[5, 0, 3] == number
    settle(desk, heard)
    (entry,) = desk.session.state.entries_of(number)[1:]
    assert entry.prompt.positive
    assert entry.prompt.voxels_ijk(desk.session.grid).tolist() == [[5, 0, 3]]
    assert desk.canvas.array[7, 6, 3] == other
    desk.session.undo()
    settle(desk, heard)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first"), (2, "second")))


def test_a_stroke_that_cannot_be_taken_is_wiped_out(desk_of):
    desk, heard = desk_of()
    number = desk.session.add_object()
    desk.session.add_prompt(number, FIRST)
    settle(desk, heard)
    desk.session.lock_object(number)
    desk.canvas.array[5, 0, 3] = number
    desk.correct(number, (slice(0, 12), slice(0, 10), slice(3, 4)))
    assert "locked" in str(heard.wait(Failed).error)
    np.testing.assert_array_equal(desk.canvas.array, expected((1, "first")))
