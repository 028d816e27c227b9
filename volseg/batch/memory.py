"""What cases will need, what is there, and what was used."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from volseg.batch.case import Case, SeriesSource

WORK_BYTES_PER_VOXEL = 10
"""Beside the image: label map, masks, and float copies that models and pictures make while they work."""

WORKER_BYTES = 1100 << 20
"""A worker without a case: Python, torch and a small model, as measured."""

BUDGET_PART = 0.8
"""Part of the memory that is free now that a run takes if it is not told."""

NO_BUDGET = 1 << 62
"""On a cluster, where each node has its own memory and the cluster places the workers."""

_UNKNOWN_BYTES = 64 << 20
"""For an image whose header cannot be read; it fails before it takes any."""


@dataclass(frozen=True)
class Size:
    """What a header says an image will take.

    Attributes:
        shape: number of voxels along i, j, k; empty if the header cannot be read.
        modality: the DICOM code, where there is one.
        bytes: peak while it is segmented, the worker's own not counted.
    """

    shape: tuple[int, ...]
    modality: str
    bytes: int


def size_of(case: Case) -> Size:
    """Estimates from headers alone; what cannot be read counts little, as it will fail soon."""
    if isinstance(case.source, SeriesSource):
        shape, itemsize, modality = case.source.shape, max(2, case.source.bits // 8), case.source.modality
    else:
        from volseg.data import describe_image
        from volseg.errors import VolsegError

        try:
            described = describe_image(case.source.path)
        except (VolsegError, OSError):
            return Size((), "", _UNKNOWN_BYTES)
        if described.grid is None:
            return Size((), "", _UNKNOWN_BYTES)
        shape, modality = described.grid.shape, str(described.modality or "")
        itemsize = int(re.sub(r"\D", "", described.dtype) or 32) // 8
    i, j, k = shape
    return Size(shape, modality, i * j * k * (itemsize + WORK_BYTES_PER_VOXEL))


def available_bytes() -> int:
    """Memory that can be taken now, in the limits of a container or a job."""
    found = []
    with suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found.append(int(re.search(r"MemAvailable:\s+(\d+) kB", text).group(1)) << 10)  # type: ignore[union-attr]
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        found.append(max(0, limit - used))
    if not found and hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=8 << 30)


def default_budget_bytes() -> int:
    """What a run may take if nobody says."""
    return int(available_bytes() * BUDGET_PART)


def reset_peak() -> None:
    """Starts measuring the process's peak anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The process's peak since ``reset_peak``, or since its start where the system cannot reset."""
    with suppress(OSError, ValueError, AttributeError):
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", text).group(1)) << 10  # type: ignore[union-attr]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
