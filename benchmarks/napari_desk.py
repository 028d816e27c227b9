"""How long an annotator waits in napari: previews, finished objects, a busy window, leaks.

    python benchmarks/napari_desk.py latency
    xvfb-run -a -s "-screen 0 1500x1000x24" python benchmarks/napari_desk.py delays
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
import sys
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
    """Waits for events of a desk and notes when they came, by the clock and in CPU time.

    Args:
        cpu: CPU time so far, in seconds.
    """

    def __init__(self, cpu=time.process_time):
        self.new = threading.Condition()
        self.events = []
        self.cpu = cpu

    def __call__(self, event):
        with self.new:
            self.events.append((event, time.perf_counter(), self.cpu()))
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
    """Prompts on slices that nobody looked at, so that nothing but the image is encoded; the model in either place."""
    import psutil

    from volseg.sessions.desk import local_session
    from volseg.sessions.worker import WorkerProcess, worker_session

    worker = WorkerProcess()

    def cpu():
        if worker.pid is None:
            return time.process_time()
        times = psutil.Process(worker.pid).cpu_times()
        return time.process_time() + times.user + times.system

    array, affine = phantom()

    def read():
        return image_of(array, affine)

    places = {
        "a process of its own": lambda: worker_session(worker, read, MODEL, device="cpu"),
        "this process": lambda: local_session(read, MODEL, device="cpu"),
    }
    found = {place: waits(session_of(), Watch(cpu), clicks) for place, session_of in places.items()}
    worker.close()
    return found


def waits(open_session, watch, clicks):
    """From a prompt to the first picture of its slice, and to the finished object."""
    from volseg.geometry import Frame
    from volseg.prompts import Box, Point
    from volseg.sessions.desk import Desk, Idle, Opened, Painted

    desk = Desk(open_session, watch)
    watch.wait(lambda event: isinstance(event, Opened))
    watch.wait(lambda event: isinstance(event, Idle))
    rng = np.random.default_rng(1)
    names = ("preview_s", "preview_cpu_s", "finished_s", "finished_cpu_s", "slices")
    rows = {kind: {name: [] for name in names} for kind in ("click", "correction", "box of 40 slices")}

    def measure(kind, number, prompt):
        watch.events.clear()
        start, cpu = time.perf_counter(), watch.cpu()
        desk.session.add_prompt(number, prompt)
        _, done, done_cpu = watch.wait(lambda event: isinstance(event, Idle))
        painted = [row for row in watch.events if isinstance(row[0], Painted)]
        # A correction of little is seen when it is done.
        _, seen, seen_cpu = next((row for row in painted if row[0].preview), painted[-1])
        slices = int(desk.mask(number).full().any(axis=(1, 2)).sum())
        values = (seen - start, seen_cpu - cpu, done - start, done_cpu - cpu, slices)
        for name, value in zip(names, values, strict=True):
            rows[kind][name].append(value)

    def anywhere():
        return int(rng.integers(85, 115)), 260 + int(rng.integers(-15, 15)), 300 + int(rng.integers(-15, 15))

    for _ in range(clicks):
        number = desk.session.add_object()
        measure("click", number, Point(anywhere(), Frame.IJK))
        measure("correction", number, Point(anywhere(), Frame.IJK))
        measure("correction", number, Point((anywhere()[0], 260, 352), Frame.IJK, False))
    for index in range(max(2, clicks // 4)):
        box = Box((80, 213 + index, 253 + index), (119, 307 + index, 347 + index), Frame.IJK)
        measure("box of 40 slices", desk.session.add_object(), box)
    desk.close()
    return {kind: {name: summary(values) for name, values in found.items()} for kind, found in rows.items()}


def open_window(model, source=None):
    import napari.viewer
    from napari_volseg.widget import AnnotateWidget
    from qtpy.QtCore import QEventLoop, QTimer

    viewer = napari.viewer.Viewer(show=True)
    viewer.window._qt_window.resize(1380, 900)
    widget = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(widget, name="volseg", area="right")
    array, affine = source if source is not None else phantom((60, 256, 256), (20, 40))
    layer = viewer.add_image(array, scale=(2.5, 0.8, 0.8), metadata={"volseg_affine_ras": affine})

    def wait(condition, seconds=600):
        """Lets the event loop run as it does for a person."""
        loop, look, end = QEventLoop(), QTimer(), time.monotonic() + seconds
        look.setInterval(5)
        look.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > end else None)
        look.start()
        loop.exec()
        assert condition(), widget.status.text()

    wait(lambda: widget.model_box.count() > 0)
    widget.model_box.setCurrentText(model)
    widget.open_image(layer)
    wait(lambda: widget.overlays is not None and all(one in viewer.layers for one in widget.overlays.layers))
    wait(lambda: not widget.progress.isVisible())
    return viewer, widget, layer, wait


def loop_delays(predict, wait, settled, count=6):
    """How late a timer of 10 ms fires while ``predict`` works, and how long each of its answers takes, in seconds."""
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
    start = last[0] = time.perf_counter()
    for one in range(count):
        predict(one)
        wait(settled)
    timer.stop()
    return delays, (time.perf_counter() - start) / count


def sleeping(monkey, engine):
    """Makes models sleep for as long as they would work, show the same masks and report the same progress meanwhile."""
    real = engine.segment
    known = {}

    def segment(self, options, prompts, **choices):
        key = prompts.dumps()
        start = time.perf_counter()
        if not monkey["sleep"]:
            said = []

            def noted(name):
                def tell(*what):
                    said.append((time.perf_counter() - start, name, what))
                    return choices[name](*what)

                return tell

            result = real(
                self, options, prompts, **{**choices, **{name: noted(name) for name in ("partial", "progress")}}
            )
            known[key] = (time.perf_counter() - start, said, result)
            return result
        seconds, said, result = known[key]
        for at, name, what in said:
            time.sleep(max(0.0, at - (time.perf_counter() - start)))
            choices[name](*what)
        time.sleep(max(0.0, seconds - (time.perf_counter() - start)))
        return result

    engine.segment = segment


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


def delays(clicks, repeats, wanted):
    """The event loop's delays while a model predicts, in either place, and while one sleeps that answers the same.

    Each repetition predicts on new objects and then sleeps over the same ones; the first only warms up.
    """
    from napari_volseg import opening

    from volseg.geometry import Frame
    from volseg.prompts import Point
    from volseg.sessions.desk import local_session
    from volseg.sessions.engine import LocalEngine
    from volseg.sessions.worker import WorkerEngine

    def in_the_windows_process(process, read, model, **choices):
        return local_session(read, model, **choices)

    found = {}
    places = {"own": opening.worker_session, "window": in_the_windows_process}
    for place, session_of in places.items():
        if place not in wanted:
            continue
        monkey = {"sleep": False}
        sleeping(monkey, WorkerEngine if session_of is opening.worker_session else LocalEngine)
        real, opening.worker_session = opening.worker_session, session_of
        viewer, widget, _, wait = open_window(MODEL)
        opening.worker_session = real
        session, rows = widget.session, {"predicting": [], "sleeping": []}

        def settled(session=session, widget=widget):
            return not session.outdated() and not widget.progress.isVisible()

        for repeat in range(repeats + 1):

            def click(index, widget=widget, first=repeat * clicks):
                local = np.random.default_rng(first + index)
                position = (int(local.integers(24, 36)), int(local.integers(110, 150)), int(local.integers(110, 150)))
                widget.new_object()
                widget.add_prompt(Point(position, Frame.IJK))

            for name, one in rows.items():
                monkey["sleep"] = name == "sleeping"
                one.append(loop_delays(click, wait, settled, clicks))
                for _ in range(2 * clicks):
                    session.undo()
                wait(settled)
                session._results.clear()
        found[place] = of_repetitions({name: one[1:] for name, one in rows.items()})
        viewer.close()
    return found


def of_repetitions(rows):
    """Percentiles over all repetitions, of both, and by how much the 99th differs."""
    found = {}
    for name, repetitions in rows.items():
        pooled = np.concatenate([one for one, _ in repetitions])
        middle = {f"p{q}": round(float(np.percentile(pooled, q)), 4) for q in (50, 90, 99)}
        found[name] = {
            "n": len(pooled),
            **middle,
            "every p99": [round(late(one), 4) for one, _ in repetitions],
            "s an answer": round(float(np.mean([seconds for _, seconds in repetitions])), 3),
        }
    rng, differences = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = rng.integers(len(rows["predicting"]), size=len(rows["predicting"]))
        one, other = (np.concatenate([rows[name][k][0] for k in drawn]) for name in ("predicting", "sleeping"))
        differences.append(late(one) - late(other))
    low, high = (round(float(np.percentile(differences, q)), 4) for q in (2.5, 97.5))
    return {**found, "p99 predicting less sleeping, 95 % over repetitions": [low, high]}


def late(delays):
    return float(np.percentile(delays, 99))


def memory_mib(process):
    """Resident memory of the window's process, and of the one that computes."""
    return [round(one.memory_info().rss / 2**20) for one in (process, *process.children())]


def window(prompts):
    """Callbacks of the plugin on the window's thread, and memory over many prompts."""
    import psutil
    from napari_volseg.bridge import CALLBACK_SECONDS

    from volseg.geometry import Frame
    from volseg.prompts import Point

    viewer, widget, _, wait = open_window(MODEL)
    opened = [row for row in CALLBACK_SECONDS]
    CALLBACK_SECONDS.clear()
    session, rng = widget.session, np.random.default_rng(0)

    def settled():
        return not session.outdated() and not widget.progress.isVisible()

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
            memory.append(memory_mib(process))
            print(number + 1, "prompts, MiB:", memory[-1], file=sys.stderr, flush=True)
    later = list(CALLBACK_SECONDS)
    viewer.close()
    return {
        "callbacks at opening": callbacks(opened),
        "callbacks later": callbacks(later),
        "resident MiB every 25 prompts, window and model": memory,
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
        left = [sum(row[index]() is not None for row in refs) for index in range(3)]
        print(len(memory), "rounds, MiB:", memory[-1], "left:", left, file=sys.stderr, flush=True)
    alive = [sum(row[index]() is not None for row in refs) for index in range(3)]
    time.sleep(2)  # threads and processes end by themselves
    return {
        "resident MiB": memory,
        "alive viewers, widgets, desks": alive,
        "threads": threading.active_count(),
        "processes": len(process.children()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["latency", "delays", "window", "rounds"])
    parser.add_argument("-n", type=int, default=None, help="clicks (20, delays 32), prompts (200) or rounds (20)")
    parser.add_argument("--repeats", type=int, default=5, help="of delays, taken together (5)")
    places = ["own", "window"]
    parser.add_argument("--processes", nargs="+", choices=places, default=places, help="where delays' models compute")
    parser.add_argument("--without-pauses", action="store_true", help="never step aside for the window")
    chosen = parser.parse_args()
    if chosen.without_pauses:
        from volseg.sessions.worker import WorkerProcess

        WorkerProcess.window_works = lambda *_: None
    work = {
        "latency": (latency, 20),
        "delays": (lambda clicks: delays(clicks, chosen.repeats, chosen.processes), 32),
        "window": (window, 200),
        "rounds": (rounds, 20),
    }
    run, count = work[chosen.part]
    print(json.dumps({chosen.part: run(chosen.n or count)}, indent=1))


if __name__ == "__main__":
    main()
