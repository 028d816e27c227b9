"""What is open, and how it is shown."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QWidget

from napari_volseg.bridge import callback
from napari_volseg.form import AnnotateForm
from napari_volseg.geometry import LayerVolume
from napari_volseg.mouse import SliceView, slice_axis
from napari_volseg.overlays import Overlays
from napari_volseg.tools import TOOLS, Tool, kind_name, reason_against
from volseg.errors import SessionError
from volseg.models.card import ModelCard
from volseg.prompts import Prompt, PromptKind
from volseg.sessions import Session
from volseg.sessions.desk import (
    Desk,
    FoundAutosave,
)

if TYPE_CHECKING:
    from napari.viewer import Viewer


class WidgetState(AnnotateForm):
    """What all parts of the widget share: what is open, and how it is shown."""

    window_found = Signal(float, float)
    terms_found = Signal(object)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        # From its menus napari gives a proxy that nobody else keeps; the viewer itself lives as long as its window.
        self._viewer_ref: weakref.ref[Viewer] = weakref.ref(getattr(viewer, "__wrapped__", viewer))
        self._desk: Desk | None = None
        self._layer: Image | None = None
        self._volume: LayerVolume | None = None
        self._overlays: Overlays | None = None
        self._tool: Tool | None = None
        self._axis: int | None = None
        self._cards: dict[str, ModelCard] = {}
        self._session_path: Path | None = None
        self._refused: Path | None = None
        self._resuming: Path | None = None
        self._found: FoundAutosave | None = None
        self._after_save: Callable[[], None] | None = None
        self._drawing_is_due = False

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

    # ---- what the parts of the widget ask of each other

    def use_tool(self, tool: Tool | None) -> None:
        """See ``Drawing``."""
        raise NotImplementedError

    def add_prompt(self, prompt: Prompt) -> None:
        """See ``Editing``."""
        raise NotImplementedError

    def open_image(self, layer: Image | None, resume: Path | None = None) -> None:
        """See ``Sources``."""
        raise NotImplementedError

    def close_image(self) -> None:
        """See ``Sources``."""
        raise NotImplementedError

    def _active_or_new(self) -> int:
        raise NotImplementedError

    def _brush_value(self) -> int:
        raise NotImplementedError

    def _on_paint(self, event: Any = None) -> None:
        raise NotImplementedError

    def _on_transform(self, event: Any = None) -> None:
        raise NotImplementedError

    # ---- what is shown

    def _card(self) -> ModelCard | None:
        if self._desk is not None and self._desk.is_open:
            return self.session.card
        return self._cards.get(self.model_box.currentText())

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
        """Draws what was said once the window is free, however often it is asked for until then."""
        if not self._drawing_is_due:
            self._drawing_is_due = True
            QTimer.singleShot(0, self._draw_prompts)

    @callback
    def _draw_prompts(self) -> None:
        self._drawing_is_due = False
        if self._overlays is not None and self._desk is not None and self._desk.is_open:
            self._overlays.show_prompts(self.session.state, self.objects.active, self.history.entry, self._axis)

    def _show_summaries(self) -> None:
        if self._desk is None or not self._desk.is_open:
            return
        outdated = set(self.session.outdated())
        for item in self.session.objects:
            self.objects.show_summary(item.object_id, self._desk.summary(item.object_id), item.object_id in outdated)

    def _show_card(self) -> None:
        card = self._card()
        if card is None:
            remote = self.model_box.count() > 0
            self.card_label.setText("What a server's model takes is shown once an image is open." if remote else "")
            return
        takes = ", ".join(sorted(map(kind_name, card.positive)))
        terms = card.license.spdx or "no weights, so no licence"
        allowed = "" if card.license.commercial else ", not for commercial use"
        warning = " <b>Random weights: its masks mean nothing.</b>" if card.random_weights else ""
        knows = f" Knows {len(card.labels)} structures by name." if card.labels else ""
        self.card_label.setText(f"{card.summary} Takes {takes}. <i>{terms}{allowed}</i>.{knows}{warning}")

    def _show_tools(self) -> None:
        card = self._card()
        is_open = self._desk is not None and self._desk.is_open
        closed_reason = "choose an image first" if self._desk is None else "the image is being opened"
        for tool, button in self.tool_buttons.items():
            description = TOOLS[tool]
            reason = closed_reason if not is_open or card is None else reason_against(tool, card, self.positive)
            button.setEnabled(reason is None)
            button.setToolTip(f"{description.hint} ({description.key})" if reason is None else reason)
        self._show_text_line(card if is_open else None)
        self._set_enabled(self.mask_button, kind=PromptKind.MASK, card=card if is_open else None)
        self._set_enabled(self.extend_button, kind=PromptKind.BOX_3D, card=card if is_open else None)
        for button in (self.new_button, self.remove_button, self.save_button, self.resume_button, self.export_button):
            button.setEnabled(is_open)
        self.command_button.setEnabled(is_open)

    def _show_text_line(self, card: ModelCard | None) -> None:
        """Words can be typed where the model takes some; else the line says which models do."""
        self._set_enabled(self.text_line, self.text_button, kind=PromptKind.TEXT, card=card)
        if card is not None and not self.text_line.isEnabled():
            others = [name for name, other in self._cards.items() if PromptKind.TEXT in other.positive]
            more = f"; {' and '.join(others)} {'does' if len(others) == 1 else 'do'}" if others else ""
            reason = f"{card.name} takes no words{more}"
            for widget in (self.text_line, self.text_button):
                widget.setToolTip(reason)
            self.text_line.show_refusal(reason)

    def _set_enabled(self, *widgets: QWidget, kind: PromptKind, card: ModelCard | None) -> None:
        for widget in widgets:
            if card is None:
                widget.setEnabled(False)
                widget.setToolTip("choose an image first")
                continue
            served = kind in (card.positive if self.positive else card.negative)
            widget.setEnabled(served)
            sign = "positive" if self.positive else "negative"
            widget.setToolTip("" if served else f"{card.name} takes no {sign} {kind_name(kind)}")

    def say(self, text: str, problem: bool = False) -> None:
        """Shows a sentence at the foot of the widget."""
        self.status.setText(text)
        self.status.setStyleSheet("color: #ff8a65;" if problem else "")

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
