"""What a person said about an image, with undo without limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from volseg.data.labelmap import OverlapPolicy
from volseg.errors import PromptError, SessionError
from volseg.geometry import Grid
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.prompts import Prompt, PromptSet
from volseg.sessions.session_file import SavedSession
from volseg.sessions.state import HistoryEntry, SessionObject, SessionState


class Document:
    """Objects, prompts and choices on one grid, and every change that was made to them.

    Changes are cheap and may come from any thread.

    Args:
        grid: the image's; voxel indices of prompts refer to it.
        card: of the model, which decides what prompts are taken.
        state: where it starts.
    """

    def __init__(self, grid: Grid, card: ModelCard, state: SessionState) -> None:
        self.grid = grid
        self.card = card
        self._states: list[SessionState] = [state]
        self._position = 0
        self._next_entry_id = 1
        self._next_revision = 0
        self._listeners: list[Callable[[], None]] = []
        self._state_lock = threading.RLock()

    # ---- what it holds

    @property
    def state(self) -> SessionState:
        """Objects, prompts and choices now; a snapshot that does not change."""
        with self._state_lock:
            return self._states[self._position]

    @property
    def objects(self) -> tuple[SessionObject, ...]:
        """The objects, in the order they were added."""
        return self.state.objects

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        """The prompts of all objects, in the order they were given."""
        return self.state.history

    @property
    def prompts(self) -> PromptSet:
        """The objects that have prompts, as models and prompt files take them."""
        return self.state.prompt_set(self.grid)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls ``listener`` after every change, in the thread that made it.

        The state is locked meanwhile, so a listener only takes note and waits for no other thread.

        Returns:
            Ends it.
        """
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    # ---- objects

    def add_object(
        self, name: str = "", color_rgb: tuple[int, int, int] | None = None, *, object_id: int | None = None
    ) -> int:
        """Adds an object.

        Args:
            name: what the person calls it.
            color_rgb: None chooses one that differs from its neighbours'.
            object_id: the label value; None takes the one after the largest.

        Returns:
            The object's id.

        Raises:
            SessionError: the id is taken, or a value is not valid.
        """
        return self._change(lambda state: state.with_object(name, color_rgb, object_id)).objects[-1].object_id

    def rename_object(self, object_id: int, name: str) -> None:
        """Gives an object another name; ``SessionError`` if it is locked or not there."""
        self._change(lambda state: state.with_object_changed(object_id, name=name))

    def recolor_object(self, object_id: int, color_rgb: tuple[int, int, int]) -> None:
        """Gives an object another colour, 0..255 each; ``SessionError`` if it is locked or not there."""
        self._change(lambda state: state.with_object_changed(object_id, color_rgb=color_rgb))

    def lock_object(self, object_id: int, locked: bool = True) -> None:
        """Locks an object against changes, or unlocks it; ``SessionError`` if it is not there."""
        self._change(lambda state: state.with_object_changed(object_id, locked=locked))

    def remove_object(self, object_id: int) -> None:
        """Removes an object and its prompts; ``SessionError`` if it is locked or not there."""
        self._change(lambda state: state.without_object(object_id))

    # ---- prompts

    def add_prompt(self, object_id: int, prompt: Prompt) -> int:
        """Adds a prompt to an object.

        Args:
            object_id: the object it speaks of.
            prompt: voxel indices refer to the image's grid.

        Returns:
            The entry id, by which the prompt can be edited and deleted.

        Raises:
            PromptError: it lies outside the volume; the message names the prompt.
            CapabilityError: the model does not serve its kind.
            SessionError: the object is locked or not there.
        """
        with self._state_lock:
            after, entry_id = self._with_prompt(self.state, object_id, prompt)
            self._push(after)
            return entry_id

    def add_prompts_to(self, object_id: int, prompts: Sequence[Prompt]) -> tuple[int, ...]:
        """Adds several prompts to an object in one change; see ``add_prompt``.

        Returns:
            Their entry ids.
        """
        with self._state_lock:
            after, ids = self.state, []
            for prompt in prompts:
                after, entry_id = self._with_prompt(after, object_id, prompt)
                ids.append(entry_id)
            self._push(after)
            return tuple(ids)

    def add_prompts(self, prompts: PromptSet) -> None:
        """Adds whole objects with their prompts, such as those of a prompt file, in one change.

        Args:
            prompts: of objects whose ids are free.

        Raises:
            PromptError: a prompt cannot be expressed on the image's grid, or lies outside.
            CapabilityError: the model does not serve a prompt's kind.
            SessionError: an id is taken.
        """
        if not prompts.grid.same_as(self.grid):
            prompts = prompts.moved(self.grid)
        with self._state_lock:
            after = self.state
            for item in prompts.objects:
                after = after.with_object(item.name, object_id=item.object_id)
                for prompt in item.prompts:
                    after, _ = self._with_prompt(after, item.object_id, prompt)
            self._push(after)

    def edit_prompt(self, entry_id: int, prompt: Prompt) -> None:
        """Replaces a prompt, at its place in the history; errors as in ``add_prompt``."""
        with self._state_lock:
            after = self.state.with_entry_changed(entry_id, prompt, self._next_revision)
            self._check(after, after.entry(entry_id))
            self._next_revision += 1
            self._push(after)

    def delete_prompt(self, entry_id: int) -> None:
        """Deletes a prompt, wherever it stands in the history; ``SessionError`` if locked or not there."""
        self._change(lambda state: state.without_entry(entry_id))

    # ---- choices

    def set_overlap(self, overlap: OverlapPolicy) -> None:
        """Changes what becomes of voxels that several objects claim; nothing is computed again."""
        self._change(lambda state: replace(state, overlap=OverlapPolicy(overlap)))

    def set_options(self, options: EncodeOptions) -> None:
        """Changes how the model looks at the image; the next prediction encodes it anew."""
        self._change(lambda state: replace(state, options=options))

    # ---- undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return self._position > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone change."""
        with self._state_lock:
            return self._position < len(self._states) - 1

    def undo(self) -> None:
        """Goes back by one change; ``SessionError`` if there is none."""
        self._step(-1, "undo")

    def redo(self) -> None:
        """Makes the last undone change again; ``SessionError`` if there is none."""
        self._step(1, "redo")

    # ---- inside

    def _change(self, change: Callable[[SessionState], SessionState]) -> SessionState:
        with self._state_lock:
            after = change(self.state)
            self._push(after)
            return after

    def _push(self, state: SessionState) -> None:
        del self._states[self._position + 1 :]
        self._states.append(state)
        self._position += 1
        self._tell()

    def _step(self, by: int, what: str) -> None:
        with self._state_lock:
            if not 0 <= self._position + by < len(self._states):
                raise SessionError(f"there is nothing to {what}")
            self._position += by
            self._tell()

    def _replace_all(self, saved: SavedSession) -> None:
        """Puts a saved session, which lies on the same grid, in the place of everything."""
        with self._state_lock:
            # Masks are remembered by revision, so revisions of two histories must not be mixed up.
            shift = self._next_revision
            states = [
                replace(state, history=tuple(replace(e, revision=e.revision + shift) for e in state.history))
                for state in saved.states
            ]
            entries = [entry for state in states for entry in state.history]
            self._states, self._position = states, saved.position
            self._next_entry_id = max((entry.entry_id for entry in entries), default=0) + 1
            self._next_revision = max((entry.revision for entry in entries), default=shift - 1) + 1
            self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def _with_prompt(self, state: SessionState, object_id: int, prompt: Prompt) -> tuple[SessionState, int]:
        entry = HistoryEntry(self._next_entry_id, object_id, prompt, self._next_revision)
        after = state.with_entry(entry)
        self._check(after, entry)
        self._next_entry_id += 1
        self._next_revision += 1
        return after, entry.entry_id

    def _check(self, state: SessionState, entry: HistoryEntry) -> None:
        """Refuses a prompt before it enters the history."""
        item = state.prompted(entry.object_id)
        index = state.entries_of(entry.object_id).index(entry)
        alone = replace(item, prompts=(entry.prompt,))
        try:
            self.card.check_serves(item)
            PromptSet(self.grid, (alone,)).on_grid(self.grid)
        except PromptError as error:
            # Checked by itself, the prompt was called number 1.
            raise PromptError(str(error).replace(alone.describe(0), item.describe(index), 1)) from error
