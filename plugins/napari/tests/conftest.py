"""A display to click in, and the helpers of volseg's own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "tests"))
sys.path.insert(0, str(REPOSITORY / "tests" / "desk"))
sys.path.insert(0, str(REPOSITORY / "tests" / "server"))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("QT_API", "pyqt6")
# A software renderer, the same on every machine.
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")


def pytest_configure(config):
    """Starts an X server of this process's own, where there is one: windows that share a display take each other's
    focus."""
    controls_others = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if controls_others or sys.platform != "linux" or shutil.which("Xvfb") is None:
        return
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1500x1000x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as answer:
        number = answer.readline().strip()
    if not number:
        raise RuntimeError("Xvfb did not start")
    os.environ["DISPLAY"] = f":{number}"
    config.stash[SERVER] = server


def pytest_unconfigure(config):
    """Ends the X server that was started here."""
    server = config.stash.get(SERVER, None)
    if server is not None:
        time.sleep(0.1)
        server.terminate()
        server.wait(10)


SERVER = pytest.StashKey[subprocess.Popen]()


@pytest.fixture(scope="session")
def display():
    """Skips where there can be no window at all; everywhere else a window that does not open is a failure."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and shutil.which("Xvfb") is None:
        pytest.skip("there is no display and Xvfb is not installed (Debian: apt install xvfb)")
    os.environ["QT_QPA_PLATFORM"] = "xcb" if sys.platform == "linux" else os.environ.get("QT_QPA_PLATFORM", "")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public volumes beside the checkout; tests that need them are skipped where there are none."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the public volumes in ../shared/data, which stand beside a developer's checkout only")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Autosaves and encodings of a test are its own; so are napari's settings."""
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def open_window(display):
    """Makes napari windows with the widget docked; they are closed at the end, and nothing of them may stay."""
    import gc
    import threading

    import napari.viewer
    from qtpy.QtGui import QCursor, QGuiApplication
    from qtpy.QtWidgets import QApplication
    from window_tools import Hand

    hands = []
    before = set(threading.enumerate())

    def make(show_viewer=True):
        viewer = napari.viewer.Viewer(show=show_viewer)
        viewer.window._qt_window.resize(1380, 900)
        # Out of the window: the X server reports its own pointer, too, which would end drags of the tests.
        QCursor.setPos(QGuiApplication.primaryScreen().geometry().bottomRight())
        # As the menu does, which hands the widget a proxy of the viewer.
        _, widget = viewer.window.add_plugin_dock_widget("napari-volseg", "Segment by clicks")
        hand = Hand(viewer, widget)
        hand.pause(0.1)
        hands.append(hand)
        return hand

    yield make
    for hand in hands:
        # See AnnotateWidget._before_layer_removed: another window's painting must not suffer.
        hand.canvas.makeCurrent()
        hand.viewer.close()
    hands.clear()
    for _ in range(20):
        QApplication.processEvents()
        gc.collect(0)
    # The last lives as long as the process that computes.
    ours = {"volseg-desk", "volseg-clerk", "volseg-worker"}
    end = time.monotonic() + 10
    while any(thread.name in ours for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < end, "a closed window left a desk or its process at work"
        time.sleep(0.02)


@pytest.fixture
def region_model(monkeypatch):
    """Every model computes the connected voxels of the clicked intensity, which can be checked by hand."""
    from napari_volseg import opening
    from region_model import RegionModel

    from volseg.sessions import Session

    model = RegionModel()

    def session(process, read, name, **choices):
        return lambda progress: Session(model, read(), choices.get("options"))

    monkeypatch.setattr(opening, "worker_session", session)
    return model
