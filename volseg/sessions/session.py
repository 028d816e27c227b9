"""The session: what an annotator, a script or a batch job works with."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from volseg.data.labelmap import Label, LabelMap, OverlapPolicy, Provenance
from volseg.errors import PromptError, SessionError
from volseg.geometry import Grid
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import Prompt, PromptSet
from volseg.sessions.json_file import read_json
from volseg.sessions.result import ObjectResult
from volseg.sessions.session_file import ModelIdentity, SavedSession
from volseg.sessions.state import HistoryEntry, SessionObject, SessionState

if TYPE_CHECKING:
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

WAIT_S = 0.05
"""How often a prediction that waits for another one asks whether it should stop."""

ResultKey: TypeAlias = tuple[EncodeOptions, tuple[int, ...]]
"""What an object's mask depends on: the options and the revisions of its prompts."""


class Session:
    """One image, one model, and everything said about the image, with undo without limit.

    Changes are cheap and may come from any thread, also while ``predict`` runs in another: a prediction works on the
    state it started from. Masks are remembered for every state, so undo and redo give them back bit for bit, even
    where the model's own update after a correction is approximate.
    """

    def __init__(
        self,
        model: Model,
        image: MetaTensor,
        options: EncodeOptions | None = None,
        overlap: OverlapPolicy = OverlapPolicy.LAST_WINS,
    ) -> None:
        """Starts without objects.

        Args:
            model: segments.
            image: [1, I, J, K] on its own grid; never changed.
            options: how the model looks at the image.
            overlap: what becomes of voxels that several objects claim.
        """
        self.model = model
        self.image = image
        self.grid = Grid.of(image)
        self._states: list[SessionState] = [
            SessionState(overlap=OverlapPolicy(overlap), options=options or EncodeOptions())
        ]
        self._position = 0
        self._next_entry_id = 1
        self._next_revision = 0
        self._results: dict[ResultKey, ObjectResult] = {}
        self._image_sha256: str | None = None
        self._encoding: Encoding | None = None
        self._state_lock = threading.RLock()
        self._compute_lock = threading.Lock()

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

    @property
    def image_sha256(self) -> str:
        """Hash of the image's voxels and grid; computed once."""
        if self._image_sha256 is None:
            from volseg.data import image_sha256

            self._image_sha256 = image_sha256(self.image)
        return self._image_sha256

    def result(self, object_id: int) -> ObjectResult | None:
        """The object's mask for its prompts as they are now, before overlaps; None until predicted."""
        with self._state_lock:
            return self._results.get(_key(self.state, object_id))

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

    # ---- prediction

    def encode(self, progress: ProgressCallback | None = None) -> None:
        """Prepares the image ahead of the first prediction; ``predict`` does it otherwise."""
        with self._computing(progress):
            self._encoding_for(self.state.options, progress)

    def predict(
        self,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
        exact: bool = False,
    ) -> LabelMap:
        """Segments the objects whose prompts changed and puts all objects together.

        Objects without prompts are left out. A locked object keeps the mask it has.

        Args:
            progress: told the part done; may cancel, which leaves everything as before.
            partial: given masks as they grow; called from the computing thread.
            exact: compute again what came from an approximate update.

        Raises:
            Cancelled: ``progress`` asked to stop.
            PromptError: a prompt does not fit the image; the message names it.
            CapabilityError: the model does not serve a prompt's kind.
        """
        state = self.state
        if self._outdated(state, exact):
            with self._computing(progress):
                self._compute(state, progress, partial, exact)
        return self._label_map(state)

    # ---- files

    def save(self, path: str | Path) -> None:
        """Writes the session as JSON: all prompts and the undo history, no voxels of the image, no patient data.

        Raises:
            WriteError: the file cannot be written; nothing is left half-written.
        """
        from volseg import __version__
        from volseg.data import atomic_path

        image_sha256 = self.image_sha256  # before the lock: it may take a second
        with self._state_lock:
            saved = SavedSession(
                image_sha256, self.grid, ModelIdentity.of(self.model.card), tuple(self._states), self._position
            )
        text = json.dumps(saved.to_json(f"volseg {__version__}"), indent=1)
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Model,
        image: MetaTensor,
        *,
        allow_other_image: bool = False,
        allow_other_model: bool = False,
    ) -> Session:
        """Reads what ``save`` wrote; masks are computed when first asked for.

        Args:
            path: the session file.
            model: the model the session was made with.
            image: the image the session was made on.
            allow_other_image: accept voxels that differ, such as a copy in another orientation; prompts stay at
                their place in mm.
            allow_other_model: accept another model or version.

        Raises:
            SessionError: the file is damaged, or made with another image or model.
        """
        saved = SavedSession.from_json(read_json(Path(path), SessionError))
        session = cls(model, image)
        _check_model(saved, ModelIdentity.of(model.card), allow_other_model)
        if saved.image_sha256 != session.image_sha256:
            message = (
                f"the session was made on another image (hash {saved.image_sha256[:12]}, shape {saved.grid.shape}), "
                f"this one has hash {session.image_sha256[:12]}, shape {session.grid.shape}"
            )
            if not allow_other_image:
                raise SessionError(f"{message}; open the original, or allow another image")
            logger.warning("%s; its prompts stay at their place in mm", message)
        if not saved.grid.same_as(session.grid):
            saved = saved.moved(session.grid)
        session._states = list(saved.states)
        session._position = saved.position
        entries = [entry for state in saved.states for entry in state.history]
        session._next_entry_id = max((entry.entry_id for entry in entries), default=0) + 1
        session._next_revision = max((entry.revision for entry in entries), default=-1) + 1
        return session

    # ---- end

    def close(self) -> None:
        """Frees the encoded image; remembered masks stay. Waits for a running prediction."""
        with self._compute_lock:
            if self._encoding is not None:
                self._encoding.close()
                self._encoding = None

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

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

    def _step(self, by: int, what: str) -> None:
        with self._state_lock:
            if not 0 <= self._position + by < len(self._states):
                raise SessionError(f"there is nothing to {what}")
            self._position += by

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
            self.model.check_capabilities(item)
            PromptSet(self.grid, (alone,)).on_grid(self.grid)
        except PromptError as error:
            # Checked by itself, the prompt was called number 1.
            raise PromptError(str(error).replace(alone.describe(0), item.describe(index), 1)) from error

    def _outdated(self, state: SessionState, exact: bool) -> PromptSet | None:
        """The objects to compute, None if there are none."""
        with self._state_lock:
            todo = []
            for item in state.objects:
                known = self._results.get(_key(state, item.object_id))
                if known is not None and (known.exact or not exact or item.locked):
                    continue
                prompted = state.prompted(item.object_id)
                if prompted.prompts:
                    todo.append(prompted)
        return PromptSet(self.grid, tuple(todo)) if todo else None

    def _compute(
        self, state: SessionState, progress: ProgressCallback | None, partial: PartialCallback | None, exact: bool
    ) -> None:
        # Asked again: the prediction that was waited for may have done it.
        todo = self._outdated(state, exact)
        if todo is None:
            return
        encoding = self._encoding_for(state.options, progress)
        done = self.model.segment(encoding, todo, exact=exact, progress=progress, partial=partial)
        settings = encoding.settings
        results = {
            _key(state, mask.object_id): ObjectResult.of(mask, seconds, exact=exact, settings=settings)
            for mask, seconds in zip(done.masks, done.seconds, strict=True)
        }
        with self._state_lock:
            self._results.update(results)

    def _encoding_for(self, options: EncodeOptions, progress: ProgressCallback | None) -> Encoding:
        if self._encoding is not None and self._encoding.options == options:
            return self._encoding
        encoding = self.model.encode(self.image, options, progress)
        if self._encoding is not None:
            self._encoding.close()
        self._encoding = encoding
        return encoding

    @contextmanager
    def _computing(self, progress: ProgressCallback | None) -> Iterator[None]:
        """One computation at a time; one that waits can be cancelled."""
        while not self._compute_lock.acquire(timeout=WAIT_S):
            report(progress, 0.0, "waiting for another prediction")
        try:
            yield
        finally:
            self._compute_lock.release()

    def _label_map(self, state: SessionState) -> LabelMap:
        from volseg import __version__

        with self._state_lock:
            known = [(item, self._results.get(_key(state, item.object_id))) for item in state.objects]
        found = [(item, result) for item, result in known if result is not None]
        card = self.model.card
        provenance = Provenance(
            software=f"volseg {__version__}",
            model=f"{card.name} {card.version}",
            model_sha256=card.weights_sha256,
            image_sha256=self.image_sha256,
            settings=tuple(dict.fromkeys(setting for _, result in found for setting in result.settings)),
        )
        return LabelMap.from_masks(
            self.grid,
            [result.mask() for _, result in found],
            [Label(item.object_id, item.title, item.color_rgb) for item, _ in found],
            state.overlap,
            provenance,
        )


def replay(
    path: str | Path,
    model: Model,
    image: MetaTensor,
    *,
    allow_other_image: bool = False,
    allow_other_model: bool = False,
    progress: ProgressCallback | None = None,
) -> LabelMap:
    """Computes a saved session's label map without a person; arguments and errors as in ``Session.load``."""
    with Session.load(
        path, model, image, allow_other_image=allow_other_image, allow_other_model=allow_other_model
    ) as session:
        return session.predict(progress, exact=True)


def _key(state: SessionState, object_id: int) -> ResultKey:
    return state.options, tuple(entry.revision for entry in state.entries_of(object_id))


def _check_model(saved: SavedSession, identity: ModelIdentity, allow_other: bool) -> None:
    if saved.model == identity:
        return
    message = f"the session was made with model {saved.model}, this one is {identity}"
    if not allow_other:
        raise SessionError(f"{message}; load that model, or allow another one")
    logger.warning("%s; masks may differ", message)
