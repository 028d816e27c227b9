"""A model in a process of its own: the same masks, and it ends when it should, however that comes about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from desk_tools import Heard, settle
from monai.data import MetaTensor

from volseg.errors import Cancelled, ModelError, PromptError
from volseg.geometry import Frame, Grid
from volseg.models.options import EncodeOptions
from volseg.models.random_walker import RandomWalker
from volseg.prompts import MaskPrompt, Point, PromptedObject, PromptSet
from volseg.sessions.desk import Desk, Idle, Opened
from volseg.sessions.engine import LocalEngine
from volseg.sessions.worker import WorkerEngine, WorkerProcess, worker_session

OPTIONS = EncodeOptions()


def ball_image(shape=(30, 36, 40), meta=None):
    """A bright ball in noise, in Fortran order as files have it."""
    axes = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    values = np.where(sum(axis**2 for axis in axes) < 0.2, 200, 0) + np.random.default_rng(0).normal(0, 8, shape)
    tensor = torch.from_numpy(np.asfortranarray(values.astype(np.int16)))[None]
    affine = torch.tensor(np.diag((1.0, -1.2, 0.8, 1.0)))
    return MetaTensor(tensor, affine=affine, meta={"modality": "PT"} if meta is None else meta)


def prompts_on(image, *extra):
    grid = Grid.of(image)
    middle = tuple(size // 2 for size in grid.shape)
    first = PromptedObject(1, (Point(middle, Frame.IJK), Point((1, 1, 1), Frame.IJK, False), *extra), "ball")
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(slice(n - 2, n + 2) for n in middle)] = True
    return PromptSet(grid, (first, PromptedObject(2, (MaskPrompt(mask, grid),))))


@pytest.fixture(scope="module")
def process():
    """One for all, as a start takes many times longer than all else here."""
    one = WorkerProcess()
    yield one
    pid = one.pid
    one.close()
    assert pid is None or gone(pid)


def gone(pid, patience_s=20):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def same(results, others):
    assert [one.object_id for one in results] == [one.object_id for one in others]
    for one, other in zip(results, others, strict=True):
        np.testing.assert_array_equal(one.mask().full(), other.mask().full())
        assert (one.presence, one.exact, one.settings) == (other.presence, other.exact, other.settings)


def test_masks_settings_and_errors_are_those_of_this_process(process):
    image = ball_image()
    here, there = LocalEngine(RandomWalker(), image), WorkerEngine(process, "random-walker", "cpu", image)
    assert there.card == here.card
    assert there.image is image
    grown, told = [], []
    there.encode(OPTIONS)
    results = there.segment(
        OPTIONS, prompts_on(image), exact=True, partial=grown.append, progress=lambda *one: told.append(one)
    )
    expected = here.segment(OPTIONS, prompts_on(image), exact=True)
    same(results, expected)
    assert results[0].mask().voxels > 500
    assert [mask.object_id for mask in grown] == [1, 2]
    np.testing.assert_array_equal(grown[1].full(), expected[1].mask().full())
    assert told[-1] == (1.0, "segmented")
    outside = prompts_on(image, Point((500, 1, 1), Frame.IJK))
    with pytest.raises(PromptError) as one:
        here.segment(OPTIONS, outside)
    with pytest.raises(PromptError) as other:
        there.segment(OPTIONS, outside)
    assert str(one.value) == str(other.value)
    with pytest.raises(ModelError, match="there is no model 'nothing'"):
        WorkerEngine(process, "nothing", "cpu", image)
    there.close()
    # As for every engine: what was freed is computed again.
    same(there.segment(OPTIONS, prompts_on(image), exact=True), expected)
    there.close()


def test_a_prediction_is_cancelled_and_the_process_goes_on(process):
    image = ball_image()
    engine = WorkerEngine(process, "random-walker", "cpu", image)
    expected, pid = LocalEngine(RandomWalker(), image).segment(OPTIONS, prompts_on(image)), process.pid
    for stop_at in (1, 2, 3):
        calls = []

        def stop(fraction, text, calls=calls, stop_at=stop_at):
            calls.append(text)
            return len(calls) < stop_at

        with pytest.raises(Cancelled):
            engine.segment(OPTIONS, prompts_on(image), progress=stop)
        # An answer that was on its way already is not taken for that of the next.
        same(engine.segment(OPTIONS, prompts_on(image)), expected)
    assert process.pid == pid
    engine.close()


def test_two_images_share_a_process_and_one_that_waits_can_be_cancelled(process):
    images = ball_image(), ball_image((20, 50, 30))
    engines = [WorkerEngine(process, "random-walker", "cpu", image) for image in images]
    started, waited = threading.Event(), []

    def slow(fraction, text):
        started.set()
        time.sleep(0.3)

    def impatient(fraction, text):
        waited.append(text)
        return False

    thread = threading.Thread(target=lambda: engines[0].segment(OPTIONS, prompts_on(images[0]), progress=slow))
    thread.start()
    started.wait()
    with pytest.raises(Cancelled):
        engines[1].encode(OPTIONS, impatient)
    assert waited == ["waiting for another prediction"]
    thread.join()
    same(
        engines[1].segment(OPTIONS, prompts_on(images[1])),
        LocalEngine(RandomWalker(), images[1]).segment(OPTIONS, prompts_on(images[1])),
    )
    for engine in engines:
        engine.close()


def test_a_process_that_was_killed_is_started_again(process):
    image = ball_image()
    engine = WorkerEngine(process, "random-walker", "cpu", image)
    first = process.pid

    def kill_once(fraction, text):
        if process.pid == first:
            os.kill(first, signal.SIGKILL)

    results = engine.segment(OPTIONS, prompts_on(image), progress=kill_once)
    same(results, LocalEngine(RandomWalker(), image).segment(OPTIONS, prompts_on(image)))
    assert process.pid not in (None, first)
    # Over and over again: the person learns of it, and the next prompt is another try.
    with pytest.raises(ModelError, match="lack of memory"):
        engine.segment(OPTIONS, prompts_on(image), progress=lambda *_: os.kill(process.pid or first, signal.SIGKILL))
    same(engine.segment(OPTIONS, prompts_on(image)), results)
    engine.close()


WINDOW = """
import sys, time
sys.path[:0] = {path!r}
from test_worker import ball_image, prompts_on, OPTIONS
from volseg.sessions.worker import WorkerEngine, WorkerProcess
process, image = WorkerProcess(), ball_image()
engine = WorkerEngine(process, "random-walker", "cpu", image)
def told(fraction, text):
    print(process.pid, flush=True)
    time.sleep(3600)
engine.segment(OPTIONS, prompts_on(image), progress=told)
"""


def test_it_ends_when_the_window_is_killed():
    program = WINDOW.format(path=[path for path in sys.path if path])
    window = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(window.stdout.readline())
    assert not gone(pid, patience_s=0.1)
    window.kill()
    window.wait()
    window.stdout.close()
    assert gone(pid)


def test_a_desk_works_with_it_and_closing_ends_it_at_once(process):
    heard, image = Heard(), ball_image()
    # However long a busy machine takes to start it.
    WorkerEngine(process, "random-walker", "cpu", image).close()
    desk = Desk(worker_session(process, lambda: image, "random-walker", device="cpu"), heard)
    heard.wait(Opened)
    heard.wait(Idle)
    number = desk.session.add_object()
    desk.session.add_prompt(number, Point((15, 18, 20), Frame.IJK))
    settle(desk, heard)
    expected = LocalEngine(RandomWalker(), image).segment(OPTIONS, desk.session.state.prompt_set(desk.session.grid))
    np.testing.assert_array_equal(desk.canvas.array == number, expected[0].mask().full())
    pid = process.pid
    desk.close(timeout_s=0)
    process.close()
    assert gone(pid)
    desk.close()
    with pytest.raises(Cancelled):
        WorkerEngine(process, "random-walker", "cpu", image)
