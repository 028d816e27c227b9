"""Interleaved timing, peak memory of processes, and what a benchmark reports."""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes:
        case: what was measured.
        target: the ratio to the best peer that is allowed.
        ratio: volseg's median divided by the best peer's.
        medians: by contestant, in ``unit``.
        unit: what the medians count.
        runs: interleaved runs of every contestant.
        notes: what else was found: peers that do not count for the ratio, wall clock, checks of the masks.
    """

    case: str
    target: float
    ratio: float
    medians: Mapping[str, float]
    unit: str
    runs: int
    notes: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether the target holds."""
        return self.ratio <= self.target


def interleaved(
    contestants: Mapping[str, Callable[[], object]], runs: int, device: torch.device, seconds_at_most: float
) -> tuple[dict[str, float], dict[str, float], int]:
    """Runs everybody in turn, and everybody as often.

    Args:
        contestants: what to run, by name.
        runs: how often each.
        device: on a CPU the process's CPU time counts, so that others on the machine disturb less.
        seconds_at_most: no further round starts once so much wall clock has gone into this.

    Returns:
        Median seconds by name: of CPU time on a CPU, of wall clock elsewhere; median wall clock; the rounds made.
    """
    counted: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    began = time.perf_counter()
    rounds = 0
    while rounds < runs and (rounds == 0 or time.perf_counter() - began < seconds_at_most):
        for name, run in contestants.items():
            gc.collect()
            wall_start, cpu_start = _now(device), time.process_time()
            run()
            wall_end, cpu_end = _now(device), time.process_time()
            wall[name].append(wall_end - wall_start)
            counted[name].append(cpu_end - cpu_start if device.type == "cpu" else wall_end - wall_start)
        rounds += 1
    return _medians(counted), _medians(wall), rounds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def start_peak() -> int:
    """Forgets the peak so far (that of loading the model) and gives the resident bytes now; Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """The most bytes that were resident since `start_peak`."""
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
