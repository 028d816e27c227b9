"""How long an annotator waits in napari: previews, finished objects, a busy window, leaks.

    python benchmarks/napari_desk.py latency
    xvfb-run -a -s "-screen 0 1500x1000x24" python benchmarks/napari_desk.py window
    xvfb-run -a -s "-screen 0 1500x1000x24" python benchmarks/napari_desk.py rounds

Beside the time by the clock stands the CPU time of the process (of the window's thread for callbacks): on a machine
that others use, the clock counts their work, too. What napari does when it is told to add or remove a layer stands in
rows of its own ("napari adds a layer"). Results are printed as JSON, one object a part.
"""

from __future__ import annotations

import argparse
import gc
import json
import threading
import time

import numpy as np

MODEL = "sam2-nano"


def phantom(shape=(200, 512, 512), slices=(80, 120)):
    """A CT torso with one bright cylinder of 40 slices; int16 [slices, rows, columns] and its affine."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    body = ((columns - 256) / 200) ** 2 + ((rows - 256) / 150) ** 2 < 1
    array = np.where(body, 40, -1000).astype(np.int16)[None].repeat(shape[0], axis=0)
    disc = (columns - 300) ** 2 + (rows - 260) ** 2 < 45**2
    array[slices[0] : slices[1], disc] = 180
    array += rng.normal(0, 10, (shape[1], shape[2])).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 2.5, -0.8, -0.8, 1.0
    return array, affine


def image_of(array, affine):
    import torch
    from monai.data import MetaTensor

    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine), meta={"modality": "CT"})


def summary(values):
    values = np.array(values)
    return {
        "n": len(values),
        "median": round(float(np.median(values)), 4),
        "p90": round(float(np.quantile(values, 0.9)), 4),
        "max": round(float(values.max()), 4),
    }


class Watch:
    """Waits for events of a desk and notes when they came, by the clock and in CPU time."""

    def __init__(self):
        self.new = threading.Condition()
        self.events = []

    def __call__(self, event):
        with self.new:
            self.events.append((event, time.perf_counter(), time.process_time()))
            self.new.notify_all()

    def wait(self, matches, seconds=600):
        with self.new:
            found = []

            def there():
                found[:] = [row for row in self.events if matches(row[0])]
                return bool(found)

            assert self.new.wait_for(there, seconds), self.events
            return found[0]


def latency(clicks):
    """Clicks on new objects: slices at other places, so that nothing but the image is encoded."""
    from volseg.geometry import Frame
    from volseg.prompts import Box, Point
    from volseg.sessions.desk import Desk, Idle, Opened, Painted, local_session

    array, affine = phantom()
    watch = Watch()
    desk = Desk(local_session(lambda: image_of(array, affine), MODEL, device="cpu"), watch)
    watch.wait(lambda event: isinstance(event, Opened))
    watch.wait(lambda event: isinstance(event, Idle))
    rng = np.random.default_rng(1)
    rows = {"preview_s": [], "preview_cpu_s": [], "finished_s": [], "finished_cpu_s": [], "slices": []}

    def measure(prompt):
        number = desk.session.add_object()
        watch.events.clear()
        start, cpu = time.perf_counter(), time.process_time()
        desk.session.add_prompt(number, prompt)
        _, seen, seen_cpu = watch.wait(lambda event: isinstance(event, Painted) and event.preview)
        _, done, done_cpu = watch.wait(lambda event: isinstance(event, Idle))
        slices = int(desk.mask(number).full().any(axis=(1, 2)).sum())
        return seen - start, seen_cpu - cpu, done - start, done_cpu - cpu, slices

    for _ in range(clicks):
        k = int(rng.integers(85, 115))
        position = (k, 260 + int(rng.integers(-15, 15)), 300 + int(rng.integers(-15, 15)))
        for key, value in zip(rows, measure(Point(position, Frame.IJK)), strict=True):
            rows[key].append(value)
    boxed = {key: [] for key in rows}
    for index in range(max(2, clicks // 4)):
        box = Box((80, 213 + index, 253 + index), (119, 307 + index, 347 + index), Frame.IJK)
        for key, value in zip(boxed, measure(box), strict=True):
            boxed[key].append(value)
    desk.close()
    return {
        "click": {key: summary(values) for key, values in rows.items()},
        "box of 40 slices": {key: summary(values) for key, values in boxed.items()},
    }


def open_window(model, source=None):
    import napari.viewer
    from napari_volseg.widget import AnnotateWidget
    from qtpy.QtWidgets import QApplication

    viewer = napari.viewer.Viewer(show=True)
    viewer.window._qt_window.resize(1380, 900)
    widget = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(widget, name="volseg", area="right")
    array, affine = source if source is not None else phantom((60, 256, 256), (20, 40))
    layer = viewer.add_image(array, scale=(2.5, 0.8, 0.8), metadata={"volseg_affine_ras": affine})

    def wait(condition, seconds=600):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, widget.status.text()
            QApplication.processEvents()
            time.sleep(0.001)

    wait(lambda: widget.model_box.count() > 0)
    widget.model_box.setCurrentText(model)
    widget.open_image(layer)
    wait(lambda: widget.overlays is not None and all(one in viewer.layers for one in widget.overlays.layers))
    wait(lambda: not widget.progress.isVisible())
    return viewer, widget, layer, wait


def loop_delays(predict, wait, settled):
    """How late a timer of 10 ms fires while ``predict`` works, in seconds."""
    from qtpy.QtCore import QTimer

    delays, last = [], [time.perf_counter()]

    def tick():
        now = time.perf_counter()
        delays.append(max(0.0, now - last[0] - 0.01))
        last[0] = now

    timer = QTimer()
    timer.setInterval(10)
    timer.timeout.connect(tick)
    timer.start()
    last[0] = time.perf_counter()
    for one in range(6):
        predict(one)
        wait(settled)
    timer.stop()
    return {"n": len(delays), "p50": float(np.quantile(delays, 0.5)), "p99": float(np.quantile(delays, 0.99))}


def sleeping(monkey):
    """Makes models sleep for as long as they would work, and answer with the same masks."""
    from volseg.sessions.engine import LocalEngine

    real = LocalEngine.segment
    known = {}

    def segment(self, options, prompts, **choices):
        key = prompts.dumps()
        if not monkey["sleep"]:
            start = time.perf_counter()
            shown = []
            partial = choices.pop("partial")

            def keep(mask):
                shown.append((time.perf_counter() - start, mask))
                partial(mask)

            result = real(self, options, prompts, partial=keep, **choices)
            known[key] = (time.perf_counter() - start, shown, result)
            return result
        seconds, shown, result = known[key]
        start = time.perf_counter()
        for at, mask in shown:
            time.sleep(max(0.0, at - (time.perf_counter() - start)))
            choices["partial"](mask)
        time.sleep(max(0.0, seconds - (time.perf_counter() - start)))
        return result

    LocalEngine.segment = segment


def callbacks(rows):
    """What kept the window busy: the plugin's callbacks, and apart from them what napari itself did inside of them."""
    ours = [row for row in rows if not row[0].startswith("napari ")]
    by_name = {}
    for name, _, work in rows:
        by_name.setdefault(name, []).append(work)
    return {
        "n": len(ours),
        "over 50 ms by the clock": sum(seconds > 0.05 for _, seconds, _ in ours),
        "over 50 ms of work": sum(work > 0.05 for _, _, work in ours),
        "work by name, s": {name: summary(work) for name, work in sorted(by_name.items())},
    }


def window(prompts):
    """Callbacks of the plugin on the window's thread, the event loop's delays, and memory over many prompts."""
    import psutil
    from napari_volseg.bridge import CALLBACK_SECONDS

    from volseg.geometry import Frame
    from volseg.prompts import Point

    monkey = {"sleep": False}
    sleeping(monkey)
    viewer, widget, _, wait = open_window(MODEL)
    opened = [row for row in CALLBACK_SECONDS]
    CALLBACK_SECONDS.clear()
    session, rng = widget.session, np.random.default_rng(0)

    def settled():
        return not session.outdated() and not widget.progress.isVisible()

    def click(index):
        local = np.random.default_rng(index)
        position = (int(local.integers(24, 36)), int(local.integers(110, 150)), int(local.integers(110, 150)))
        widget.new_object()
        widget.add_prompt(Point(position, Frame.IJK))

    delays = {"predicting": loop_delays(click, wait, settled)}
    for _ in range(12):
        session.undo()
    wait(settled)
    widget.desk.session._results.clear()
    monkey["sleep"] = True
    delays["sleeping"] = loop_delays(click, wait, settled)
    monkey["sleep"] = False
    process = psutil.Process()
    memory = []
    for number in range(prompts):
        if number % 20 == 0:
            widget.new_object()
        position = tuple(int(rng.integers(low, high)) for low, high in ((24, 36), (110, 150), (110, 150)))
        widget.add_prompt(Point(position, Frame.IJK, bool(number % 20 == 0 or rng.integers(2))))
        wait(settled)
        if number % 25 == 24:
            gc.collect()
            memory.append(round(process.memory_info().rss / 2**20))
    later = list(CALLBACK_SECONDS)
    viewer.close()
    return {
        "callbacks at opening": callbacks(opened),
        "callbacks later": callbacks(later),
        "event loop delay, s": delays,
        "resident MiB every 25 prompts": memory,
    }


def rounds(count):
    """Windows opened and closed again and again."""
    import weakref

    import psutil
    from qtpy.QtWidgets import QApplication

    process, memory, refs = psutil.Process(), [], []
    source = phantom((60, 256, 256), (20, 40))
    for _ in range(count):
        viewer, widget, layer, wait = open_window(MODEL, source)
        widget.new_object()
        refs.append((weakref.ref(viewer), weakref.ref(widget), weakref.ref(widget.desk)))
        viewer.close()
        del viewer, widget, layer, wait
        for _ in range(20):
            QApplication.processEvents()
        gc.collect()
        memory.append(round(process.memory_info().rss / 2**20))
    alive = [sum(row[index]() is not None for row in refs) for index in range(3)]
    return {"resident MiB": memory, "alive viewers, widgets, desks": alive, "threads": threading.active_count()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["latency", "window", "rounds"])
    parser.add_argument("-n", type=int, default=None, help="clicks (20), prompts (200) or rounds (20)")
    chosen = parser.parse_args()
    work = {"latency": (latency, 20), "window": (window, 200), "rounds": (rounds, 20)}
    run, count = work[chosen.part]
    print(json.dumps({chosen.part: run(chosen.n or count)}, indent=1))


if __name__ == "__main__":
    main()
