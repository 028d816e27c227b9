"""The docked widget: one image, one model, prompts with the mouse, objects that can be taken up again."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut

from napari_volseg import opening
from napari_volseg.bridge import DeskBridge, callback
from napari_volseg.geometry import LayerVolume
from napari_volseg.models import ModelLoader
from napari_volseg.mouse import SliceView
from napari_volseg.overlays import Overlays, is_ours, user_layers
from napari_volseg.tools import TOOLS
from volseg.errors import SessionError
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
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
)

if TYPE_CHECKING:
    from napari.viewer import Viewer

from napari_volseg.drawing import Drawing
from napari_volseg.editing import Editing
from napari_volseg.files import Files

logger = logging.getLogger(__name__)


class _Ending:
    """What must end with the widget, whoever deletes it; knows nothing of the widget, so it keeps nothing alive."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.desk: tuple[DeskBridge, Desk] | None = None

    def close_desk(self) -> None:
        """Ends the desk; its threads end by themselves."""
        if self.desk is not None:
            bridge, desk = self.desk
            self.desk = None
            bridge.close()
            desk.close(timeout_s=0)

    def __call__(self, *_: object) -> None:
        self.close_desk()
        while self.steps:
            self.steps.pop()()


class AnnotateWidget(Editing, Drawing, Files):
    """Segments by clicks in a napari viewer.

    All logic lives in a ``volseg.sessions.desk.Desk``; this class shows it and passes on what the person does. Layers
    of the person are only read; the widget adds three of its own over the image and takes them away at the end.

    Args:
        napari_viewer: given by napari.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._bridge: DeskBridge | None = None
        self._resume_first: Path | None = None
        self._carried = False
        self._docked = False
        self._was_lost = False
        self._ending = _Ending()
        self.destroyed.connect(self._ending)
        self._loader = ModelLoader()
        self._loader.loaded.connect(self._on_models)
        self.window_found.connect(self._on_window_found)
        self._ending.steps.append(self._loader.close)
        self._connect_form()
        self._connect_viewer()
        self._fill_images()
        self._loader.start()
        self._show_tools()

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
        volume = LayerVolume.of(layer, SliceView.of(viewer.dims).in_layer_units(layer, viewer.dims.point))
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
        self._ending.desk = bridge, desk
        self.say(f"opening {layer.name} …")
        self._show_tools()

    @callback
    def close_image(self) -> None:
        """Ends the session of the open image; the person's layers stay."""
        self.use_tool(None)
        overlays, layer = self._overlays, self._layer
        self._desk = self._bridge = self._overlays = self._layer = self._volume = self._found = None
        self._session_path = self._after_save = self._refused = self._resuming = None
        self._ending.close_desk()
        if layer is not None:
            for event in (layer.events.scale, layer.events.translate, layer.events.rotate, layer.events.shear):
                event.disconnect(self._on_transform)
            layer.events.affine.disconnect(self._on_transform)
        if overlays is not None and self._viewer_ref() is not None:
            overlays.labels.events.paint.disconnect(self._on_paint)
            overlays.remove()
        self.recover_bar.setVisible(False)
        self.objects.show_objects(())
        self.history.forget()
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

        def go_on() -> None:
            self.open_image(layer, carried)
            self._session_path, self._carried = None, True

        self._after_save = go_on
        desk.save(carried)

    def _options(self) -> EncodeOptions:
        window = self.window_box.currentData()
        return EncodeOptions(window=window)

    @callback
    def _on_news(self, event: DeskEvent) -> None:
        if self._desk is None or self.sender() is not self._bridge:
            return
        match event:
            case Opened(found=found):
                self._on_opened(found)
            case StateChanged():
                self._refused = self._resuming = None
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
        assert self._desk is not None
        assert self._layer is not None
        assert self._volume is not None
        self._make_overlays()
        self._axis = self._slice_axis()
        self._show_card()
        self._show_tools()
        self._show_state()
        self.say(f"{self._layer.name} is open: choose a tool, or press P and click")
        if self._resume_first is not None:
            self._desk.resume(self._resume_first, allow_other=True, saved=not self._carried)
            self._carried = False
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
        if isinstance(error, SessionError) and self._resuming is not None:
            self._refused, self._resuming = self._resuming, None
            text += " — press Resume again to open it all the same"
        self.say(text, problem=True)

    def _on_saved(self, path: Path) -> None:
        then, self._after_save = self._after_save, None
        if then is None:
            self._session_path = path
            self.say(f"saved {path}")
        else:
            then()

    @callback
    def _on_escape(self) -> None:
        if self._desk is not None and self.progress.isVisible():
            self._desk.cancel()
        else:
            self.use_tool(None)

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

    def _make_overlays(self) -> None:
        assert self._desk is not None
        assert self._layer is not None
        assert self._volume is not None
        self._overlays = Overlays(self.viewer, self._layer, self._volume, self._desk.canvas.array)
        self._overlays.labels.events.paint.connect(self._on_paint)
        self._show_next_overlay()

    @callback
    def _show_next_overlay(self) -> None:
        if self._overlays is None or self._viewer_ref() is None:
            return
        if self._overlays.add_next():
            QTimer.singleShot(0, self._show_next_overlay)
        else:
            self._show_state()

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
        self._make_overlays()

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
