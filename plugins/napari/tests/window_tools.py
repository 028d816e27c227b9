"""A person at the window: mouse on the canvas, keys, buttons."""

from __future__ import annotations

import time

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

PATIENCE_S = 300
NO_KEY = Qt.KeyboardModifier.NoModifier
CTRL = Qt.KeyboardModifier.ControlModifier


class Hand:
    """Uses a viewer with the widget in it as a person does.

    Attributes:
        viewer: a real napari window.
        widget: docked in it.
    """

    def __init__(self, viewer, widget):
        self.viewer = viewer
        self.widget = widget

    # ---- waiting

    def wait(self, condition, patience_s=PATIENCE_S, why=""):
        end = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < end, f"{why or 'it did not happen'}; the widget says: {self.widget.status.text()}"
            QApplication.processEvents()
            time.sleep(0.002)

    def pause(self, seconds=0.05):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.002)

    def settle(self):
        """Until all that was said is computed and seen."""
        self.pause(0.03)
        desk = self.widget.desk
        self.wait(lambda: not desk.session.outdated(), why="the prediction did not end")
        self.wait(
            lambda: all(desk.summary(i.object_id) for i in desk.session.objects if desk.session.result(i.object_id)),
            why="the result was not painted",
        )
        self.wait(lambda: not self.widget.progress.isVisible(), why="the progress bar stays")
        self.pause(0.03)

    def open(self, layer, model=None):
        """Chooses model and image in the widget."""
        self.wait(lambda: self.widget.model_box.count() > 0, why="no models were listed")
        if model is not None:
            self.widget.model_box.setCurrentText(model)
        index = next(i for i in range(self.widget.image_box.count()) if self.widget.image_box.itemData(i) is layer)
        self.widget.image_box.setCurrentIndex(index)
        self.widget.image_box.activated.emit(index)
        self.wait(lambda: self.widget.overlays is not None, why="the image was not opened")
        ours = self.widget.overlays.layers
        self.wait(lambda: all(layer in self.viewer.layers for layer in ours), why="the layers did not come")
        self.wait(lambda: not self.widget.progress.isVisible(), why="it was not encoded")

    # ---- the canvas

    @property
    def canvas(self):
        return self.viewer.window._qt_viewer.canvas.native

    def go_to_slice(self, world_position):
        """Moves the sliders; the two axes on the screen stay."""
        for axis in self.viewer.dims.not_displayed:
            self.viewer.dims.set_point(axis, world_position[axis])
        self.pause()

    def pixel(self, world_position):
        """Where a position in the world is on the canvas."""
        camera, shown = self.viewer.camera, self.viewer.dims.displayed
        offset = (np.asarray(world_position)[list(shown)] - np.array(camera.center)[-2:]) * camera.zoom
        size = self.canvas.size()
        return QPoint(round(size.width() / 2 + offset[1]), round(size.height() / 2 + offset[0]))

    def click(self, world_position, modifier=NO_KEY):
        self.go_to_slice(world_position)
        at = self.pixel(world_position)
        assert self.canvas.rect().contains(at), f"{at} is beside the canvas"
        QTest.mouseMove(self.canvas, at)
        QTest.mousePress(self.canvas, Qt.MouseButton.LeftButton, modifier, at)
        QTest.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, modifier, at)
        self.pause()

    def drag(self, *world_positions, modifier=NO_KEY):
        """Presses at the first position, moves over the others, releases at the last."""
        self.go_to_slice(world_positions[0])
        pixels = [self.pixel(position) for position in world_positions]
        QTest.mouseMove(self.canvas, pixels[0])
        QTest.mousePress(self.canvas, Qt.MouseButton.LeftButton, modifier, pixels[0])
        for pixel in pixels[1:]:
            move(self.canvas, pixel, modifier)
            self.pause(0.01)
        QTest.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, modifier, pixels[-1])
        self.pause()

    def key(self, key, modifier=NO_KEY):
        # Shortcuts belong to the active window. Qt is told which it is: there is no window manager to ask, and the X
        # server's own answer comes when it likes.
        QApplication.setActiveWindow(self.viewer.window._qt_window)
        self.canvas.setFocus()
        QTest.keyClick(self.canvas, key, modifier)
        self.pause()

    def press(self, button):
        assert button.isEnabled(), f"{button.text()} is greyed: {button.toolTip()}"
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        self.pause()

    # ---- what is seen

    def shown(self, object_id):
        """The voxels [I, J, K] that the result layer shows as an object."""
        return np.asarray(self.widget.desk.canvas.array) == object_id


def move(canvas, pixel, modifier):
    """A mouse move with the left button held; QTest's own moves forget the button."""
    from qtpy.QtCore import QEvent, QPointF
    from qtpy.QtGui import QMouseEvent

    event = QMouseEvent(
        QEvent.Type.MouseMove,
        QPointF(pixel),
        QPointF(canvas.mapToGlobal(pixel)),
        Qt.MouseButton.LeftButton,
        Qt.MouseButton.LeftButton,
        modifier,
    )
    QApplication.sendEvent(canvas, event)
