"""The docked widget: one image, one model, prompts with the mouse, objects that can be taken up again."""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QGuiApplication, QKeySequence, QShortcut
from qtpy.QtWidgets import QCompleter, QFileDialog, QWidget

from napari_volseg import opening
from napari_volseg.bridge import DeskBridge, callback
from napari_volseg.form import AnnotateForm
from napari_volseg.geometry import LayerVolume, world_from_data
from napari_volseg.handles import Grip, centre_of, closed, dragged, grips_of, shape_of
from napari_volseg.keys import FILE_AXCODES_KEY, PATH_KEY
from napari_volseg.models import ModelLoader
from napari_volseg.mouse import SliceView, slice_axis
from napari_volseg.overlays import Overlays, is_ours, user_layers
from napari_volseg.tools import TOOLS, Tool, extended_box, prompt_of_stroke, reason_against
from volseg.data.labelmap import OverlapPolicy
from volseg.errors import CapabilityError, PromptError, SessionError
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.prompts import Box, MaskPrompt, Prompt, PromptKind, Text
from volseg.sessions import HistoryEntry, Session
from volseg.sessions.desk import (
    Autosaved,
    Connected,
    Desk,
    DeskEvent,
    Disconnected,
    Exported,
    Failed,
    FoundAutosave,
    Idle,
    Opened,
    Painted,
    Saved,
    StateChanged,
    Working,
    autosave_folder,
    segment_command,
)
from volseg.transforms.windows import choose_window, parse_window

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

logger = logging.getLogger(__name__)

GRAB_PIXELS = 10
"""A prompt is grabbed by the mouse within so many pixels on the screen."""

SESSION_FILTER = "volseg session (*.json)"
EXPORT_FILTER = "3D Slicer segmentation (*.seg.nrrd);;NIfTI (*.nii.gz);;NRRD (*.nrrd);;MetaImage (*.mha)"


class _Ending:
    """What must end with the widget, whoever deletes it; knows nothing of the widget, so it keeps nothing alive."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def __call__(self, *_: object) -> None:
        while self.steps:
            self.steps.pop()()


class AnnotateWidget(AnnotateForm):
    """Segments by clicks in a napari viewer.

    All logic lives in a ``volseg.sessions.desk.Desk``; this class shows it and passes on what the person does. Layers
    of the person are only read; the widget adds three of its own over the image and takes them away at the end.

    Args:
        napari_viewer: given by napari.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer_ref = weakref.ref(napari_viewer)
        self._desk: Desk | None = None
        self._bridge: DeskBridge | None = None
        self._layer: Image | None = None
        self._volume: LayerVolume | None = None
        self._overlays: Overlays | None = None
        self._tool: Tool | None = None
        self._found: FoundAutosave | None = None
        self._session_path: Path | None = None
        self._after_save: Callable[[], None] | None = None
        self._resume_first: Path | None = None
        self._axis: int | None = None
        self._docked = False
        self._refused: Path | None = None
        self._ending = _Ending()
        self.destroyed.connect(self._ending)
        self._cards: dict[str, ModelCard] = {}
        self._loader = ModelLoader()
        self._loader.loaded.connect(self._on_models)
        self._ending.steps.append(self._loader.close)
        self._connect_form()
        self._connect_viewer()
        self._fill_images()
        self._loader.start()
        self._show_tools()

    # ---- what tests and scripts may look at

    @property
    def viewer(self) -> Viewer:
        """The viewer the widget is docked in."""
        viewer = self._viewer_ref()
        if viewer is None:
            raise SessionError("the window is closed")
        return viewer

    @property
    def desk(self) -> Desk | None:
        """What drives the session, None before an image was chosen."""
        return self._desk

    @property
    def overlays(self) -> Overlays | None:
        """The layers the widget added."""
        return self._overlays

    @property
    def session(self) -> Session:
        """The session; ``SessionError`` before it is open."""
        if self._desk is None:
            raise SessionError("choose an image first")
        return self._desk.session

    @property
    def tool(self) -> Tool | None:
        """What the mouse does."""
        return self._tool

    @property
    def positive(self) -> bool:
        """The sign of the next prompt."""
        return self.positive_button.isChecked()

    # ---- beginning

    def _connect_form(self) -> None:
        self.image_box.activated.connect(lambda _: self.open_image(self.image_box.currentData()))
        self.model_box.activated.connect(lambda _: self._reopen())
        self.device_box.activated.connect(lambda _: self._reopen())
        self.window_box.activated.connect(lambda _: self._on_window())
        for tool, button in self.tool_buttons.items():
            button.clicked.connect(lambda checked, tool=tool: self.use_tool(tool if checked else None))
        self.positive_button.toggled.connect(lambda _: self._show_tools())
        self.extend_button.clicked.connect(lambda: self.extend_box())
        self.text_line.returnPressed.connect(self.add_text)
        self.text_button.clicked.connect(lambda: self.add_text())
        self.mask_button.clicked.connect(lambda: self.use_mask())
        self.new_button.clicked.connect(lambda: self.new_object())
        self.remove_button.clicked.connect(lambda: self.remove_object())
        self.overlap_box.activated.connect(lambda _: self._on_overlap())
        self.objects.chosen.connect(self._on_object_chosen)
        self.objects.renamed.connect(self._on_renamed)
        self.objects.recolored.connect(self._on_recolored)
        self.objects.locked.connect(self._on_locked)
        self.objects.shown.connect(lambda *_: self._show_colors())
        self.history.chosen.connect(self.go_to)
        self.history.deleted.connect(self.delete_prompt)
        self.delete_button.clicked.connect(lambda: self.delete_prompt())
        self.undo_button.clicked.connect(lambda: self.undo())
        self.redo_button.clicked.connect(lambda: self.redo())
        self.cancel_button.clicked.connect(lambda: self.cancel())
        self.go_on_button.clicked.connect(lambda: self.go_on())
        self.save_button.clicked.connect(lambda: self.save())
        self.resume_button.clicked.connect(lambda: self.resume())
        self.export_button.clicked.connect(lambda: self.export())
        self.command_button.clicked.connect(lambda: self.copy_command())
        self.recover_button.clicked.connect(lambda: self._recover())
        self.forget_button.clicked.connect(lambda: self._forget())
        self.worklist.case_chosen.connect(self._on_case)
        self.worklist.done_wanted.connect(self._on_case_done)
        self.worklist.failed.connect(lambda text: self.say(text, problem=True))
        for tool, description in TOOLS.items():
            self._shortcut(description.key, lambda tool=tool: self.use_tool(None if self._tool is tool else tool))
        self._shortcut("X", lambda: self.toggle_sign())
        self._shortcut("Shift+B", lambda: self.extend_box())
        self._shortcut("O", lambda: self.new_object())
        self._shortcut("Esc", lambda: self._on_escape())
        self._shortcut("Ctrl+Z", lambda: self.undo())
        self._shortcut("Ctrl+Shift+Z", lambda: self.redo())

    def _shortcut(self, keys: str, action: Callable[[], None]) -> None:
        shortcut = QShortcut(QKeySequence(keys), self)
        shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
        shortcut.activated.connect(action)

    def _connect_viewer(self) -> None:
        viewer = self.viewer
        me = weakref.WeakMethod(self._on_drag)

        def drag(_: Viewer, event: Any) -> Iterator[None] | None:
            # The viewer keeps its callbacks; it must not keep the widget.
            method = me()
            return None if method is None else method(event)

        viewer.mouse_drag_callbacks.append(drag)
        viewer_ref = self._viewer_ref

        def let_go() -> None:
            viewer = viewer_ref()
            if viewer is not None and drag in viewer.mouse_drag_callbacks:
                viewer.mouse_drag_callbacks.remove(drag)

        self._ending.steps.append(let_go)
        # napari keeps weak references to bound methods, and drops them with the widget.
        viewer.layers.events.inserted.connect(self._fill_images)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        viewer.layers.events.reordered.connect(self._fill_images)
        viewer.dims.events.order.connect(self._on_axes)
        viewer.dims.events.ndisplay.connect(self._on_axes)
        viewer.dims.events.current_step.connect(self._on_step)

    @callback
    def _on_models(self, cards: dict[str, ModelCard]) -> None:
        self._cards = cards
        chosen = self.model_box.currentText()
        self.model_box.clear()
        for name, card in cards.items():
            self.model_box.addItem(name)
            self.model_box.setItemData(self.model_box.count() - 1, card.summary, Qt.ItemDataRole.ToolTipRole)
        names = list(cards)
        preferred = chosen if chosen in names else ("sam2-nano" if "sam2-nano" in names else names[0])
        self.model_box.setCurrentText(preferred)
        self._show_card()

    @callback
    def _fill_images(self, event: object = None) -> None:
        viewer = self._viewer_ref()
        if viewer is None:
            return
        for box, kind in ((self.image_box, Image), (self.mask_box, Labels)):
            chosen = box.currentData()
            box.clear()
            for layer in user_layers(viewer, kind):
                box.addItem(layer.name, layer)
            index = next((i for i in range(box.count()) if box.itemData(i) is chosen), -1)
            if box is self.image_box and chosen is None and self._layer is None:
                index = -1
            box.setCurrentIndex(index)
        self.mask_button.setEnabled(self.mask_box.count() > 0)
        if self.mask_box.currentIndex() < 0 and self.mask_box.count():
            self.mask_box.setCurrentIndex(0)

    # ---- opening

    @callback
    def open_image(self, layer: Image | None, resume: Path | None = None) -> None:
        """Opens an image layer; what was open before is closed, and kept by the autosave.

        Args:
            layer: of the person; only read.
            resume: a session file to go on with.
        """
        if layer is None:
            return
        viewer = self.viewer
        volume = LayerVolume.of(layer, viewer.dims.point)
        model, device = self.model_box.currentText(), self.device_box.currentText()
        if not model:
            raise SessionError("the models are still being listed; try again in a moment")
        self.close_image()
        self._layer, self._volume, self._resume_first = layer, volume, resume
        self._session_path = resume
        index = next((i for i in range(self.image_box.count()) if self.image_box.itemData(i) is layer), -1)
        self.image_box.setCurrentIndex(index)
        for event in (layer.events.scale, layer.events.translate, layer.events.rotate, layer.events.shear):
            event.connect(self._on_transform)
        layer.events.affine.connect(self._on_transform)
        bridge = DeskBridge()
        bridge.news.connect(self._on_news)
        open_session = opening.local_session(
            lambda: volume.read(layer),
            model,
            device=device,
            options=self._options(),
            encodings_folder=autosave_folder().parent / "encodings",
        )
        desk = Desk(open_session, bridge, autosave_folder())
        self._bridge, self._desk = bridge, desk
        self._ending.steps.append(lambda: (bridge.close(), desk.close(timeout_s=0))[0])
        self.say(f"opening {layer.name} …")
        self._show_tools()

    @callback
    def close_image(self) -> None:
        """Ends the session of the open image; the person's layers stay."""
        self.use_tool(None)
        desk, bridge, overlays, layer = self._desk, self._bridge, self._overlays, self._layer
        self._desk = self._bridge = self._overlays = self._layer = self._volume = self._found = None
        self._session_path = self._after_save = self._refused = None
        if bridge is not None:
            bridge.close()
        if desk is not None:
            desk.close(timeout_s=0)
        if layer is not None:
            for event in (layer.events.scale, layer.events.translate, layer.events.rotate, layer.events.shear):
                event.disconnect(self._on_transform)
            layer.events.affine.disconnect(self._on_transform)
        if overlays is not None and self._viewer_ref() is not None:
            overlays.labels.events.paint.disconnect(self._on_paint)
            overlays.remove()
        self.recover_bar.setVisible(False)
        self.objects.show_objects(())
        self.history.clear()
        self.history._history = ()
        self.progress.setVisible(False)
        self._show_tools()

    @callback
    def _reopen(self) -> None:
        """Another model or device: the same session goes on with it."""
        self._show_card()
        layer, desk = self._layer, self._desk
        if layer is None or desk is None:
            return
        if not desk.is_open or not desk.session.objects:
            self.open_image(layer)
            return
        carried = autosave_folder() / "carried.json"
        carried.parent.mkdir(parents=True, exist_ok=True)
        self._after_save = lambda: self.open_image(layer, carried)
        desk.save(carried)

    def _options(self) -> EncodeOptions:
        window = self.window_box.currentData()
        return EncodeOptions(window=window)

    # ---- news from the desk

    @callback
    def _on_news(self, event: DeskEvent) -> None:
        if self._desk is None or self.sender() is not self._bridge:
            return
        match event:
            case Opened(found=found):
                self._on_opened(found)
            case StateChanged():
                self._show_state()
            case Working(fraction, text):
                self.progress.setVisible(True)
                self.cancel_button.setEnabled(True)
                self.progress.setValue(round(fraction * 100))
                self.progress.setFormat(text)
            case Painted():
                self._on_painted(event)
            case Idle(cancelled):
                self.progress.setVisible(False)
                self.cancel_button.setEnabled(False)
                if cancelled:
                    self.say("cancelled; the next prompt, or Go on, computes the rest")
                self.go_on_button.setVisible(cancelled)
                self._show_summaries()
            case Failed(error=error):
                self._on_failed(event, error)
            case Disconnected(error):
                self.say(f"{error}; trying again …", problem=True)
                self._was_lost = True
            case Connected():
                if self._was_lost:
                    self._was_lost = False
                    self.say("connected again")
            case Saved(path):
                self._on_saved(path)
            case Exported(path):
                self.say(f"wrote {path}")
                self.worklist.exported(path)
            case Autosaved():
                pass

    def _on_opened(self, found: FoundAutosave | None) -> None:
        assert self._desk is not None and self._layer is not None and self._volume is not None
        self._overlays = Overlays(self.viewer, self._layer, self._volume, self._desk.canvas.array)
        self._overlays.labels.events.paint.connect(self._on_paint)
        self._axis = self._slice_axis()
        self._show_card()
        self._show_tools()
        self._show_state()
        self.say(f"{self._layer.name} is open: choose a tool, or press P and click")
        if self._resume_first is not None:
            self._desk.resume(self._resume_first, allow_other=True)
            self._resume_first = None
        elif found is not None:
            self._found = found
            self.recover_label.setText(
                f"Unsaved work on this image of {found.written:%Y-%m-%d %H:%M}: "
                f"{found.objects} objects, {found.prompts} prompts."
            )
            self.recover_bar.setVisible(True)

    def _on_painted(self, event: Painted) -> None:
        assert self._desk is not None
        overlays = self._overlays
        if overlays is None:
            return
        if overlays.labels not in self.viewer.layers:
            self._show_overlays_again()
            return
        if event.array_replaced:
            overlays.show_array(self._desk.canvas.array)
        # In 3D the whole volume is sent to the graphics card: only when it is finished.
        if not event.preview or self.viewer.dims.ndisplay == 2:
            overlays.refresh()
        if not event.preview:
            self._show_summaries()

    def _on_failed(self, event: Failed, error: Exception) -> None:
        if event.fatal:
            self.close_image()
            self.progress.setVisible(False)
        text = str(error)
        if isinstance(error, SessionError) and self._refused is not None:
            text += " — press Resume again to open it all the same"
        self.say(text, problem=True)

    def _on_saved(self, path: Path) -> None:
        then, self._after_save = self._after_save, None
        if then is None:
            self._session_path = path
            self.say(f"saved {path}")
        else:
            then()

    # ---- what is shown

    def _show_state(self) -> None:
        if self._desk is None or not self._desk.is_open or self._volume is None:
            return
        state = self.session.state
        self.objects.show_objects(state.objects)
        self.history.show_history(state, self._volume.grid)
        self.overlap_box.setCurrentIndex(self.overlap_box.findData(state.overlap))
        self.undo_button.setEnabled(self.session.can_undo)
        self.redo_button.setEnabled(self.session.can_redo)
        self._show_colors()
        self._show_prompts()
        self._show_summaries()
        self._show_tools()
        if self._overlays is not None and self.objects.active is not None:
            self._overlays.labels.selected_label = self._brush_value()

    def _show_colors(self) -> None:
        if self._overlays is not None:
            self._overlays.show_colors(self.session.state, self.objects.hidden)

    def _show_prompts(self) -> None:
        if self._overlays is not None:
            self._overlays.show_prompts(self.session.state, self.objects.active, self.history.entry, self._axis)

    def _show_summaries(self) -> None:
        if self._desk is None or not self._desk.is_open:
            return
        outdated = set(self.session.outdated())
        for item in self.session.objects:
            self.objects.show_summary(item.object_id, self._desk.summary(item.object_id), item.object_id in outdated)

    def _card(self) -> ModelCard | None:
        if self._desk is not None and self._desk.is_open:
            return self.session.card
        return self._cards.get(self.model_box.currentText())

    def _show_card(self) -> None:
        card = self._card()
        if card is None:
            return
        takes = ", ".join(sorted(kind.replace("_", " ") for kind in card.positive))
        terms = card.license.spdx or "no weights, so no licence"
        allowed = "" if card.license.commercial else ", not for commercial use"
        warning = " <b>Random weights: its masks mean nothing.</b>" if card.random_weights else ""
        knows = f" Knows {len(card.labels)} structures by name." if card.labels else ""
        self.card_label.setText(f"{card.summary} Takes {takes}. <i>{terms}{allowed}</i>.{knows}{warning}")
        self.text_line.setCompleter(None)
        if PromptKind.TEXT in card.positive and card.labels:
            completer = QCompleter([label.name for label in card.labels], self.text_line)
            completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
            completer.setFilterMode(Qt.MatchFlag.MatchContains)
            self.text_line.setCompleter(completer)

    def _show_tools(self) -> None:
        card = self._card()
        is_open = self._desk is not None and self._desk.is_open
        closed_reason = "choose an image first" if self._desk is None else "the image is being opened"
        for tool, button in self.tool_buttons.items():
            description = TOOLS[tool]
            reason = closed_reason if not is_open or card is None else reason_against(tool, card, self.positive)
            button.setEnabled(reason is None)
            button.setToolTip(f"{description.hint} ({description.key})" if reason is None else reason)
        self._set_enabled(self.text_line, self.text_button, kind=PromptKind.TEXT, card=card if is_open else None)
        self._set_enabled(self.mask_button, kind=PromptKind.MASK, card=card if is_open else None)
        self._set_enabled(self.extend_button, kind=PromptKind.BOX_3D, card=card if is_open else None)
        for button in (self.new_button, self.remove_button, self.save_button, self.resume_button, self.export_button):
            button.setEnabled(is_open)
        self.command_button.setEnabled(is_open)

    def _set_enabled(self, *widgets: QWidget, kind: PromptKind, card: ModelCard | None) -> None:
        for widget in widgets:
            if card is None:
                widget.setEnabled(False)
                widget.setToolTip("choose an image first")
                continue
            served = kind in (card.positive if self.positive else card.negative)
            widget.setEnabled(served)
            sign = "positive" if self.positive else "negative"
            widget.setToolTip("" if served else f"{card.name} takes no {sign} {kind.replace('_', ' ')}")

    def say(self, text: str, problem: bool = False) -> None:
        """Shows a sentence at the foot of the widget."""
        self.status.setText(text)
        self.status.setStyleSheet("color: #ff8a65;" if problem else "")

    # ---- tools

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
        elif tool is not None and self._layer is not None:
            # A layer in a drawing mode of its own would draw at the same time.
            viewer.layers.selection = {self._layer}
            self._layer.mode = "pan_zoom"
        if tool is not None:
            self.say(TOOLS[tool].hint)

    def _brush_value(self) -> int:
        active = self.objects.active
        return active if active is not None and self.positive else 0

    @callback
    def toggle_sign(self) -> None:
        """Positive to negative, or back."""
        (self.negative_button if self.positive else self.positive_button).setChecked(True)
        if self._overlays is not None and self._tool is Tool.BRUSH:
            self._overlays.labels.selected_label = self._brush_value()

    @callback
    def _on_escape(self) -> None:
        if self._desk is not None and self.progress.isVisible():
            self._desk.cancel()
        else:
            self.use_tool(None)

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
        assert self._layer is not None and self._volume is not None
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
        assert self._layer is not None and self._volume is not None
        layer, volume = self._layer, self._volume
        start = volume.ijk_of_world(layer, self._in_layer_units(event.position))
        grabbed = self._grab(start)
        if grabbed is None:
            self.say("there is no prompt to grab here; go to its slice by choosing it in the list")
            return
        entry, grip = grabbed
        self.say(f"moving prompt {entry.entry_id} …")
        here = start
        yield
        while event.type == "mouse_move":
            event.handled = True
            here = volume.ijk_of_world(layer, self._in_layer_units(event.position))
            self._on_moving(entry, grip, here - start)
            yield
        event.handled = True
        self._on_moved(entry, grip, here - start)

    def _grab(self, at_ijk: Any) -> tuple[HistoryEntry, Grip] | None:
        """The nearest grip within reach; the chosen prompt's before others."""
        assert self._layer is not None and self._volume is not None
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

    # ---- prompts

    def _active_or_new(self) -> int:
        active = self.objects.active
        if active is None:
            active = self.session.add_object()
            self.objects.show_objects(self.session.objects)
            self.objects.activate(active)
        return active

    @callback
    def add_prompt(self, prompt: Prompt) -> None:
        """Adds a prompt to the chosen object, or to a new one where there is none."""
        self.session.add_prompt(self._active_or_new(), prompt)

    @callback
    def add_text(self) -> None:
        """Adds the words in the text line."""
        words = self.text_line.text().strip()
        if not words:
            raise PromptError("write what to look for")
        if self.objects.active is None:
            number = self.session.add_object(words)
            self.objects.show_objects(self.session.objects)
            self.objects.activate(number)
        self.add_prompt(Text(words, self.positive))
        self.text_line.clear()

    @callback
    def extend_box(self) -> None:
        """Makes the latest box of the object reach the slice on the screen."""
        active = self.objects.active
        if active is None or self._axis is None or self._layer is None or self._volume is None:
            raise PromptError("draw a box on one slice, go to another slice, then extend the box to it")
        boxes = [entry for entry in self.session.state.entries_of(active) if isinstance(entry.prompt, Box)]
        if not boxes:
            raise PromptError("this object has no box; draw one, go to another slice, then extend it")
        entry = boxes[-1]
        here = self._volume.ijk_of_world(self._layer, self._in_layer_units(self.viewer.dims.point))
        index = int(np.clip(round(here[self._axis]), 0, self._volume.grid.shape[self._axis] - 1))
        box = entry.prompt.moved(self._volume.grid, self._volume.grid)
        self.session.edit_prompt(entry.entry_id, extended_box(box, self._axis, index))

    @callback
    def use_mask(self) -> None:
        """Takes the chosen Labels layer as a rough mask; where a label is selected there, only that one."""
        source = self.mask_box.currentData()
        if source is None or self._layer is None or self._volume is None:
            raise PromptError("there is no Labels layer; add one and paint, or open a label map")
        there = LayerVolume.of(source, self.viewer.dims.point)
        here = dataclasses.replace(self._volume, world_from_data=world_from_data(self._layer))
        grid = dataclasses.replace(there.grid, affine_ras=self._volume.grid.affine_ras @ there.matrix_to(here))
        value = int(source.selected_label)
        positive, object_id, name = self.positive, self._active_or_new(), source.name

        def task(session: Session) -> None:
            values = there.read(source)[0].numpy()
            mask = values == value if (values == value).any() else values != 0
            if not mask.any():
                raise PromptError(f"{name} is empty; paint something, or choose another layer")
            session.add_prompt(object_id, MaskPrompt(mask, grid, positive))

        assert self._desk is not None
        self._desk.do(task)
        self.say(f"taking {name} as a mask …")

    @callback
    def _on_paint(self, event: Any = None) -> None:
        """A stroke of the brush ended."""
        if self._desk is None or self._volume is None or self._layer is None or self.objects.active is None:
            return
        region = [slice(0, size) for size in self._volume.grid.shape]
        if self._axis is not None:
            here = self._volume.ijk_of_world(self._layer, self._in_layer_units(self.viewer.dims.point))
            index = int(np.clip(round(here[self._axis]), 0, region[self._axis].stop - 1))
            region[self._axis] = slice(index, index + 1)
        self._desk.correct(self.objects.active, tuple(region))

    # ---- objects and history

    @callback
    def new_object(self, name: str = "") -> None:
        """Adds an object and chooses it."""
        number = self.session.add_object(name)
        self.objects.show_objects(self.session.objects)
        self.objects.activate(number)

    @callback
    def remove_object(self) -> None:
        """Removes the chosen object with its prompts; undo brings it back."""
        if self.objects.active is None:
            raise SessionError("choose an object in the list first")
        self.session.remove_object(self.objects.active)

    @callback
    def _on_object_chosen(self, object_id: int) -> None:
        if self._overlays is not None:
            self._overlays.labels.selected_label = self._brush_value()
        self._show_prompts()

    @callback
    def _on_renamed(self, object_id: int, name: str) -> None:
        self.session.rename_object(object_id, name)

    @callback
    def _on_recolored(self, object_id: int, color_rgb: tuple[int, int, int]) -> None:
        self.session.recolor_object(object_id, color_rgb)

    @callback
    def _on_locked(self, object_id: int, locked: bool) -> None:
        self.session.lock_object(object_id, locked)

    @callback
    def _on_overlap(self) -> None:
        self.session.set_overlap(OverlapPolicy(self.overlap_box.currentData()))

    @callback
    def go_to(self, entry_id: int) -> None:
        """Shows the slice of a prompt and chooses its object."""
        entry = self.session.state.entry(entry_id)
        self.objects.activate(entry.object_id)
        if self._volume is None or self._layer is None:
            return
        centre = centre_of(entry.prompt, self._volume.grid)
        if centre is not None:
            viewer = self.viewer
            world = self._layer.data_to_world(self._volume.data_of(centre))
            offset = viewer.dims.ndim - self._layer.ndim
            factors = self._unit_factors()
            for axis in viewer.dims.not_displayed:
                if axis >= offset:
                    viewer.dims.set_point(axis, world[axis - offset] / factors[axis - offset])
        self._show_prompts()

    @callback
    def delete_prompt(self, entry_id: int | None = None) -> None:
        """Deletes a prompt; None the one chosen in the list."""
        entry_id = self.history.entry if entry_id is None else entry_id
        if entry_id is None:
            raise SessionError("choose a prompt in the list first")
        self.session.delete_prompt(entry_id)

    @callback
    def undo(self) -> None:
        """Goes back by one change."""
        self.session.undo()

    @callback
    def redo(self) -> None:
        """Makes the last undone change again."""
        self.session.redo()

    @callback
    def cancel(self) -> None:
        """Stops what is being computed."""
        if self._desk is not None:
            self._desk.cancel()

    @callback
    def go_on(self) -> None:
        """Computes what was cancelled."""
        if self._desk is not None:
            self.go_on_button.setVisible(False)
            self._desk.predict()

    # ---- choices

    @callback
    def _on_window(self) -> None:
        """A window was chosen: the picture shows it at once, and the model sees the image through it."""
        name = self.window_box.currentData()
        layer = self._layer
        if layer is not None and name is not None:
            window = parse_window(name) if name != "percentile" else None
            if window is not None:
                layer.contrast_limits = (window.low, window.high)
            elif self._desk is not None and self._desk.is_open:
                chosen = choose_window(self.session.image, "percentile")
                layer.contrast_limits = (chosen.low, chosen.high)
        if self._desk is not None and self._desk.is_open:
            self.session.set_options(dataclasses.replace(self.session.state.options, window=name))

    # ---- files

    @callback
    def save(self, path: str | Path | None = None) -> None:
        """Saves the session; asks for a file the first time."""
        target = path or self._session_path or self._ask_save("Save the session", SESSION_FILTER, ".json")
        if target and self._desk is not None:
            self._desk.save(target)

    @callback
    def resume(self, path: str | Path | None = None) -> None:
        """Opens a saved session on this image."""
        if path is None and self._refused is not None:
            path, allow = self._refused, True
        else:
            allow = False
            path = path or QFileDialog.getOpenFileName(self, "Resume a session", "", SESSION_FILTER)[0]
        if path and self._desk is not None:
            self._refused = None if allow else Path(path)
            self._session_path = Path(path)
            self._desk.resume(path, allow_other=allow)

    @callback
    def export(self, path: str | Path | None = None) -> None:
        """Writes the label map, computed exactly, with its voxels in the order of the image's file."""
        target = path or self._ask_save("Export the label map", EXPORT_FILTER, ".seg.nrrd")
        if target and self._desk is not None and self._layer is not None:
            self._desk.export(target, self._layer.metadata.get(FILE_AXCODES_KEY))

    @callback
    def copy_command(self, session_path: str | Path | None = None) -> None:
        """Saves the session and puts the command line that gives its mask into the clipboard."""
        if self._layer is None or self._desk is None:
            raise SessionError("choose an image first")
        image = self._image_path(self._layer)
        target = session_path or self._session_path or self._ask_save("Save the session", SESSION_FILTER, ".json")
        if not target:
            return
        path = Path(target)

        def copy() -> None:
            self._session_path = path
            state = self.session.state
            suffix = ".seg.nrrd" if state.overlap is OverlapPolicy.LAYERS else ".nii.gz"
            line = segment_command(state, self.session.card, image, path, path.with_name(f"{path.stem}_seg{suffix}"))
            QGuiApplication.clipboard().setText(line)
            self.say(f"copied: {line}")

        self._after_save = copy
        self._desk.save(path)

    def _image_path(self, layer: Layer) -> Path:
        found = layer.metadata.get(PATH_KEY) or layer.source.path
        if not found:
            raise SessionError(
                f"{layer.name} has no file; save the image, open that file, and resume the session on it"
            )
        return Path(found)

    def _ask_save(self, title: str, filters: str, suffix: str) -> str:
        name = "" if self._layer is None else self._layer.name
        chosen, wanted = QFileDialog.getSaveFileName(self, title, f"{name}{suffix}", filters)
        if chosen and "." not in Path(chosen).name:
            chosen += wanted.split("(*")[-1].rstrip(")") or suffix
        return str(chosen)

    @callback
    def _recover(self) -> None:
        if self._desk is not None and self._found is not None:
            self._desk.resume(self._found.path, allow_other=True)
        self.recover_bar.setVisible(False)

    @callback
    def _forget(self) -> None:
        self.recover_bar.setVisible(False)

    @callback
    def _on_case(self, case: Any, image: Any) -> None:
        """A case of the worklist was read: the one before is saved, this one opened."""
        viewer = self.viewer
        old = self.worklist.open_case
        if old is not None and self._desk is not None and self._desk.is_open and self._desk.has_unsaved_changes:
            old.session.parent.mkdir(parents=True, exist_ok=True)
            self.session.save(old.session)
        previous = self._layer
        self.close_image()
        if previous is not None and previous in viewer.layers and previous.metadata.get("volseg_worklist"):
            viewer.layers.remove(previous)
        data, attributes, _ = image
        attributes["metadata"]["volseg_worklist"] = True
        layer = viewer.add_image(data, **attributes)
        self.worklist.opened(case)
        self.open_image(layer, case.session if case.session.exists() else None)
        self._session_path = case.session

    @callback
    def _on_case_done(self, case: Any) -> None:
        """The open case is finished: session saved, label map written; then it is ticked off."""
        if self._desk is None:
            raise SessionError("open the case first")
        case.session.parent.mkdir(parents=True, exist_ok=True)
        self._session_path = case.session
        self._desk.save(case.session)
        self.export(case.labelmap)

    # ---- the viewer

    def _slice_axis(self) -> int | None:
        if self._layer is None or self._volume is None:
            return None
        return slice_axis(SliceView.of(self.viewer.dims), self._layer, self._volume)

    def _unit_factors(self) -> Any:
        """World units of the layer in one of the viewer, per axis of the layer."""
        assert self._layer is not None
        return SliceView.of(self.viewer.dims).unit_factors(self._layer)

    def _in_layer_units(self, position: Any) -> Any:
        assert self._layer is not None
        return SliceView.of(self.viewer.dims).in_layer_units(self._layer, position)

    @callback
    def _on_axes(self, event: Any = None) -> None:
        self._axis = self._slice_axis()
        if self._desk is not None and self._desk.is_open:
            self._show_prompts()

    @callback
    def _on_step(self, event: Any = None) -> None:
        """Another channel or time point would need another session."""
        if self._layer is None or self._volume is None or not self._volume.fixed or self._viewer_ref() is None:
            return
        here = LayerVolume.of(self._layer, self._in_layer_units(self.viewer.dims.point)).fixed
        if here != self._volume.fixed:
            self.say("this is another channel or time point than the objects'; choose the image again to work on it")

    @callback
    def _on_transform(self, event: Any = None) -> None:
        if self._layer is not None and self._overlays is not None:
            self._overlays.follow(self._layer)
            self._on_axes()
            self.say("the layer was moved; masks are saved where the image was when it was opened", problem=True)

    @callback
    def _on_layer_removed(self, event: Any) -> None:
        if self._layer is not None and event.value is self._layer:
            self.close_image()
            self.say("the image was removed; its session is kept until it is opened again")
        elif self._overlays is not None and event.value in self._overlays.layers and self._layer is not None:
            QTimer.singleShot(0, self._show_overlays_again)
        if not is_ours(event.value):
            self._fill_images()

    @callback
    def _show_overlays_again(self) -> None:
        """Somebody removed one of our layers: the objects are still there, so they are shown again."""
        if self._overlays is None or self._desk is None or self._layer is None or self._volume is None:
            return
        if all(layer in self.viewer.layers for layer in self._overlays.layers):
            return
        self._overlays.labels.events.paint.disconnect(self._on_paint)
        overlays, self._overlays = self._overlays, None
        overlays.remove()
        self._overlays = Overlays(self.viewer, self._layer, self._volume, self._desk.canvas.array)
        self._overlays.labels.events.paint.connect(self._on_paint)
        self._show_state()

    # ---- end

    def end(self) -> None:
        """Ends everything: session, callbacks, our layers."""
        self.close_image()
        self._ending()

    def event(self, event: QEvent) -> bool:
        """Ends when napari takes the widget out of its dock."""
        if event.type() == QEvent.Type.ParentChange:
            if self._docked and self.parent() is None:
                self.end()
            self._docked = self.parent() is not None
        return bool(super().event(event))
