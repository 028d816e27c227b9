"""The session: what an annotator, a script or a batch job works with."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from volseg.data.labelmap import Label, LabelMap, OverlapPolicy, Provenance
from volseg.errors import SessionError
from volseg.geometry import Grid
from volseg.models.base import Model, PartialCallback
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import PromptSet
from volseg.sessions.document import Document
from volseg.sessions.engine import Engine, LocalEngine
from volseg.sessions.json_file import read_json
from volseg.sessions.result import ObjectResult
from volseg.sessions.session_file import ModelIdentity, SavedSession
from volseg.sessions.state import SessionState

if TYPE_CHECKING:
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

WAIT_S = 0.05
"""How often a prediction that waits for another one asks whether it should stop."""

ResultKey: TypeAlias = tuple[EncodeOptions, tuple[int, ...]]
"""What an object's mask depends on: the options and the revisions of its prompts."""


class Session(Document):
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
        self._start(LocalEngine(model, image), options, overlap)

    @classmethod
    def on(
        cls,
        engine: Engine,
        options: EncodeOptions | None = None,
        overlap: OverlapPolicy = OverlapPolicy.LAST_WINS,
    ) -> Session:
        """A session whose masks are computed by ``engine``, such as a server; else as the constructor."""
        session = cls.__new__(cls)
        session._start(engine, options, overlap)
        return session

    def _start(self, engine: Engine, options: EncodeOptions | None, overlap: OverlapPolicy) -> None:
        state = SessionState(overlap=OverlapPolicy(overlap), options=options or EncodeOptions())
        super().__init__(Grid.of(engine.image), engine.card, state)
        self.engine = engine
        self._results: dict[ResultKey, ObjectResult] = {}
        self._image_sha256: str | None = None
        self._compute_lock = threading.Lock()

    @property
    def image(self) -> MetaTensor:
        """The image, [1, I, J, K]."""
        return self.engine.image

    @property
    def image_sha256(self) -> str:
        """Hash of the image's voxels and grid; computed once."""
        if self._image_sha256 is None:
            from volseg.data import image_sha256

            self._image_sha256 = image_sha256(self.image)
        return self._image_sha256

    # ---- results

    def key(self, object_id: int) -> ResultKey:
        """What the object's mask depends on now; equal as long as a mask stays valid."""
        return _key(self.state, object_id)

    def result(self, object_id: int) -> ObjectResult | None:
        """The object's mask for its prompts as they are now, before overlaps; None until predicted."""
        with self._state_lock:
            return self._results.get(_key(self.state, object_id))

    def outdated(self, exact: bool = False) -> tuple[int, ...]:
        """The objects that ``predict`` would compute, in order.

        Args:
            exact: count what came from an approximate update, too.
        """
        return self._outdated(self.state, exact)

    def encode(self, progress: ProgressCallback | None = None) -> None:
        """Prepares the image ahead of the first prediction; ``predict`` does it otherwise."""
        with self._computing(progress):
            self.engine.encode(self.state.options, progress)

    def compute(
        self,
        object_ids: Collection[int] | None = None,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
        exact: bool = False,
    ) -> None:
        """Segments objects whose prompts changed; ``result`` gives their masks.

        Args:
            object_ids: only these; None takes all.
            progress: told the part done; may cancel, which leaves everything as before.
            partial: given masks as they grow; called from the computing thread.
            exact: compute again what came from an approximate update.

        Raises:
            Cancelled: ``progress`` asked to stop.
            PromptError: a prompt does not fit the image; the message names it.
            CapabilityError: the model does not serve a prompt's kind.
        """
        self._compute(self.state, object_ids, progress, partial, exact)

    def predict(
        self,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
        exact: bool = False,
    ) -> LabelMap:
        """Segments the objects whose prompts changed and puts all objects together.

        Objects without prompts are left out. A locked object keeps the mask it has. Arguments and errors as in
        ``compute``.
        """
        state = self.state
        self._compute(state, None, progress, partial, exact)
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
                image_sha256, self.grid, ModelIdentity.of(self.card), tuple(self._states), self._position
            )
        text = json.dumps(saved.to_json(f"volseg {__version__}"), indent=1)
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def restore(self, path: str | Path, *, allow_other_image: bool = False, allow_other_model: bool = False) -> None:
        """Puts what ``save`` wrote in the place of everything said so far; masks are computed when first asked for.

        Args:
            path: the session file.
            allow_other_image: accept voxels that differ, such as a copy in another orientation; prompts stay at
                their place in mm.
            allow_other_model: accept another model or version.

        Raises:
            SessionError: the file is damaged, or made with another image or model; nothing has changed then.
        """
        saved = SavedSession.from_json(read_json(Path(path), SessionError))
        _check_model(saved, ModelIdentity.of(self.card), allow_other_model)
        if saved.image_sha256 != self.image_sha256:
            message = (
                f"the session was made on another image (hash {saved.image_sha256[:12]}, shape {saved.grid.shape}), "
                f"this one has hash {self.image_sha256[:12]}, shape {self.grid.shape}"
            )
            if not allow_other_image:
                raise SessionError(f"{message}; open the original, or allow another image")
            logger.warning("%s; its prompts stay at their place in mm", message)
        if not saved.grid.same_as(self.grid):
            saved = saved.moved(self.grid)
        self._replace_all(saved)

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
        """A session from what ``save`` wrote.

        Args:
            path: the session file.
            model: the model the session was made with.
            image: the image the session was made on.
            allow_other_image: see ``restore``.
            allow_other_model: see ``restore``.

        Raises:
            SessionError: the file is damaged, or made with another image or model.
        """
        session = cls(model, image)
        session.restore(path, allow_other_image=allow_other_image, allow_other_model=allow_other_model)
        return session

    # ---- end

    def close(self) -> None:
        """Frees the encoded image; remembered masks stay. Waits for a running prediction."""
        with self._compute_lock:
            self.engine.close()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    # ---- inside

    def _outdated(self, state: SessionState, exact: bool, among: Collection[int] | None = None) -> tuple[int, ...]:
        with self._state_lock:
            todo = []
            for item in state.objects:
                known = self._results.get(_key(state, item.object_id))
                if known is not None and (known.exact or not exact or item.locked):
                    continue
                if state.entries_of(item.object_id) and (among is None or item.object_id in among):
                    todo.append(item.object_id)
        return tuple(todo)

    def _compute(
        self,
        state: SessionState,
        object_ids: Collection[int] | None,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
        exact: bool,
    ) -> None:
        if not self._outdated(state, exact, object_ids):
            return
        with self._computing(progress):
            # Asked again: the prediction that was waited for may have done it.
            todo = self._outdated(state, exact, object_ids)
            if not todo:
                return
            prompts = PromptSet(self.grid, tuple(state.prompted(object_id) for object_id in todo))
            done = self.engine.segment(state.options, prompts, exact=exact, progress=progress, partial=partial)
        with self._state_lock:
            self._results.update({_key(state, result.object_id): result for result in done})

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
        provenance = Provenance(
            software=f"volseg {__version__}",
            model=f"{self.card.name} {self.card.version}",
            model_sha256=self.card.weights_sha256,
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
