"""The text track of the CVPR 2025 challenge."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.evaluation.protocols.base import Answer, Dialogue, Need, Protocol
from volseg.evaluation.reference import Reference, ReferenceObject
from volseg.prompts import PromptKind, Text

if TYPE_CHECKING:
    from volseg.evaluation.trial import Trial

TEXT_STEP = "text"


class Cvpr25Text(Protocol):
    """One phrase an object, all objects of a case together. Semantic scores; archives of instances also F1.

    The phrase is the archive's, else the object's name. For archives that tell instances apart, ``dice`` is that of
    matched pairs and ``f1`` of instances stands in the column of that name.
    """

    name: ClassVar[str] = "cvpr25-text"
    version: ClassVar[int] = 1
    parts: ClassVar[dict[str, frozenset[Need]]] = {TEXT_STEP: frozenset({(PromptKind.TEXT, True)})}

    def dialogues(self, reference: Reference, parts: tuple[str, ...], seed: int) -> tuple[Dialogue, ...]:
        """See ``Protocol.dialogues``; nothing is drawn."""
        objects = reference.objects
        if reference.instances:
            truth = np.any([item.truth.full() for item in objects], axis=0)
            together = ObjectMask.of(1, reference.grid, truth)
            parts_of = tuple(item.truth for item in objects)
            objects = (ReferenceObject(1, objects[0].name, together, objects[0].phrase, instances=parts_of),)
        return (Dialogue(objects, (TEXT_STEP,), partial(_dialogue, objects)),)


def _dialogue(objects: tuple[ReferenceObject, ...], trial: Trial) -> Iterator[Answer]:
    yield from trial.ask_all(TEXT_STEP, {item: (Text(item.phrase or item.name),) for item in objects})
