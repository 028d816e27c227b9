"""How far a run is, by steps and by time, and the learning rate that belongs to it."""

from __future__ import annotations

import math
import time
from typing import Protocol


class Schedule(Protocol):
    """What pace depends on; see ``ScheduleConfig``."""

    @property
    def steps(self) -> int:
        """Steps in all, at most."""

    @property
    def minutes(self) -> float:
        """Minutes in all, at most; 0 for any number."""

    @property
    def warm_up(self) -> int:
        """Steps of linear warm-up."""

    @property
    def learning_rate(self) -> float:
        """The peak."""


class Clock:
    """Seconds that a run has taken, over all its continuations.

    Args:
        seconds: taken before.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + time.monotonic() - self._since

    def restart(self, seconds: float) -> None:
        """Counts on from ``seconds``."""
        self._before, self._since = seconds, time.monotonic()


def is_over(step: int, seconds: float, schedule: Schedule) -> bool:
    """Whether a run ends after ``step`` steps and so many seconds."""
    return step >= schedule.steps or 0 < schedule.minutes * 60 <= seconds


def learning_rate(step: int, schedule: Schedule, seconds: float = 0.0) -> float:
    """Linear warm-up, then half a cosine down to a hundredth, by steps or by time, whichever is further on."""
    warm = min(1.0, (step + 1) / max(1, schedule.warm_up))
    part = max(0, step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
    if schedule.minutes:
        part = max(part, seconds / (60 * schedule.minutes))
    return schedule.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, part))) / 2)
