"""Words."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Grid
from volseg.prompts.base import Prompt, PromptKind, as_sign


@dataclass(frozen=True)
class Text(Prompt):
    """A phrase that names the object.

    Attributes:
        text: the phrase, as the person wrote it.
        positive: whether the phrase names the object or something it is not.

    Raises:
        PromptError: the phrase is blank, or the sign neither true nor false.
    """

    tag: ClassVar[str] = "text"

    text: str
    positive: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise PromptError(f"a text prompt has words, got {reprlib.repr(self.text)}")
        object.__setattr__(self, "positive", as_sign(self.positive, "text"))

    @property
    def kind(self) -> PromptKind:
        """Always ``PromptKind.TEXT``."""
        return PromptKind.TEXT

    def moved(self, source: Grid, target: Grid) -> Text:
        """Itself: words have no place."""
        return self

    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """None, [0, 3]: words have no place."""
        return np.empty((0, 3), dtype=np.int64)

    def check_inside(self, grid: Grid) -> None:
        """Words fit every grid."""

    def to_json(self) -> dict[str, Any]:
        """See ``Prompt.to_json``."""
        return {"type": self.tag, "text": self.text, "positive": self.positive}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Text:
        """See ``Prompt.from_json``."""
        return cls(data.get("text", ""), data.get("positive", True))
