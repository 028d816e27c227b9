"""Fixed prompts that need no randomness, and corrections after a box."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

from volseg.data.object_mask import ObjectMask
from volseg.evaluation.placement import box_2d, box_3d, centre_click, error_click, key_mask, key_slice
from volseg.evaluation.protocols.base import CLICKS, Answer, Curve, Dialogue, Need, Protocol
from volseg.evaluation.reference import Reference, ReferenceObject
from volseg.evaluation.trial import Trial
from volseg.prompts import Prompt, PromptKind

BOX, CLICK, BOX_3D, MASK, CORRECTED = "box", "click", "box3d", "mask", "box+clicks"
CORRECTION_STEPS = tuple(f"box+{number}" for number in range(1, CLICKS + 1))


def _box(truth: ObjectMask) -> Prompt:
    return box_2d(truth, key_slice(truth))


def _click(truth: ObjectMask) -> Prompt:
    return centre_click(truth, key_slice(truth))


def _mask(truth: ObjectMask) -> Prompt:
    return key_mask(truth, key_slice(truth))


class Static(Protocol):
    """Asks about every object apart from the others.

    - ``box``: the tight 2D box on the middle occupied slice of the acquisition plane,
    - ``box+1`` ... ``box+5``: after it one click after another where the answer is most wrong (``error_click``),
    - ``click``: a single click, on the voxel of that slice furthest from the object's border,
    - ``box3d``: the tight 3D box,
    - ``mask``: the object's mask on that slice.
    """

    name: ClassVar[str] = "static"
    version: ClassVar[int] = 1
    parts: ClassVar[dict[str, frozenset[Need]]] = {
        BOX: frozenset({(PromptKind.BOX_2D, True)}),
        CORRECTED: frozenset({(PromptKind.BOX_2D, True), (PromptKind.POINT, True), (PromptKind.POINT, False)}),
        CLICK: frozenset({(PromptKind.POINT, True)}),
        BOX_3D: frozenset({(PromptKind.BOX_3D, True)}),
        MASK: frozenset({(PromptKind.MASK, True)}),
    }
    curves: ClassVar[tuple[Curve, ...]] = (Curve("box + clicks", (BOX, *CORRECTION_STEPS), CORRECTION_STEPS),)

    _FIRST: ClassVar[dict[str, Callable[[ObjectMask], Prompt]]] = {CLICK: _click, BOX_3D: box_3d, MASK: _mask}

    def dialogues(self, reference: Reference, parts: tuple[str, ...], seed: int) -> tuple[Dialogue, ...]:
        """See ``Protocol.dialogues``; nothing is drawn."""
        found = []
        for item in reference.objects:
            if BOX in parts or CORRECTED in parts:
                steps = (BOX, *CORRECTION_STEPS) if CORRECTED in parts else (BOX,)
                found.append(Dialogue((item,), steps, partial(corrected, item, _box(item.truth), steps)))
            for part, first in self._FIRST.items():
                if part in parts:
                    found.append(Dialogue((item,), (part,), partial(corrected, item, first(item.truth), (part,))))
        return tuple(found)


def corrected(item: ReferenceObject, first: Prompt, steps: tuple[str, ...], trial: Trial) -> Iterator[Answer]:
    """A first prompt, then clicks; where nothing is wrong any more the answer stays."""
    answer = trial.ask(item, steps[0], (first,))
    yield answer
    for step in steps[1:]:
        click = error_click(answer.mask, item.truth)
        answer = trial.repeat(answer, step) if click is None else trial.ask(item, step, (*answer.prompts, click))
        yield answer
