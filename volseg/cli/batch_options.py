"""From the options of ``volseg batch`` to what a run needs."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from volseg.cli.choices import AUTO

if TYPE_CHECKING:
    from volseg.batch import SeriesFilter
    from volseg.batch.options import OutputFormat
    from volseg.batch.shard import Shard

FORMATS = ("nifti", "seg.nrrd", "dicom-seg", "rtstruct", "sr", "csv", "overlay", "html")
EXECUTORS = ("local", "ray")
ID_STYLES = (AUTO, "names", "hashed")
SEGMENT_KINDS = ("binary", "labelmap")
ACCELERATORS = ("nvidia[0-9]*", "dxg", "kfd")
"""Devices of NVIDIA's driver, of Windows' for Linux, and of AMD's."""


@dataclass(frozen=True)
class Resources:
    """What a run may take.

    Attributes:
        devices: dealt out to the workers.
        workers: how many; what a Ray cluster has room for is not known here and counts as one.
        threads: of each worker.
        budget_bytes: memory for all workers together.
        wanted: workers that were asked for, where memory is enough for fewer only; else the same as ``workers``.
    """

    devices: tuple[str, ...]
    workers: int
    threads: int
    budget_bytes: int
    wanted: int

    @classmethod
    def of_options(
        cls, executor: str, devices: str, workers: int | None, threads: int | None, memory_gb: float | None
    ) -> Resources:
        """What the options ask for, and for those not given what this machine has free."""
        from volseg.batch.memory import NO_BUDGET, WORKER_BYTES, default_budget_bytes

        on_ray = executor == "ray"
        names = ("cpu",) if on_ray else _devices(devices)
        wanted = workers if workers is not None else len(names)
        each = threads if threads is not None else max(1, len(_cores()) // (1 if on_ray else wanted))
        if memory_gb is not None:
            budget = int(memory_gb * 1e9)
        else:
            budget = NO_BUDGET if on_ray else default_budget_bytes()
        affordable = max(1, budget // (2 * WORKER_BYTES))
        return cls(names, min(wanted, affordable), each, budget, wanted)


def output_formats(text: str) -> tuple[OutputFormat, ...]:
    """Reads ``--formats``."""
    from volseg.batch.options import OutputFormat

    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise typer.BadParameter(f"--formats takes some of {', '.join(FORMATS)}, got {text!r}")
    return tuple(OutputFormat(name) for name in dict.fromkeys(names))


def series_filter(
    modalities: list[str] | None, description: str | None, min_slices: int, max_slices: int | None
) -> SeriesFilter:
    """Reads the options that choose among DICOM series."""
    from volseg.batch import SeriesFilter

    try:
        pattern = None if description is None else re.compile(description, re.IGNORECASE)
    except re.error as error:
        raise typer.BadParameter(f"--series-description is no regular expression: {error}") from error
    codes = frozenset(part.strip().upper() for item in modalities or () for part in item.split(",") if part.strip())
    return SeriesFilter(codes, pattern, min_slices, max_slices)


def shard_of(text: str | None) -> Shard:
    """Reads ``--shard``, or the environment of a job array."""
    from volseg.batch.shard import Shard, ShardError

    try:
        return Shard.from_environment() if text is None else Shard.parse(text)
    except ShardError as error:
        raise typer.BadParameter(str(error)) from error


def _devices(text: str) -> tuple[str, ...]:
    if text == AUTO:
        if sys.platform == "linux" and not any(list(Path("/dev").glob(pattern)) for pattern in ACCELERATORS):
            return ("cpu",)  # asking torch would take seconds
        import torch

        if torch.cuda.is_available():
            return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        return ("mps",) if torch.backends.mps.is_available() else ("cpu",)
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names or any(re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None for name in names):
        raise typer.BadParameter(f"--devices takes auto, or some of cpu, mps, cuda:N between commas; got {text!r}")
    return names


def _cores() -> set[int]:
    """The cores this process may use; a Slurm job has some of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
