"""What ``volseg batch`` says: the plan, progress, and how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from volseg.cli.console import Console

if TYPE_CHECKING:
    from volseg.batch import Plan, Progress, Summary
    from volseg.batch.find import Found
    from volseg.batch.run import ProgressListener
    from volseg.batch.shard import Shard

LINE_EVERY_S = 30.0
"""How often progress is said where there is no terminal."""


@contextmanager
def progress_shown() -> Iterator[ProgressListener]:
    """A bar on a terminal; elsewhere a line now and then."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                typer.echo(_words(progress), err=True)

        yield line
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(BarColumn(), TextColumn("{task.description}"), console=RichConsole(stderr=True)) as bar:
        task = bar.add_task("loading the model", total=None)

        def advance(progress: Progress) -> None:
            ended = progress.done + progress.failed
            bar.update(task, total=progress.total, completed=ended, description=_words(progress))

        yield advance


def _words(progress: Progress) -> str:
    text = f"{progress.done + progress.failed} of {_count(progress.total, 'case')}"
    if progress.failed:
        text += f", {progress.failed} failed"
    if progress.eta_s is not None:
        text += f", {progress.cases_per_minute:.1f} a minute, about {_duration(progress.eta_s)} left"
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say_plan(console: Console, plan: Plan, part: Shard, found: Found, *, quiet: bool) -> None:
    """What was found, and what was passed over and why.

    Args:
        console: for warnings.
        plan: of the run.
        part: of all cases.
        found: what the inputs hold.
        quiet: warnings only.
    """
    from collections import Counter

    from volseg.batch.options import NEEDS_DICOM

    for reason, count in sorted(found.passed_over.items()):
        console.warn(f"passed over {count}: {reason}")
    if found.renamed:
        console.warn(
            f"{_count(found.renamed, 'file')} in folders with DICOM called by hashes, as names may be of patients; "
            "--ids names keeps them, --write-mapping FILE.csv tells which is which"
        )
    wanted = sorted(NEEDS_DICOM & set(plan.options.formats))
    without = sum(not item.case.is_dicom for item in plan.cases)
    if wanted and without:
        console.warn(f"no {', '.join(wanted)} for {_count(without, 'case')} not in DICOM")
    states = Counter(str(item.state) for item in plan.cases)
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    shard = f" in shard {part}" if part.count > 1 else ""
    if not quiet:
        typer.echo(f"{_count(len(plan.cases), 'case')}{shard}: {listed}", err=True)


def say_mapping(path: Path, found: Found) -> None:
    """Where the list of cases was written."""
    text = f"wrote {path}: {_count(len(found.cases), 'case')}; for your eyes only"
    typer.echo(f"{text}; with prompts filled in, it may be given as INPUT", err=True)


def print_plan(plan: Plan) -> None:
    """A line a case on stdout, and what all will take."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    from volseg.batch.memory import NO_BUDGET
    from volseg.batch.plan import State

    table = Table("case", "format", "", "voxels", "memory", "time", "plan", "why", box=None)
    for item in plan.cases:
        size = " x ".join(str(n) for n in item.size.shape) or "?"
        seconds = "" if item.seconds is None else _duration(item.seconds)
        reason = item.error.message if item.error is not None else item.reason
        table.add_row(item.case.case_id, item.case.format, item.size.modality, size, f"{item.size.bytes / 1e6:.0f} MB",
                      seconds, str(item.state), reason)  # fmt: skip
    console = RichConsole(width=250)
    with console.capture() as capture:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
    todo, time = plan.of(State.TODO), ""
    if todo and plan.seconds is None:
        time = ", no case of this model was done here yet, so its time is not known"
    elif todo and plan.seconds is not None:
        time = f", about {_duration(plan.seconds)}"
    memory = "no memory budget" if plan.budget_bytes == NO_BUDGET else f"memory budget {plan.budget_bytes / 1e9:.1f} GB"
    typer.echo(f"to do: {_count(len(todo), 'case')}{time}; {_count(plan.workers, 'worker')}, {memory}")


def say_summary(console: Console, summary: Summary, *, quiet: bool) -> None:
    """Every failed case by name, and the totals."""
    from volseg.batch.record import Stage

    for record in summary.failed:
        assert record.error is not None
        again = record.run_id != summary.run_id and record.error.stage is not Stage.PLAN
        before = " (before; --retry-failed tries again)" if again else ""
        console.complain(f"{record.case_id}: {record.error.kind}: {record.error.message}{before}")
    rate = 60 * len(summary.computed) / summary.seconds if summary.seconds else 0.0
    text = (
        f"{len(summary.done)} done, {len(summary.failed)} failed; {len(summary.computed)} of them now, in "
        f"{_duration(summary.seconds)} ({rate:.1f} a minute)"
    )
    if summary.interrupted:
        text = f"stopped; {text}, {len(summary.unfinished)} not finished; run the same command again to go on"
    if not quiet:
        typer.echo(text)
