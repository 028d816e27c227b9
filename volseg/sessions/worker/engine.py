"""A model in a process of its own, as a session's engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.errors import Cancelled, ModelError
from volseg.geometry import Grid
from volseg.models.base import PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import PromptSet
from volseg.sessions.result import ObjectResult
from volseg.sessions.worker.messages import Close, Encode, Open, Segment
from volseg.sessions.worker.process import ProcessLost, WorkerProcess

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.sessions.desk.desk import OpenSession
    from volseg.sessions.session import Session

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""A process that ends over a request, perhaps for lack of memory, is started again for it once."""


class WorkerEngine:
    """An ``Engine`` whose model runs in another process of this machine. Masks are those of a ``LocalEngine``.

    A process that is lost is started again without anybody noticing but for the time it takes.

    Args:
        process: computes.
        model: see ``load_model``.
        device: see ``load_model``.
        image: [1, I, J, K] on its own grid; never changed. The process gets a copy.
        encodings_folder: where encoded images are kept for later sessions; None keeps none.
        progress: told how far the opening is; may cancel.

    Raises:
        ModelError: the model cannot be loaded, or the process does not stay.
    """

    def __init__(
        self,
        process: WorkerProcess,
        model: str | Path,
        device: str,
        image: MetaTensor,
        encodings_folder: Path | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._process = process
        self._image = image
        self._voxels = image.detach().cpu().as_tensor().numpy()[0]
        self._opens = Open(
            process.new_id(),
            str(model),
            device,
            encodings_folder,
            Grid.of(image),
            self._voxels.dtype.str,
            str(image.meta.get("modality") or ""),
        )
        self._pid: int | None = None
        self._card: ModelCard | None = None
        self._lasting(lambda pid: None, progress)

    @property
    def card(self) -> ModelCard:
        """See ``Engine.card``."""
        assert self._card is not None
        return self._card

    @property
    def image(self) -> MetaTensor:
        """See ``Engine.image``."""
        return self._image

    def encode(self, options: EncodeOptions, progress: ProgressCallback | None = None) -> None:
        """See ``Engine.encode``."""
        request = Encode(self._opens.engine_id, options)
        self._lasting(lambda pid: self._process.ask(request, pid, progress=progress), progress)

    def segment(
        self,
        options: EncodeOptions,
        prompts: PromptSet,
        *,
        exact: bool = False,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
    ) -> tuple[ObjectResult, ...]:
        """See ``Engine.segment``."""
        request = Segment(self._opens.engine_id, options, prompts, exact)
        results: tuple[ObjectResult, ...] = self._lasting(
            lambda pid: self._process.ask(request, pid, progress=progress, partial=partial), progress
        )
        return results

    def close(self) -> None:
        """See ``Engine.close``."""
        pid, self._pid = self._pid, None
        if pid is not None:
            with suppress(ProcessLost, Cancelled):
                self._process.ask(Close(self._opens.engine_id), pid)

    # ---- inside

    def _lasting(self, work: Callable[[int], Any], progress: ProgressCallback | None) -> Any:
        """Does what needs the process, and starts it again where it was lost."""
        for _ in range(ATTEMPTS):
            try:
                pid = self._process.start()
                if pid != self._pid:
                    self._open(pid, progress)
                return work(pid)
            except ProcessLost as error:
                logger.warning("%s", error)
                lost = error
        raise ModelError(
            f"{lost} {ATTEMPTS} times over the same work, perhaps for lack of memory; try a smaller image or model"
        ) from lost

    def _open(self, pid: int, progress: ProgressCallback | None) -> None:
        report(progress, 0.3, f"loading {self._opens.model}")
        self._card = self._process.ask(self._opens, pid, self._voxels, progress)
        self._pid = pid


def worker_session(
    process: WorkerProcess,
    read: Callable[[], MetaTensor],
    model: str | Path,
    *,
    device: str = "auto",
    options: EncodeOptions | None = None,
    encodings_folder: Path | None = None,
) -> OpenSession:
    """For a desk: like ``local_session``, with the model in a process of its own.

    Args:
        process: computes; one serves several sessions.
        read: gives the image, [1, I, J, K].
        model: see ``load_model``.
        device: see ``load_model``.
        options: how the model looks at the image.
        encodings_folder: where encoded images are kept for later sessions; None keeps none.
    """

    def open_session(progress: ProgressCallback) -> Session:
        from volseg.sessions.session import Session

        process.start()
        report(progress, 0.0, "reading the image")
        image = read()
        return Session.on(WorkerEngine(process, model, device, image, encodings_folder, progress), options)

    return open_session
