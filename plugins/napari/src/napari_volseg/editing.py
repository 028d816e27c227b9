"""Objects, prompts and their history."""

from __future__ import annotations

import dataclasses

import numpy as np

from napari_volseg.bridge import callback
from napari_volseg.geometry import AFFINE_KEY, LayerVolume, world_from_data
from napari_volseg.handles import centre_of
from napari_volseg.state import WidgetState
from napari_volseg.tools import extended_box
from volseg.data.labelmap import OverlapPolicy
from volseg.errors import PromptError, SessionError
from volseg.prompts import Box, MaskPrompt, Prompt, Text
from volseg.sessions import Session
from volseg.sessions.desk import Term, known_terms, read_phrase
from volseg.text.lexicon import load_lexicon
from volseg.transforms.windows import PERCENTILE_NAME, choose_window, parse_window


class Editing(WidgetState):
    """Changes of the session that need no mouse on the picture."""

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
        """Adds the words in the text line.

        What belongs begins an object for each thing that is listed; the first takes the chosen object if nothing was
        said about it yet. What does not belong is taken from the chosen object.
        """
        text = self.text_line.text().strip()
        if not text:
            raise PromptError("write what to look for")
        session, active = self.session, self.objects.active
        asked = read_phrase(text, session.card)
        if not self.positive:
            self.add_prompt(Text(text, positive=False))
            self.text_line.take_back()
            return
        for one in asked:
            if active is None or session.state.entries_of(active):
                active = session.add_object(one.name)
            elif not session.state.object(active).name:
                session.rename_object(active, one.name)
            session.add_prompt(active, Text(one.words))
        self.objects.show_objects(session.objects)
        self.objects.activate(active)
        self.text_line.take_back()
        self.say(f"looking for {', '.join(one.name for one in asked)} …")

    def _find_terms(self, session: Session) -> None:
        """Reads the vocabulary, in a task of the desk: the first time takes longer than a window may wait."""
        load_lexicon()
        self.terms_found.emit(known_terms(session.card))

    @callback
    def _on_terms_found(self, terms: tuple[Term, ...]) -> None:
        self.text_line.show_terms(terms)

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
        grid = there.grid
        if AFFINE_KEY not in source.metadata or AFFINE_KEY not in self._layer.metadata:
            # Only where both say where they are in the patient does that count more than how they are shown.
            grid = dataclasses.replace(grid, affine_ras=self._volume.grid.affine_ras @ there.matrix_to(here))
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

    @callback
    def _on_window(self) -> None:
        """A window was chosen: the picture shows it at once, and the model sees the image through it."""
        name = self.window_box.currentData()
        layer = self._layer
        if layer is not None and name is not None:
            window = parse_window(name) if name != PERCENTILE_NAME else None
            if window is not None:
                layer.contrast_limits = (window.low, window.high)
            elif self._desk is not None and self._desk.is_open:
                # The percentiles of a large image take seconds.
                self._desk.do(self._find_percentiles)
        if self._desk is not None and self._desk.is_open:
            self.session.set_options(dataclasses.replace(self.session.state.options, window=name))

    def _find_percentiles(self, session: Session) -> None:
        chosen = choose_window(session.image, PERCENTILE_NAME)
        self.window_found.emit(chosen.low, chosen.high)

    @callback
    def _on_window_found(self, low: float, high: float) -> None:
        if self._layer is not None:
            self._layer.contrast_limits = (low, high)
