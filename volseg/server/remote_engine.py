"""A model on a server, as a session's engine."""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from volseg.data.hashing import image_sha256
from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, ModelError, PromptError, ServerError, ServerRefusedError, VolsegError
from volseg.geometry import Grid
from volseg.models.base import PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback, report
from volseg.prompts import PromptSet
from volseg.server.bodies import IMAGE_HEADER
from volseg.server.connection import LOAD_S, Answered, Connection
from volseg.server.mask_changes import change_from_json
from volseg.server.wire import UNKNOWN_IMAGE, UNKNOWN_SESSION, card_from_json, error_from_json, options_to_json
from volseg.sessions.result import ObjectResult

if TYPE_CHECKING:
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

POLL_S = 0.2
"""How long one question for news waits, so that whoever watches the progress can cancel in between."""

ATTEMPTS = 3
"""A server that forgets a session as soon as it is opened is not asked for ever."""

T = TypeVar("T")


class RemoteEngine:
    """An ``Engine`` whose model runs on a server.

    The server gets the image's voxels, grid and modality, and the prompts; no names, paths or other header fields. The
    image is sent once: it is known there by its hash. What a server forgets (restart, idle time) is opened anew without
    anybody noticing but for the time it takes.

    Args:
        connection: to the server.
        model: a name the server offers.
        image: [1, I, J, K] on its own grid; never changed.
        progress: told how much of the image is sent; may cancel.

    Raises:
        ServerError: the server cannot be reached, or is full.
        ServerRefusedError: the token is wrong, or the image too large.
        ModelError: the server does not offer the model.
    """

    def __init__(
        self, connection: Connection, model: str, image: MetaTensor, progress: ProgressCallback | None = None
    ) -> None:
        self._connection = connection
        self._model = model
        self._image = image
        self._grid = Grid.of(image)
        self._sha256 = image_sha256(image)
        self._session_id: str | None = None
        self._known: dict[int, tuple[int, ObjectResult]] = {}
        self._revision = 0
        self._card: ModelCard | None = None
        self._lasting(lambda session_id: None, progress)

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
        body = {"options": options_to_json(options), "prompts": None}
        self._lasting(lambda session_id: self._job(session_id, body, progress, None), progress)

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
        if not prompts.objects:
            return ()
        names = {item.object_id: item.name for item in prompts.objects if item.name}
        unnamed = PromptSet(prompts.grid, tuple(replace(item, name="") for item in prompts.objects))
        body = {"options": options_to_json(options), "prompts": unnamed.to_json(), "exact": exact}

        def told(fraction: float, text: str) -> bool | None:
            return None if progress is None else progress(fraction, _with_names(text, names))

        try:
            results = self._lasting(
                lambda session_id: self._job(session_id, body, progress and told, partial), progress and told
            )
        except (VolsegError, ConnectionError) as error:
            if isinstance(error, PromptError | Cancelled) or type(error).__name__ == "CapabilityError":
                raise type(error)(_with_names(str(error), names)) from error
            raise
        missing = [item.title for item in prompts.objects if item.object_id not in results]
        if missing:
            raise ServerRefusedError(f"the server sent no mask of {', '.join(missing)}")
        return tuple(results[item.object_id] for item in prompts.objects)

    def close(self) -> None:
        """Ends the session on the server, if it can be reached."""
        session_id, self._session_id = self._session_id, None
        self._forget()
        if session_id is not None:
            with suppress(Answered, VolsegError):
                self._connection.ask("DELETE", f"/sessions/{session_id}", timeout_s=3.0)

    # ---- inside

    def _lasting(self, work: Callable[[str], T], progress: ProgressCallback | None) -> T:
        """Does what needs a session, and opens one anew where the server forgot it."""
        for _ in range(ATTEMPTS):
            try:
                return work(self._session_id or self._open(progress))
            except Answered as answer:
                if answer.kind not in (UNKNOWN_SESSION, UNKNOWN_IMAGE):
                    raise answer.error from None
                logger.info("the server does not know the session any more; it is opened anew")
                self._session_id = None
                self._forget()
        raise ServerError(f"the server at {self._connection.url} forgets sessions as soon as they are opened")

    def _forget(self) -> None:
        self._known.clear()
        self._revision = 0

    def _open(self, progress: ProgressCallback | None) -> str:
        report(progress, 0.0, "asking the server")
        address = f"/images/{self._sha256}"
        if not self._connection.ask("GET", address).get("present"):
            self._check_size()
            self._connection.put(address, self._packed(progress), self._head())
        body = {
            "model": self._model,
            "image_sha256": self._sha256,
            "grid": self._grid.to_json(),
            "modality": _modality(self._image),
        }
        report(progress, 0.0, "the server loads the model")
        answer = self._connection.ask("POST", "/sessions", json=body, timeout_s=LOAD_S)
        card = card_from_json(answer.get("card"))
        known = self._card
        if known is not None and (known.version, known.weights_sha256) != (card.version, card.weights_sha256):
            raise ModelError(
                f"the server now has {card.name} {card.version}, the session was made with {known.version}; "
                "start that one there, or open the session anew"
            )
        self._card = card
        self._session_id = str(answer["session"])
        return self._session_id

    def _check_size(self) -> None:
        limits = self._connection.ask("GET", "").get("limits")
        limit = limits.get("image_bytes") if isinstance(limits, dict) else None
        size = self._image.numel() * self._image.element_size()
        if isinstance(limit, int | float) and size > limit:
            raise ServerRefusedError(
                f"the image has {size / 2**20:.1f} MB of voxels, the server takes {limit / 2**20:.1f} MB; crop it, or "
                "start the server with a larger --max-image-mb"
            )

    def _head(self) -> dict[str, str]:
        dtype = self._image.as_tensor()[:, :1, :1, :1].cpu().numpy().dtype.newbyteorder("<").str
        head = {**self._grid.to_json(), "dtype": dtype}
        return {IMAGE_HEADER: json.dumps(head), "content-encoding": "deflate"}

    def _packed(self, progress: ProgressCallback | None) -> Iterator[bytes]:
        """The voxels in C order, little-endian, as a zlib stream."""
        import numpy as np

        voxels = self._image.detach().cpu().as_tensor().numpy()[0]
        pack = zlib.compressobj(level=1)
        for number, plane in enumerate(voxels):
            report(progress, number / len(voxels), "sending the image")
            little = np.ascontiguousarray(plane, dtype=voxels.dtype.newbyteorder("<"))
            if piece := pack.compress(little.tobytes()):
                yield piece
        yield pack.flush()

    def _job(
        self,
        session_id: str,
        body: dict[str, Any],
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> dict[int, ObjectResult]:
        jobs = f"/sessions/{session_id}/jobs"
        number = self._connection.ask("POST", jobs, json=body).get("job")
        results: dict[int, ObjectResult] = {}
        try:
            while True:
                query = {"after": self._revision, "wait": POLL_S}
                news = self._connection.ask("GET", f"{jobs}/{number}", params=query)
                for item in news.get("masks", ()):
                    self._take(item, results, partial)
                self._revision = int(news.get("revision", 0))
                state = news.get("state")
                if state == "done":
                    return results
                if state == "failed":
                    raise error_from_json(422, news)[1]
                if state == "cancelled":
                    raise ServerError("the server gave the computation up; it is asked again")
                report(progress, float(news.get("fraction", 0.0)), str(news.get("text", "")))
        except (Cancelled, KeyboardInterrupt):
            with suppress(Answered, VolsegError):
                self._connection.ask("DELETE", f"{jobs}/{number}", timeout_s=3.0)
            raise

    def _take(self, item: dict[str, Any], results: dict[int, ObjectResult], partial: PartialCallback | None) -> None:
        try:
            object_id, revision, base = (int(item[key]) for key in ("object", "revision", "base"))
            presence = None if item["presence"] is None else float(item["presence"])
            final = bool(item["final"])
            seconds, exact = float(item.get("seconds", 0.0)), bool(item.get("exact", False))
            settings = tuple((str(name), str(value)) for name, value in item.get("settings", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerRefusedError(f"the server sent a mask that cannot be understood: {error}") from error
        known: ObjectMask | None = None
        if base:
            seen = self._known.get(object_id)
            if seen is None or seen[0] != base:
                raise ServerRefusedError("the server sent a change of a mask that was never sent")
            known = seen[1].mask()
        mask = change_from_json(known, item, object_id, self._grid, presence)
        result = ObjectResult.of(mask, seconds, exact=exact, settings=settings)
        self._known[object_id] = revision, result
        if final:
            results[object_id] = result
        elif partial is not None:
            partial(mask)


def _modality(image: MetaTensor) -> str:
    from volseg.data.modality import Modality

    # What ``guess_modality`` makes of the header, without anything else that may stand there.
    stated = str(image.meta.get("modality") or "").strip().upper()
    return {"CT": "CT", "MR": "MR", "MRI": "MR", "": ""}.get(stated, str(Modality.OTHER))


def _with_names(text: str, names: dict[int, str]) -> str:
    """What the server says of ``object N``, as the person calls it."""
    return re.sub(r"\bobject (\d+)\b", lambda found: names.get(int(found[1]), found[0]), text)
