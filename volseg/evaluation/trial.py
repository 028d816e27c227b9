"""A model and one encoded image, asked and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.evaluation.cost import Cost, measured
from volseg.evaluation.protocols.base import Answer
from volseg.evaluation.reference import ReferenceObject
from volseg.models.base import Encoding, Model
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback
from volseg.prompts import Prompt, PromptedObject, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor


class Trial:
    """Asks a model about one image. The image is encoded anew for every trial, so that a step's time is honest.

    Args:
        model: the model.
        image: [1, I, J, K].
        options: how the model looks at the image.
        progress: may cancel.
    """

    def __init__(
        self, model: Model, image: MetaTensor, options: EncodeOptions, progress: ProgressCallback | None = None
    ) -> None:
        self._model = model
        self._image = image
        self._options = options
        self._progress = progress
        self._encoding: Encoding | None = None

    def ask(self, item: ReferenceObject, step: str, prompts: tuple[Prompt, ...]) -> Answer:
        """The model's answer about one object; the first one pays for the encoding."""
        return self.ask_all(step, {item: prompts})[0]

    def ask_all(self, step: str, prompts: Mapping[ReferenceObject, tuple[Prompt, ...]]) -> tuple[Answer, ...]:
        """The model's answers about several objects, in their order."""
        with measured() as cost:
            if self._encoding is None:
                self._encoding = self._model.encode(self._image, self._options)
            objects = tuple(PromptedObject(item.object_id, said, item.name) for item, said in prompts.items())
            result = self._model.segment(
                self._encoding, PromptSet(self._encoding.grid, objects), progress=self._progress
            )
        shared = replace(cost, seconds=cost.seconds / len(prompts))
        return tuple(
            Answer(item, step, said, mask, shared)
            for (item, said), mask in zip(prompts.items(), result.masks, strict=True)
        )

    def repeat(self, answer: Answer, step: str) -> Answer:
        """An earlier answer that nothing was said against; it costs nothing."""
        return replace(answer, step=step, cost=Cost(0.0, answer.cost.peak_mib, answer.cost.gpu_peak_mib))

    def nothing(self, item: ReferenceObject, step: str) -> Answer:
        """The empty answer of a step at which nothing can be said."""
        return Answer(item, step, (), ObjectMask.of(item.object_id, item.truth.grid, np.zeros((1, 1, 1), bool)), Cost())

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Frees the encoding."""
        if self._encoding is not None:
            self._encoding.close()
