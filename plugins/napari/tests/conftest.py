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

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("QT_API", "pyqt6")
# A software renderer, the same on every machine.
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")


def pytest_configure(config):
    """Starts an X server where there is no display; real windows need one."""
    if os.environ.get("DISPLAY") or sys.platform != "linux" or shutil.which("Xvfb") is None:
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
