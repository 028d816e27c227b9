"""Whatever computes masks for a session: a model in this process, or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback
from volseg.prompts import PromptSet
from volseg.sessions.result import ObjectResult

if TYPE_CHECKING:
    from monai.data import MetaTensor


class Engine(Protocol):
    """One image before one model.

    A session keeps everything a person said and all results; its engine keeps only what saves time (the encoded image,
    tracks), so an engine that is lost can be replaced by another one without losing work. Methods that compute block,
    and are called from one thread at a time.

    An engine that reaches its model over a network raises errors that are also ``ConnectionError`` while it cannot be
    reached; whoever drives it tries again, and the engine then connects anew by itself.
    """

    @property
    def card(self) -> ModelCard:
        """What the model says about itself."""

    @property
    def image(self) -> MetaTensor:
        """The image, [1, I, J, K]; never changed."""

    def encode(self, options: EncodeOptions, progress: ProgressCallback | None = None) -> None:
        """Prepares the image ahead of the first prompt; ``segment`` does it otherwise.

        Raises:
            Cancelled: ``progress`` asked to stop.
            VolsegError: the image or the options do not fit the model.
        """

    def segment(
        self,
        options: EncodeOptions,
        prompts: PromptSet,
        *,
        exact: bool = False,
        progress: ProgressCallback | None = None,
        partial: PartialCallback | None = None,
    ) -> tuple[ObjectResult, ...]:
        """Segments every object of ``prompts``; arguments and errors as in ``Model.segment``."""

    def close(self) -> None:
        """Frees what was remembered; later calls compute it again."""


class LocalEngine:
    """A model in this process.

    Args:
        model: segments.
        image: [1, I, J, K] on its own grid; never changed.
    """

    def __init__(self, model: Model, image: MetaTensor) -> None:
        self.model = model
        self._image = image
        self._encoding: Encoding | None = None

    @property
    def card(self) -> ModelCard:
        """See ``Engine.card``."""
        return self.model.card

    @property
    def image(self) -> MetaTensor:
        """See ``Engine.image``."""
        return self._image

    def encode(self, options: EncodeOptions, progress: ProgressCallback | None = None) -> None:
        """See ``Engine.encode``."""
        self._encoding_for(options, progress).warm_up(progress)

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
        encoding = self._encoding_for(options, progress)
        done = self.model.segment(encoding, prompts, exact=exact, progress=progress, partial=partial)
        return tuple(
            ObjectResult.of(mask, seconds, exact=exact, settings=encoding.settings)
            for mask, seconds in zip(done.masks, done.seconds, strict=True)
        )

    def close(self) -> None:
        """See ``Engine.close``."""
        if self._encoding is not None:
            self._encoding.close()
            self._encoding = None

    def _encoding_for(self, options: EncodeOptions, progress: ProgressCallback | None) -> Encoding:
        if self._encoding is not None and self._encoding.options == options:
            return self._encoding
        encoding = self.model.encode(self._image, options, progress)
        self.close()
        self._encoding = encoding
        return encoding
