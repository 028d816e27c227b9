"""Whoever computes is told when the window's thread works."""

from __future__ import annotations

import threading
import time

import pytest


@pytest.fixture
def application(display):
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


def test_busy_while_an_event_is_handled_and_at_rest_in_between(application):
    from napari_volseg.bridge import BusyWatch
    from qtpy.QtCore import QEventLoop, QTimer

    now = [False]
    watch = BusyWatch(lambda busy: now.__setitem__(0, busy))
    seen = []

    def work():
        seen.append(now[0])
        time.sleep(0.02)
        seen.append(now[0])

    loop = QEventLoop()
    timer = QTimer()
    timer.timeout.connect(work)
    timer.start(50)
    # Looks while the loop has nothing to do, from another thread.
    resting = []

    def look():
        for _ in range(100):
            time.sleep(0.005)
            resting.append(now[0])

    other = threading.Thread(target=look)
    other.start()
    QTimer.singleShot(600, loop.quit)
    loop.exec()
    other.join()
    timer.stop()
    assert len(seen) >= 10
    assert all(seen)
    assert resting.count(False) > resting.count(True) > 10
    watch.close()
    assert now == [False]
    QTimer.singleShot(20, loop.quit)
    loop.exec()
    assert now == [False], "it says nothing any more"
