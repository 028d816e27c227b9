"""The mouse on the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_volseg.bridge import callback
from napari_volseg.geometry import world_from_data
from napari_volseg.handles import Grip, closed, dragged, grips_of, shape_of
from napari_volseg.state import WidgetState
from napari_volseg.tools import TOOLS, Tool, prompt_of_stroke, reason_against
from volseg.errors import CapabilityError, SessionError
from volseg.sessions import HistoryEntry

GRAB_PIXELS = 10
"""A prompt is grabbed by the mouse within so many pixels on the screen."""


class Drawing(WidgetState):
    """The tools: drawing prompts, moving them, painting on the result."""

    @callback
    def use_tool(self, tool: Tool | None) -> None:
        """What the mouse does from now on; None gives it back to napari."""
        tool = None if tool is None else Tool(tool)
        if tool is not None and (self._desk is None or not self._desk.is_open):
            raise SessionError("choose an image first")
        card = self._card()
        if tool is not None and card is not None:
            reason = reason_against(tool, card, self.positive)
            if reason is not None:
                self.tool_buttons[tool].setChecked(False)
                raise CapabilityError(reason)
        self._tool = tool
        for other, button in self.tool_buttons.items():
            button.setChecked(other is tool)
        overlays = self._overlays
        viewer = self._viewer_ref()
        if overlays is None or viewer is None or overlays.labels not in viewer.layers:
            return
        overlays.labels.mode = "pan_zoom"
        if tool is Tool.BRUSH:
            self._active_or_new()
            viewer.layers.selection = {overlays.labels}
            overlays.labels.n_edit_dimensions = 2
            overlays.labels.selected_label = self._brush_value()
            overlays.labels.mode = "paint"
        elif self._layer is not None and (tool is not None or overlays.labels in viewer.layers.selection):
            # A layer in a drawing mode of its own would draw at the same time.
            viewer.layers.selection = {self._layer}
            self._layer.mode = "pan_zoom"
        if tool is not None:
            self.say(TOOLS[tool].hint)
        elif self.status.text() in {description.hint for description in TOOLS.values()}:
            self.say("")

    def _brush_value(self) -> int:
        active = self.objects.active
        return active if active is not None and self.positive else 0

    @callback
    def toggle_sign(self) -> None:
        """Positive to negative, or back."""
        (self.negative_button if self.positive else self.positive_button).setChecked(True)
        if self._overlays is not None and self._tool is Tool.BRUSH:
            self._overlays.labels.selected_label = self._brush_value()

    def _on_drag(self, event: Any) -> Iterator[None] | None:
        tool = self._tool
        if tool is None or tool is Tool.BRUSH or event.button != 1 or self._layer is None or self._volume is None:
            return None
        if self._desk is None or not self._desk.is_open or "Shift" in event.modifiers:
            return None
        event.handled = True
        if self.viewer.dims.ndisplay == 3:
            self.say("in 3D a click does not say how deep it is meant; go back to 2D (the square button) to draw")
            return None
        return self._move(event) if tool is Tool.MOVE else self._draw(tool, event)

    def _draw(self, tool: Tool, event: Any) -> Iterator[None]:
        assert self._layer is not None
        assert self._volume is not None
        layer, volume = self._layer, self._volume
        positive = self.positive != ("Control" in event.modifiers)
        stroke = [volume.ijk_of_world(layer, self._in_layer_units(event.position))]
        yield
        while event.type == "mouse_move":
            event.handled = True
            stroke.append(volume.ijk_of_world(layer, self._in_layer_units(event.position)))
            if tool is not Tool.POINT:
                self._on_stroke(tool, stroke)
            yield
        event.handled = True
        if tool is Tool.BOX and len(stroke) > 1:
            # Where the button was let go counts, not where the last move was reported.
            stroke.append(volume.ijk_of_world(layer, self._in_layer_units(event.position)))
        self._on_drawn(tool, stroke, positive)

    @callback
    def _on_stroke(self, tool: Tool, stroke: list[Any]) -> None:
        """Shows what is being drawn."""
        if self._overlays is None:
            return
        points = np.array(stroke)
        if self._axis is not None and self._volume is not None:
            points[:, self._axis] = self._volume.grid.nearest_voxels(points[0])[self._axis]
        if tool is Tool.BOX:
            points = self._rectangle(points[0], points[-1])
        lines = closed(points) if tool in (Tool.BOX, Tool.LASSO) else np.stack([points[:-1], points[1:]], axis=1)
        self._overlays.show_draft(lines)

    def _rectangle(self, a: Any, b: Any) -> Any:
        axis = 0 if self._axis is None else self._axis
        first, second = (other for other in range(3) if other != axis)
        corners = np.tile(a, (4, 1))
        corners[1:3, first] = b[first]
        corners[2:4, second] = b[second]
        return corners

    @callback
    def _on_drawn(self, tool: Tool, stroke: list[Any], positive: bool) -> None:
        if self._overlays is not None:
            self._overlays.show_draft(np.zeros((0, 2, 3)))
        assert self._volume is not None
        if tool is Tool.POINT:
            stroke = stroke[-1:] if len(stroke) < 2 else stroke[:1]
        prompt = prompt_of_stroke(tool, np.array(stroke), self._volume.grid, self._axis, positive)
        self.add_prompt(prompt)

    def _move(self, event: Any) -> Iterator[None]:
        assert self._layer is not None
        assert self._volume is not None
        layer, volume = self._layer, self._volume
        start = volume.ijk_of_world(layer, self._in_layer_units(event.position))
        grabbed = self._grab(start)
        if grabbed is None:
            self.say("there is no prompt to grab here; go to its slice by choosing it in the list")
            return
        entry, grip = grabbed
        self.say(f"moving prompt {entry.entry_id} …")
        yield
        while event.type == "mouse_move":
            event.handled = True
            here = volume.ijk_of_world(layer, self._in_layer_units(event.position))
            self._on_moving(entry, grip, here - start)
            yield
        event.handled = True
        # Where the button was let go counts, not where the last move was reported.
        here = volume.ijk_of_world(layer, self._in_layer_units(event.position))
        self._on_moved(entry, grip, here - start)

    def _grab(self, at_ijk: Any) -> tuple[HistoryEntry, Grip] | None:
        """The nearest grip within reach; the chosen prompt's before others."""
        assert self._layer is not None
        assert self._volume is not None
        volume, viewer = self._volume, self.viewer
        matrix = world_from_data(self._layer)[:-1, :-1]
        reach = GRAB_PIXELS / viewer.scene.camera.zoom
        best: tuple[float, HistoryEntry, Grip] | None = None
        for entry in self.session.history:
            for grip in grips_of(entry.prompt, volume.grid, at_ijk, self._axis):
                step = matrix @ (volume.data_of(grip.at_ijk) - volume.data_of(at_ijk))
                distance = float(np.linalg.norm(step)) - (reach / 2 if entry.entry_id == self.history.entry else 0)
                if distance <= reach and (best is None or distance < best[0]):
                    best = distance, entry, grip
        return None if best is None else best[1:]

    @callback
    def _on_moving(self, entry: HistoryEntry, grip: Grip, by_ijk: Any) -> None:
        assert self._volume is not None
        moved = dragged(entry.prompt, grip, by_ijk, self._volume.grid)
        shape = shape_of(moved, self._volume.grid, self._axis)
        lines = shape.lines_ijk
        if shape.point_ijk is not None:
            cross = np.eye(3) * 0.02 * max(self._volume.grid.shape)
            lines = np.stack([shape.point_ijk - cross, shape.point_ijk + cross], axis=1)
        if self._overlays is not None:
            self._overlays.show_draft(lines)

    @callback
    def _on_moved(self, entry: HistoryEntry, grip: Grip, by_ijk: Any) -> None:
        assert self._volume is not None
        try:
            if np.abs(by_ijk).max() > 1e-6:
                self.session.edit_prompt(entry.entry_id, dragged(entry.prompt, grip, by_ijk, self._volume.grid))
                self.say(f"moved prompt {entry.entry_id}")
        finally:
            self._show_prompts()

    @callback
    def _on_paint(self, event: Any = None) -> None:
        """A stroke of the brush ended."""
        strokes = [] if event is None else event.value
        if self._desk is None or self._volume is None or self.objects.active is None or not strokes:
            return
        region = []
        for axis, size in zip(self._volume.axes, self._volume.grid.shape, strict=True):
            # Each dab begins with where it wrote: for each axis a slice, an index or many.
            parts = [] if axis is None else [np.ravel(np.arange(size)[dab[0][axis]]) for dab in strokes]
            touched = np.concatenate(parts or [[0]])
            region.append(slice(int(touched.min()), int(touched.max()) + 1))
        self._desk.correct(self.objects.active, tuple(region))
