"""The process that computes for a window. Ends with the window's process, however that ends."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from typing import IO, Any

from volseg.errors import VolsegError
from volseg.sessions.engine import LocalEngine
from volseg.sessions.worker.courtesy import Busy, Courtesy
from volseg.sessions.worker.messages import (
    Answer,
    Asked,
    Cancel,
    Close,
    Encode,
    Grown,
    Open,
    Request,
    Segment,
    Told,
    read_message,
    read_voxels,
    sendable,
    write_message,
)

logger = logging.getLogger(__name__)

NICENESS = 5
"""How much the window goes first where both want the same core; other programs of this machine go first, too."""


class Child:
    """Answers requests one by one.

    Args:
        heard: where messages come from.
        said: where answers go.
    """

    def __init__(self, heard: IO[bytes], said: IO[bytes]) -> None:
        self._heard, self._said = heard, said
        self._requests: queue.SimpleQueue[tuple[Asked, Any]] = queue.SimpleQueue()
        self._number = self._cancelled = 0
        self._engines: dict[int, LocalEngine] = {}
        self._model: tuple[tuple[str, str], Any] | None = None

    def listen(self) -> None:
        """Takes messages until the window's process ends; then so does this one, whatever it computes."""
        try:
            while True:
                message = read_message(self._heard)
                if isinstance(message, Cancel):
                    self._cancelled = message.number
                    continue
                request, voxels = message.request, None
                if isinstance(request, Open):
                    voxels = read_voxels(self._heard, request.grid.shape, request.dtype)
                self._requests.put((message, voxels))
        except EOFError:
            pass
        finally:
            # No clean-up: the main thread may compute for a long time, and nothing of it is wanted any more.
            os._exit(0)

    def serve(self) -> None:
        """Computes."""
        while True:
            asked, voxels = self._requests.get()
            self._number = asked.number
            try:
                answer = Answer(self._do(asked.request, voxels))
            except Exception as error:
                if not isinstance(error, VolsegError):
                    logger.exception("%s failed", type(asked.request).__name__)
                answer = Answer(error=sendable(error))
            write_message(self._said, answer)

    def _do(self, request: Request, voxels: Any) -> Any:
        match request:
            case Open():
                return self._open(request, voxels)
            case Encode(engine_id, options):
                self._engines[engine_id].encode(options, self._progress)
                return None
            case Segment(engine_id, options, prompts, exact):
                return self._engines[engine_id].segment(
                    options, prompts, exact=exact, progress=self._progress, partial=self._partial
                )
            case Close(engine_id):
                engine = self._engines.pop(engine_id, None)
                if engine is not None:
                    engine.close()
                return None

    def _open(self, request: Open, voxels: Any) -> Any:
        import torch
        from monai.data import MetaTensor

        from volseg.sessions.desk.opening import load_kept

        wanted = request.model, request.device
        if self._model is None or self._model[0] != wanted:
            # The old one goes first: two may not fit.
            self._model = None
            self._model = wanted, load_kept(request.model, request.device, request.encodings_folder)
        meta = {"modality": request.modality} if request.modality else {}
        affine = torch.tensor(request.grid.affine_ras)
        image = MetaTensor(torch.from_numpy(voxels)[None], affine=affine, meta=meta)
        self._engines[request.engine_id] = LocalEngine(self._model[1], image)
        return self._model[1].card

    def _progress(self, fraction: float, text: str) -> bool:
        wanted = self._cancelled != self._number
        if wanted:
            write_message(self._said, Told(fraction, text))
        return wanted

    def _partial(self, mask: Any) -> None:
        from volseg.sessions.result import ObjectResult

        write_message(self._said, Grown(ObjectResult.of(mask, 0.0, exact=False)))


def main() -> None:
    """Serves standard input and output; what libraries print goes to standard error."""
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ctrl-C in a terminal goes to all its processes; the window decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    child = Child(sys.stdin.buffer, said)
    threading.Thread(target=child.listen, name="volseg-listen", daemon=True).start()
    # The first request needs them in any case; meanwhile the window's process reads the image.
    import monai.data  # noqa: F401

    _leave_a_core()
    for descriptor in sys.argv[1:]:
        Courtesy(Busy(int(descriptor))).everywhere()
    child.serve()


def _leave_a_core() -> None:
    """Computes in one thread fewer than there are cores, as the window draws meanwhile, perhaps in software."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores - 1)))


if __name__ == "__main__":
    main()
