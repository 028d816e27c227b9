"""A listener to wait with, and models that take their time."""

from __future__ import annotations

import threading
import time

import monai.data  # noqa: F401  # seconds of import that are no part of any desk
import numpy as np
from region_model import RegionModel, blocks_image, region

from volseg.data.object_mask import ObjectMask
from volseg.progress import report
from volseg.sessions import Session
from volseg.sessions.desk import Desk, Failed, Idle, Opened

PATIENCE_S = 60


class Heard:
    """Keeps every event; waits for the next of a kind."""

    def __init__(self):
        self.events = []
        self._new = threading.Condition()

    def __call__(self, event):
        with self._new:
            self.events.append(event)
            self._new.notify_all()

    def wait(self, kind, count=1, where=lambda event: True):
        def found():
            return [event for event in self.events if isinstance(event, kind) and where(event)]

        with self._new:
            ok = self._new.wait_for(lambda: len(found()) >= count, PATIENCE_S)
            assert ok, f"no {count} {kind.__name__} among {self.events}"
            return found()[-1]

    def clear(self):
        with self._new:
            self.events.clear()

    def of(self, kind):
        with self._new:
            return [event for event in self.events if isinstance(event, kind)]


class SlowModel(RegionModel):
    """The region, slice by slice along k from the clicked one, ``step_s`` seconds each."""

    def __init__(self, step_s=0.02, **kwargs):
        super().__init__(**kwargs)
        self.step_s = step_s
        self.started = []

    def _segment(self, encoding, prompts, *, exact, progress, partial):
        masks = []
        for item in prompts.objects:
            self.started.append(item.object_id)
            inside = region(encoding.image[0].numpy(), item.prompts, encoding.grid)
            first = int(item.prompts[-1].voxels_ijk(encoding.grid)[0, 2])
            order = sorted(range(inside.shape[2]), key=lambda k: abs(k - first))
            grown = np.zeros_like(inside)
            for number, k in enumerate(order):
                report(progress, number / len(order), f"slice {k} of {item.title}")
                grown[..., k] = inside[..., k]
                if partial is not None:
                    partial(ObjectMask.of(item.object_id, encoding.grid, grown, 0.5))
                time.sleep(self.step_s)
            masks.append(ObjectMask.of(item.object_id, encoding.grid, inside, 0.75))
        self.computed += [item.object_id for item in prompts.objects]
        return tuple(masks)


def open_desk(model=None, image=None, autosave_folder=None, heard=None):
    """A desk that is open and idle, and what it says."""
    heard = heard or Heard()
    desk = Desk(
        lambda progress: Session(model or RegionModel(), blocks_image() if image is None else image),
        heard,
        autosave_folder,
    )
    heard.wait(Opened)
    heard.wait(Idle)
    return desk, heard


def settle(desk, heard):
    """Waits until all is computed."""
    end = time.monotonic() + PATIENCE_S
    while desk.session.outdated():
        assert time.monotonic() < end, heard.events
        assert not heard.of(Failed), heard.of(Failed)
        time.sleep(0.005)
    expected = {item.object_id for item in desk.session.objects if desk.session.result(item.object_id)}
    while not all(desk.summary(number) for number in expected) or set(desk.canvas.shown) != expected:
        assert time.monotonic() < end
        time.sleep(0.005)
