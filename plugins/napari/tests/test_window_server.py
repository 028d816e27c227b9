"""The widget with a server in a process of its own, on loopback."""

from __future__ import annotations

import numpy as np
import pytest
from napari_volseg import opening
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLineEdit
from region_model import RegionModel

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("httpx", reason="needs the extra 'server'")
from server_process import TOKEN, ServerProcess

from volseg.data import read_labelmap
from volseg.sessions import Session

A, B = 100, 200


def two_blocks():
    """[12, 40, 50] with block A at 2..7, 8..19, 10..24 and block B at 4..9, 22..33, 30..43."""
    values = np.zeros((12, 40, 50), dtype=np.int16)
    values[2:8, 8:20, 10:25] = A
    values[4:10, 22:34, 30:44] = B
    return values


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    one = ServerProcess(tmp_path / "server").start()
    yield one
    one.gate.unlink(missing_ok=True)
    one.kill()


@pytest.fixture
def hand(open_window, monkeypatch):
    """On this machine every model is the one that the server calls ``region``."""
    monkeypatch.setattr(
        opening,
        "worker_session",
        lambda process, read, name, **choices: lambda progress: Session(RegionModel(), read()),
    )
    hand = open_window()
    hand.layer = hand.viewer.add_image(two_blocks(), name="blocks", scale=(3, 1, 1), contrast_limits=(0, 255))
    hand.pause()
    hand.wait(lambda: hand.widget.model_box.count() > 0, why="no models were listed")
    return hand


def choose_device(hand, name):
    box = hand.widget.device_box
    box.setCurrentText(name)
    box.activated.emit(box.currentIndex())
    hand.pause()


def connect(hand, url, token=TOKEN):
    choose_device(hand, "server")
    panel = hand.widget.server
    assert panel.isVisible()
    panel.url_line.setText(url)
    panel.token_line.setText(token)
    hand.press(panel.connect_button)
    hand.wait(panel.connect_button.isEnabled, why="the server did not answer")


def at(hand, *ijk):
    return hand.layer.data_to_world(ijk)


def segment(hand, folder):
    """Two objects by clicks; the exported label map."""
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    hand.key(Qt.Key.Key_O)
    hand.click(at(hand, 6, 28, 35))
    hand.settle()
    hand.widget.export(folder / "out.nii.gz")
    hand.wait(lambda: "wrote" in hand.widget.status.text(), why="it was not exported")
    return read_labelmap(folder / "out.nii.gz")


def test_label_maps_are_those_of_this_machine_and_the_token_is_not_shown(hand, server, tmp_path):
    connect(hand, server.url)
    widget = hand.widget
    assert [widget.model_box.itemText(i) for i in range(widget.model_box.count())] == [
        "region",
        "random-walker",
        "broken",
    ]
    assert "connected; 3 models" in widget.server.state_label.text()
    assert widget.server.token_line.echoMode() is QLineEdit.EchoMode.Password
    assert TOKEN not in repr(widget.server.address)
    hand.open(hand.layer, "region")
    assert type(widget.session.engine).__name__ == "RemoteEngine"
    assert not widget.tool_buttons["lasso"].isEnabled(), "the card came from the server"
    far = segment(hand, tmp_path)
    # The session goes on here, with the same objects.
    there = widget.desk
    choose_device(hand, "cpu")
    hand.wait(lambda: widget.desk is not there and widget.desk.is_open, why="it was not opened here")
    hand.wait(lambda: len(widget.session.history) == 2, why="the session was not carried over")
    assert type(widget.session.engine).__name__ == "LocalEngine"
    assert not widget.server.isVisible()
    hand.settle()
    widget.export(tmp_path / "near.nii.gz")
    hand.wait(lambda: "near" in widget.status.text(), why="it was not exported")
    near = read_labelmap(tmp_path / "near.nii.gz")
    np.testing.assert_array_equal(far.array, near.array)
    np.testing.assert_array_equal(far.grid.affine_ras, near.grid.affine_ras)
    expected = np.where(two_blocks() == A, 1, np.where(two_blocks() == B, 2, 0))
    np.testing.assert_array_equal(near.reoriented("SPL").array, far.reoriented("SPL").array)
    assert (widget.desk.canvas.array == expected).all()


def test_a_lost_server_is_shown_and_work_goes_on_when_it_is_back(hand, server):
    connect(hand, server.url)
    hand.open(hand.layer, "region")
    widget = hand.widget
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    server.gate.touch()
    hand.key(Qt.Key.Key_O)
    hand.click(at(hand, 6, 28, 35))
    hand.wait(lambda: "waiting for" in widget.progress.format(), why="it does not compute")
    server.kill()
    hand.wait(lambda: "lost" in widget.server.state_label.text(), why="nothing was said of the loss")
    assert "cannot be reached" in widget.status.text()
    # Prompts are still taken, and undone, without a server.
    hand.click(at(hand, 5, 30, 40))
    assert len(widget.session.history) == 3
    hand.press(widget.undo_button)
    server.gate.unlink()
    server.start()
    hand.wait(lambda: "connected;" in widget.server.state_label.text(), why="it was not reached again")
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == A)
    np.testing.assert_array_equal(hand.shown(2), hand.layer.data == B)


def test_an_image_that_is_chosen_while_the_server_is_away_opens_when_it_is_back(hand, server):
    connect(hand, server.url)
    server.kill()
    widget = hand.widget
    widget.model_box.setCurrentText("region")
    widget.open_image(hand.layer)
    hand.wait(lambda: "lost" in widget.server.state_label.text(), why="nothing was said of the loss")
    assert not widget.desk.is_open
    assert "being opened" in widget.tool_buttons["point"].toolTip()
    server.start()
    hand.wait(lambda: widget.desk.is_open, why="it was not opened")
    hand.wait(lambda: widget.tool_buttons["point"].isEnabled())
    # And where the person would rather not wait, they are told and the window is as before.
    server.kill()
    widget.open_image(hand.layer)
    hand.wait(lambda: "lost" in widget.server.state_label.text())
    hand.wait(widget.cancel_button.isEnabled)
    hand.press(widget.cancel_button)
    hand.wait(lambda: widget.desk is None, why="it was not given up")
    assert "cannot be reached" in widget.status.text()


def test_refusals_are_said_and_lose_nothing(hand, server):
    connect(hand, server.url, token="wrong")
    assert "token is missing or wrong" in hand.widget.status.text()
    assert hand.widget.model_box.count() == 0
    connect(hand, "http://127.0.0.1:1")
    assert "cannot be reached" in hand.widget.status.text()
    choose_device(hand, "cpu")
    hand.open(hand.layer)
    hand.key(Qt.Key.Key_P)
    hand.click(at(hand, 5, 12, 15))
    hand.settle()
    # To a server whose model cannot be loaded: the objects are kept for another try.
    connect(hand, server.url)
    hand.widget.model_box.setCurrentText("broken")
    hand.widget.model_box.activated.emit(2)
    hand.wait(lambda: "damaged" in hand.widget.status.text(), why="the failure was not said")
    hand.wait(lambda: "objects are kept" in hand.widget.status.text(), patience_s=20, why="nothing is said of objects")
    hand.widget.model_box.setCurrentText("region")
    hand.open(hand.layer)
    hand.wait(hand.widget.recover_bar.isVisible, why="the work was not offered")
    hand.press(hand.widget.recover_button)
    hand.wait(lambda: len(hand.widget.session.history) == 1)
    hand.settle()
    np.testing.assert_array_equal(hand.shown(1), hand.layer.data == A)
