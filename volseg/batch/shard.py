"""Which part of the cases this process does, on a cluster that starts several."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from volseg.errors import VolsegError


class ShardError(VolsegError, ValueError):
    """A shard that is malformed, or whose variables contradict one another."""


@dataclass(frozen=True)
class Shard:
    """One of several equal parts.

    Attributes:
        index: from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ShardError(f"a shard is I/N with I from 1 to N, got {self.index + 1}/{self.count}")

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.index + 1}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``I/N``, I from 1 to N.

        Raises:
            ShardError: it is something else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None:
            raise ShardError(f"a shard is I/N with I from 1 to N, got {text!r}")
        return cls(int(found.group(1)) - 1, int(found.group(2)))

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Shard:
        """The part that a cluster's variables tell; all of it where there are none.

        A Slurm array (SLURM_ARRAY_TASK_ID, _COUNT, _MIN, _STEP) and torchrun's or another launcher's RANK and
        WORLD_SIZE; where both are there, each task of the array is shared by its ranks.

        Raises:
            ShardError: a variable is no number, or contradicts another.
        """
        given = os.environ if variables is None else variables
        array, ranks = cls(), cls()
        if "SLURM_ARRAY_TASK_ID" in given and "SLURM_ARRAY_TASK_COUNT" in given:
            first = _number(given, "SLURM_ARRAY_TASK_MIN", 0)
            step = _number(given, "SLURM_ARRAY_TASK_STEP", 1)
            array = cls(
                (_number(given, "SLURM_ARRAY_TASK_ID") - first) // step, _number(given, "SLURM_ARRAY_TASK_COUNT")
            )
        if "RANK" in given and "WORLD_SIZE" in given:
            ranks = cls(_number(given, "RANK"), _number(given, "WORLD_SIZE"))
        return cls(array.index * ranks.count + ranks.index, array.count * ranks.count)


def _number(given: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = given.get(name, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ShardError(f"the environment's {name} is {text!r}; expected a whole number") from None
