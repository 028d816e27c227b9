"""What a computation costs: wall time and peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

RESET_PEAK = "5"
"""Written to Linux's ``clear_refs``, sets the peak of the resident memory back to what is resident now."""


@dataclass
class Cost:
    """Filled in when the block that is measured ends.

    Attributes:
        seconds: wall time.
        peak_mib: most memory the process had resident; since the block began on Linux, since its start elsewhere.
        gpu_peak_mib: most memory of the GPU that torch had allocated; 0 without one.
    """

    seconds: float = 0.0
    peak_mib: float = 0.0
    gpu_peak_mib: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures the block, also where it fails."""
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    cost, start = Cost(), time.perf_counter()
    try:
        yield cost
    finally:
        if gpu:
            torch.cuda.synchronize()
            cost.gpu_peak_mib = torch.cuda.max_memory_allocated() / 2**20
        cost.seconds = time.perf_counter() - start
        cost.peak_mib = _peak_resident_mib()


def _peak_resident_mib() -> float:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
