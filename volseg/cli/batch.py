"""``volseg batch``: many cases, on this machine, as part of a job array, or on a Ray cluster."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volseg.cli.choices import AUTO, FRAMES, MODALITIES, OVERLAPS, PLANES, one_of
from volseg.cli.console import Console
from volseg.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from volseg.batch import Executor, Plan, Progress, SeriesFilter, Summary
    from volseg.batch.options import OutputFormat
    from volseg.batch.run import ProgressListener
    from volseg.batch.shard import Shard
    from volseg.models.card import ModelCard

FORMATS = ("nifti", "seg.nrrd", "dicom-seg", "rtstruct", "sr", "csv", "overlay", "html")
EXECUTORS = ("local", "ray")
ID_STYLES = ("names", "hashed")
SEGMENT_KINDS = ("binary", "labelmap")
ACCELERATORS = ("nvidia[0-9]*", "dxg", "kfd")
"""Devices of NVIDIA's driver, of Windows' for Linux, and of AMD's."""

LINE_EVERY_S = 30.0
"""How often progress is said where there is no terminal."""

CASES_PANEL = "Cases and prompts"
MODEL_PANEL = "Model and image"
RUN_PANEL = "Running"
CLUSTER_PANEL = "Clusters"


def batch(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, 'globs', lists (.csv, .json) and DICOM archives in any layout.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all results; made if needed.")],
    formats: Annotated[
        str, typer.Option(metavar="LIST", help=f"What to write, between commas: {', '.join(FORMATS)}.")
    ] = "nifti,csv",
    # ---- cases
    prompts_folder: Annotated[
        Path | None,
        typer.Option(
            "--prompts-dir",
            help="Folder of prompt files or sessions named like the images; beside the images if not given.",
            exists=True,
            file_okay=False,
            rich_help_panel=CASES_PANEL,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHRASE", help="Said about every case without other prompts.", rich_help_panel=CASES_PANEL
        ),
    ] = None,
    frame: Annotated[
        str,
        typer.Option(
            metavar="|".join(FRAMES),
            help="Frame of boxes and points in lists.",
            callback=one_of(*FRAMES),
            rich_help_panel=CASES_PANEL,
        ),
    ] = FRAMES[0],
    series_modality: Annotated[
        list[str] | None,
        typer.Option(metavar="CT|MR|PT|...", help="Only DICOM series of these kinds.", rich_help_panel=CASES_PANEL),
    ] = None,
    series_description: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Only DICOM series whose description matches.", rich_help_panel=CASES_PANEL),
    ] = None,
    min_slices: Annotated[
        int, typer.Option(min=1, help="Only DICOM series with at least so many.", rich_help_panel=CASES_PANEL)
    ] = 3,
    max_slices: Annotated[
        int | None, typer.Option(min=1, help="Only DICOM series with at most so many.", rich_help_panel=CASES_PANEL)
    ] = None,
    ids: Annotated[
        str,
        typer.Option(
            metavar="|".join(ID_STYLES),
            help="Call results after the files, or by a hash where file names tell who the patient is.",
            callback=one_of(*ID_STYLES),
            rich_help_panel=CASES_PANEL,
        ),
    ] = ID_STYLES[0],
    write_mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Which result is of which file; keep it where patient data may lie.",
            rich_help_panel=CASES_PANEL,
        ),
    ] = None,
    # ---- model and image
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="See 'volseg models list'.", rich_help_panel=MODEL_PANEL)
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|LO,HI", help="Intensity window; by modality if not given.", rich_help_panel=MODEL_PANEL
        ),
    ] = None,
    plane: Annotated[
        str,
        typer.Option(
            metavar="|".join((AUTO, *PLANES)),
            help="Plane of the slices, for slice-wise models.",
            callback=one_of(AUTO, *PLANES),
            rich_help_panel=MODEL_PANEL,
        ),
    ] = AUTO,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(MODALITIES),
            help="What all images are, where files do not say.",
            callback=one_of(*MODALITIES),
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option(min=0, help="Channel or time point, from 0, of 4D files.", rich_help_panel=MODEL_PANEL),
    ] = None,
    overlap: Annotated[
        str,
        typer.Option(
            metavar="|".join(OVERLAPS),
            callback=one_of(*OVERLAPS),
            help="Who keeps voxels that several objects claim; layers reach seg.nrrd and DICOM.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = OVERLAPS[0],
    segment_kind: Annotated[
        str,
        typer.Option(
            metavar="|".join(SEGMENT_KINDS),
            callback=one_of(*SEGMENT_KINDS),
            help="Kind of DICOM segmentation.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = SEGMENT_KINDS[0],
    exact: Annotated[
        bool, typer.Option("--exact", help="Forgo approximate updates.", rich_help_panel=MODEL_PANEL)
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Let a bundle run code that is not volseg's.", rich_help_panel=MODEL_PANEL),
    ] = False,
    # ---- running
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; one a device if not given, one on a CPU.", rich_help_panel=RUN_PANEL),
    ] = None,
    devices: Annotated[
        str,
        typer.Option(metavar="auto|cpu|cuda:0,cuda:1,...", help="Dealt out to the workers.", rich_help_panel=RUN_PANEL),
    ] = AUTO,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="A worker's; all cores shared if not given.", rich_help_panel=RUN_PANEL),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="GB",
            help="For all workers together; 80 % of what is free if not given.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Longest that a case may take.", rich_help_panel=RUN_PANEL),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done.", rich_help_panel=RUN_PANEL)
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also what failed before.", rich_help_panel=RUN_PANEL)
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="What became of every case.", rich_help_panel=RUN_PANEL),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="The report (or the plan) on stdout.", rich_help_panel=RUN_PANEL)
    ] = False,
    # ---- clusters
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do part I of N only; by Slurm's array or RANK and WORLD_SIZE if not given.",
            rich_help_panel=CLUSTER_PANEL,
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="|".join(EXECUTORS),
            callback=one_of(*EXECUTORS),
            help="Where the workers run.",
            rich_help_panel=CLUSTER_PANEL,
        ),
    ] = EXECUTORS[0],
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster; one on this machine if not given.", rich_help_panel=CLUSTER_PANEL),
    ] = None,
    gpus_per_worker: Annotated[
        float,
        typer.Option(min=0.0, help="Share of a GPU, for Ray; 0 computes on the CPU.", rich_help_panel=CLUSTER_PANEL),
    ] = 0.0,
) -> None:
    """Segments many cases: the model is loaded once a worker, and what was done is not done again.

    Run the same command again to go on after anything. For example: volseg batch archive/ -o out --model sam2-nano
    --prompts-dir prompts --formats nifti,csv,overlay,html
    """
    console: Console = ctx.obj
    from volseg.batch import CaseOptions, FindSettings, IdStyle, ModelChoice, make_plan
    from volseg.batch.find import find_cases
    from volseg.batch.memory import NO_BUDGET, WORKER_BYTES, default_budget_bytes
    from volseg.batch.plan import in_shard
    from volseg.data import Modality, OverlapPolicy
    from volseg.data.dicom.kinds import SegmentationKind
    from volseg.geometry import Frame, Plane
    from volseg.models.options import EncodeOptions
    from volseg.models.registry import DEFAULT_MODEL, model_card

    part = _shard(shard)
    encode = EncodeOptions(
        window, None if plane == AUTO else Plane(plane), None if modality is None else Modality(modality)
    )
    options = CaseOptions(
        _formats(formats), encode, channel, exact, OverlapPolicy(overlap), SegmentationKind(segment_kind)
    )
    choice = ModelChoice(model or DEFAULT_MODEL, trust)
    settings = FindSettings(
        series=_series(series_modality, series_description, min_slices, max_slices),
        ids=IdStyle(ids),
        frame=Frame(frame),
        prompts_folder=prompts_folder,
        texts=tuple(text or ()),
        leave_out=output,
    )
    found = find_cases(inputs, settings)
    mine = [case for case in found.cases if in_shard(case, part.index, part.count)]
    if write_mapping is not None:
        from volseg.batch.mapping import write_mapping_file

        write_mapping_file(found.cases, write_mapping)
    card: ModelCard = model_card(choice.name)
    names = ("cpu",) if executor == "ray" else _devices(devices)
    count = workers if workers is not None else len(names)
    each = threads if threads is not None else max(1, len(_cores()) // (1 if executor == "ray" else count))
    if memory_gb is not None:
        budget = int(memory_gb * 1e9)
    else:
        budget = NO_BUDGET if executor == "ray" else default_budget_bytes()
    affordable = max(1, budget // (2 * WORKER_BYTES))
    if count > affordable:
        console.warn(f"{count} workers would leave no memory for cases, so there are {affordable}")
        count = affordable
    plan = make_plan(
        mine,
        output,
        options,
        card,
        budget_bytes=budget,
        workers=count,
        retry_failed=retry_failed,
        elsewhere=[case.case_id for case in found.cases if not in_shard(case, part.index, part.count)],
    )
    _say_plan(console, plan, part, found.passed_over, quiet=json_)
    if dry_run:
        if json_:
            console.print_json(plan.to_json())
        else:
            _print_plan(plan)
        return

    from volseg.batch.run import run_batch
    from volseg.batch.summary import write_report

    place: Executor
    if executor == "ray":
        from volseg.batch.ray_executor import RayExecutor

        place = RayExecutor(workers or 0, address, gpus_per_worker)
    else:
        from volseg.batch.local import LocalExecutor

        place = LocalExecutor(count, names)
    with _terminated_as_interrupted(), _progress() as listener:
        summary = run_batch(
            plan, place, choice, threads=each, timeout_s=timeout, progress=listener, debug=console.debug
        )
    if report is not None:
        write_report(summary, report)
    if json_:
        console.print_json(summary.to_json())
    _say_summary(console, summary, output, quiet=json_)
    if summary.interrupted:
        raise typer.Exit(ExitCode.CANCELLED)
    if summary.failed:
        raise typer.Exit(ExitCode.CASES_FAILED)


def _formats(text: str) -> tuple[OutputFormat, ...]:
    from volseg.batch.options import OutputFormat

    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise typer.BadParameter(f"--formats takes some of {', '.join(FORMATS)}, got {text!r}")
    return tuple(OutputFormat(name) for name in dict.fromkeys(names))


def _series(
    modalities: list[str] | None, description: str | None, min_slices: int, max_slices: int | None
) -> SeriesFilter:
    from volseg.batch import SeriesFilter

    try:
        pattern = None if description is None else re.compile(description, re.IGNORECASE)
    except re.error as error:
        raise typer.BadParameter(f"--series-description is no regular expression: {error}") from error
    codes = frozenset(part.strip().upper() for item in modalities or () for part in item.split(",") if part.strip())
    return SeriesFilter(codes, pattern, min_slices, max_slices)


def _shard(text: str | None) -> Shard:
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


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Slurm asks a job to end with SIGTERM; it ends as after Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress() -> Iterator[ProgressListener]:
    """A bar on a terminal; elsewhere a line now and then."""
    import time

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
    text = f"{progress.done + progress.failed} of {progress.total} cases"
    if progress.failed:
        text += f", {progress.failed} failed"
    if progress.eta_s is not None:
        text += f", {progress.cases_per_minute:.1f} a minute, about {_duration(progress.eta_s)} left"
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say_plan(console: Console, plan: Plan, part: Shard, passed_over: dict[str, int], *, quiet: bool) -> None:
    from collections import Counter

    from volseg.batch.options import NEEDS_DICOM

    for reason, count in sorted(passed_over.items()):
        console.warn(f"passed over {count}: {reason}")
    wanted = sorted(NEEDS_DICOM & set(plan.options.formats))
    without = sum(not item.case.is_dicom for item in plan.cases)
    if wanted and without:
        console.warn(f"{without} cases are not DICOM and get no {', '.join(wanted)}")
    states = Counter(str(item.state) for item in plan.cases)
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    if not quiet:
        typer.echo(f"{len(plan.cases)} cases{f' in shard {part}' if part.count > 1 else ''}: {listed}", err=True)


def _print_plan(plan: Plan) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from volseg.batch.memory import NO_BUDGET
    from volseg.batch.plan import State

    table = Table("case", "format", "voxels", "memory", "time", "plan", "why", box=None)
    for item in plan.cases:
        size = " x ".join(str(n) for n in item.size.shape) or "?"
        seconds = "" if item.seconds is None else _duration(item.seconds)
        reason = item.error.message if item.error is not None else item.reason
        table.add_row(item.case.case_id, item.case.format, size, f"{item.size.bytes / 1e6:.0f} MB", seconds,
                      str(item.state), reason)  # fmt: skip
    console = RichConsole(width=250)
    with console.capture() as capture:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
    time = (
        "no case of this model was done here yet, so its time is not known"
        if plan.seconds is None
        else f"about {_duration(plan.seconds)}"
    )
    memory = "no memory budget" if plan.budget_bytes == NO_BUDGET else f"memory budget {plan.budget_bytes / 1e9:.1f} GB"
    typer.echo(f"to do: {len(plan.of(State.TODO))} cases, {time}; {plan.workers} workers, {memory}")


def _say_summary(console: Console, summary: Summary, output: Path, *, quiet: bool) -> None:
    for record in summary.failed:
        assert record.error is not None
        before = "" if record.run_id == summary.run_id else " (before; --retry-failed tries again)"
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
