"""What words are worth to somebody who clicks: the same clicks with them and without."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from volseg.evaluation.placement import centre_click, key_slice
from volseg.evaluation.protocols.base import Dialogue, Need, Protocol
from volseg.evaluation.protocols.static import corrected
from volseg.evaluation.reference import Reference
from volseg.prompts import PromptKind, Text

CLICKS, WORDS = "clicks", "words+clicks"
CLICK_STEPS = ("1 click", "2 clicks", "3 clicks")
WORDS_STEPS = ("words", *(f"words, {step}" for step in CLICK_STEPS))


class WordsClicks(Protocol):
    """Asks about every object apart from the others.

    - ``clicks``: a click on the voxel of the middle occupied slice furthest from the object's border, then two where
      the answer is most wrong (``error_click``),
    - ``words+clicks``: the object's phrase or name, then three clicks where the answer is most wrong.
    """

    name: ClassVar[str] = "words-clicks"
    version: ClassVar[int] = 1
    parts: ClassVar[dict[str, frozenset[Need]]] = {
        CLICKS: frozenset({(PromptKind.POINT, True), (PromptKind.POINT, False)}),
        WORDS: frozenset({(PromptKind.TEXT, True), (PromptKind.POINT, True), (PromptKind.POINT, False)}),
    }

    def dialogues(self, reference: Reference, parts: tuple[str, ...], seed: int) -> tuple[Dialogue, ...]:
        """See ``Protocol.dialogues``; nothing is drawn."""
        found = []
        for item in reference.objects:
            if CLICKS in parts:
                first = centre_click(item.truth, key_slice(item.truth))
                found.append(Dialogue((item,), CLICK_STEPS, partial(corrected, item, first, CLICK_STEPS)))
            if WORDS in parts:
                words = Text(item.phrase or item.name)
                found.append(Dialogue((item,), WORDS_STEPS, partial(corrected, item, words, WORDS_STEPS)))
        return tuple(found)
