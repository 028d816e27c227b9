"""The docked widget: one image, one model, prompts with the mouse, objects that can be taken up again."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut

from napari_volseg.bridge import callback
from napari_volseg.geometry import LayerVolume
from napari_volseg.overlays import Overlays, is_ours
from napari_volseg.tools import TOOLS
from volseg.errors import SessionError
from volseg.prompts import PromptKind
from volseg.sessions.desk import (
    Autosaved,
    Connected,
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
)

if TYPE_CHECKING:
    from napari.viewer import Viewer

from napari_volseg.drawing import Drawing
from napari_volseg.editing import Editing
from napari_volseg.files import Files
from napari_volseg.sources import Sources

logger = logging.getLogger(__name__)


class AnnotateWidget(Sources, Editing, Drawing, Files):
    """Segments by clicks in a napari viewer.

    All logic lives in a ``volseg.sessions.desk.Desk``; this class shows it and passes on what the person does. Layers
    of the person are only read; the widget adds three of its own over the image and takes them away at the end.

    Args:
        napari_viewer: given by napari.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._docked = False
        self.window_found.connect(self._on_window_found)
        self.terms_found.connect(self._on_terms_found)
        self._connect_sources()
        self._connect_form()
        self._connect_viewer()
        self._fill_images()
        self._show_tools()

    def _connect_form(self) -> None:
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
        self.done_button.clicked.connect(lambda: self.worklist.finish())
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
        viewer.layers.events.removing.connect(self._before_layer_removed)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        viewer.layers.events.reordered.connect(self._fill_images)
        viewer.dims.events.order.connect(self._on_axes)
        viewer.dims.events.ndisplay.connect(self._on_axes)
        viewer.dims.events.current_step.connect(self._on_step)

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
                self.progress.show_work(fraction, text)
                self.cancel_button.setEnabled(True)
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
                self.server.show_lost()
                # Waiting is work that can be given up.
                self.cancel_button.setEnabled(True)
            case Connected():
                if self._was_lost:
                    self._was_lost = False
                    self.say("connected again")
                    self.server.show_reached()
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
        if PromptKind.TEXT in self.session.card.positive:
            self._desk.do(self._find_terms)
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
            kept = self._carried and self._resume_first is not None
            self._carried, self._resume_first = False, None
            self.close_image()
        text = str(error)
        if event.fatal and kept:
            text += " — the objects are kept: choose the image again to go on with them"
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
    def _before_layer_removed(self, event: Any = None) -> None:
        """Makes the canvas's OpenGL context current.

        napari deletes a removed layer's shaders at once, in whatever context is current; between two paintings that is
        another one, and Mesa's software renderers die of it two paintings later.
        """
        viewer = self._viewer_ref()
        if viewer is not None and viewer.window is not None:
            viewer.window._qt_viewer.canvas.native.makeCurrent()

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
        QTimer.singleShot(0, self._show_next_overlay)

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
