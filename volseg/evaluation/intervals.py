"""Means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 4000
LEVEL = 0.95
CHUNK = 500
"""Resamples drawn at a time, so that many cases need little memory."""


@dataclass(frozen=True)
class Interval:
    """A mean over cases and where it lies, had other cases been drawn.

    Attributes:
        mean: over ``n`` cases.
        low: percentile bootstrap, 95 %; None for fewer than two cases.
        high: likewise.
        n: number of cases.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain data, rounded."""
        ends = [None if end is None else round(end, 5) for end in (self.low, self.high)]
        return {"mean": round(self.mean, 5), "low": ends[0], "high": ends[1], "n": self.n}

    def __str__(self) -> str:
        """Such as ``.853 [.801, .894]``."""
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval | None:
    """The mean of values, one a case, with its interval; None of no values.

    Cases are drawn with replacement (B. Efron, R. Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13).
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return None
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, None, None, 1)
    rng = np.random.default_rng(seed)
    drawn = [array[rng.integers(len(array), size=(CHUNK, len(array)))].mean(axis=1) for _ in range(RESAMPLES // CHUNK)]
    low, high = np.quantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), len(array))
