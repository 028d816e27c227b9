"""How a tracker runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from volseg.errors import ModelError


class Precision(StrEnum):
    """How mask logits are kept. Memories do not depend on it."""

    HALF = "float16"
    SINGLE = "float32"


@dataclass(frozen=True)
class TrackSettings:
    """How a tracker runs.

    Attributes:
        max_conditioning_frames: at most so many prompted frames are read as conditioning frames, the nearest first
            (one before and one after the current frame always); None reads all, as Meta's predictor does.
        stop_after_empty: a pass ends after so many frames in a row without the object (object score not above zero, or
            no pixel in the mask), and goes on after the next prompted frame; None never ends early.
        stop_after_unchanged: after a correction the recomputation ends after so many frames in a row whose masks are as
            they were.
        unchanged_dice: the Dice from which on two masks count as the same.
        rows_per_batch: at most so many rows (object x direction) go through the network at once.
        keep_logits: precision of the logits in the result.
    """

    max_conditioning_frames: int | None = 8
    stop_after_empty: int | None = 3
    stop_after_unchanged: int = 3
    unchanged_dice: float = 0.99
    rows_per_batch: int = 16
    keep_logits: Precision = Precision.HALF

    def __post_init__(self) -> None:
        """Refuses numbers with which nothing can run."""
        if self.max_conditioning_frames is not None and self.max_conditioning_frames < 2:
            raise ModelError(f"max_conditioning_frames is {self.max_conditioning_frames}; expected 2 or more, or None")
        if self.stop_after_empty is not None and self.stop_after_empty < 1:
            raise ModelError(f"stop_after_empty is {self.stop_after_empty}; expected 1 or more, or None")
        if self.stop_after_unchanged < 1 or self.rows_per_batch < 1:
            raise ModelError("stop_after_unchanged and rows_per_batch must be 1 or more")
        if not 0 < self.unchanged_dice <= 1:
            raise ModelError(f"unchanged_dice is {self.unchanged_dice}; expected above 0 and at most 1")
