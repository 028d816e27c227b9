"""``volseg batch``: many cases, on this machine, as part of a job array, or on a Ray cluster."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volseg.cli.batch_options import (
    EXECUTORS,
    FORMATS,
    ID_STYLES,
    SEGMENT_KINDS,
    Resources,
    output_formats,
    series_filter,
    shard_of,
)
from volseg.cli.batch_report import print_plan, progress_shown, say_mapping, say_plan, say_summary
from volseg.cli.choices import AUTO, FRAMES, MODALITIES, OVERLAPS, PLANES, one_of
from volseg.cli.console import Console
from volseg.cli.exit_codes import ExitCode
from volseg.cli.output_paths import check_outputs

if TYPE_CHECKING:
    from volseg.batch import Executor

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
            help="Folder of prompt files, sessions or label maps named like the images; else beside the images.",
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
            help="Call results after the files or by hashes; auto takes hashes in folders that hold DICOM.",
            callback=one_of(*ID_STYLES),
            rich_help_panel=CASES_PANEL,
        ),
    ] = ID_STYLES[0],
    write_mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Which case is which file: a list to fill in prompts; keep it where patient data may lie.",
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
    from volseg.batch.mapping import write_mapping_file
    from volseg.batch.plan import in_shard
    from volseg.data import Modality, OverlapPolicy
    from volseg.data.dicom.kinds import SegmentationKind
    from volseg.geometry import Frame, Plane
    from volseg.models.options import EncodeOptions
    from volseg.models.registry import DEFAULT_MODEL, model_card

    part = shard_of(shard)
    encode = EncodeOptions(
        window, None if plane == AUTO else Plane(plane), None if modality is None else Modality(modality)
    )
    options = CaseOptions(
        output_formats(formats), encode, channel, exact, OverlapPolicy(overlap), SegmentationKind(segment_kind)
    )
    settings = FindSettings(
        series=series_filter(series_modality, series_description, min_slices, max_slices),
        ids=IdStyle(ids),
        frame=Frame(frame),
        prompts_folder=prompts_folder,
        texts=tuple(text or ()),
        leave_out=output,
    )
    if report is not None and report.parent.resolve() != output.resolve():
        check_outputs([report], ())
    found = find_cases(inputs, settings)
    mine = [case for case in found.cases if in_shard(case, part.index, part.count)]
    if write_mapping is not None:
        write_mapping_file(found.cases, write_mapping)
        say_mapping(write_mapping, found)
    choice = ModelChoice(model or DEFAULT_MODEL, trust)
    resources = Resources.of_options(executor, devices, workers, threads, memory_gb)
    if resources.workers < resources.wanted:
        console.warn(f"{resources.wanted} workers would leave no memory for cases, so there are {resources.workers}")
    plan = make_plan(
        mine,
        output,
        options,
        model_card(choice.name),
        budget_bytes=resources.budget_bytes,
        workers=resources.workers,
        retry_failed=retry_failed,
        elsewhere=[case.case_id for case in found.cases if not in_shard(case, part.index, part.count)],
    )
    say_plan(console, plan, part, found, quiet=json_)
    if dry_run:
        if json_:
            console.print_json(plan.to_json())
        else:
            print_plan(plan)
        plan.check()
        return

    from volseg.batch.run import run_batch
    from volseg.batch.summary import write_report

    place: Executor
    if executor == "ray":
        from volseg.batch.ray_executor import RayExecutor

        place = RayExecutor(workers or 0, address, gpus_per_worker)
    else:
        from volseg.batch.local import LocalExecutor

        place = LocalExecutor(resources.workers, resources.devices)
    with _terminated_as_interrupted(), progress_shown() as listener:
        summary = run_batch(
            plan, place, choice, threads=resources.threads, timeout_s=timeout, progress=listener, debug=console.debug
        )
    if report is not None:
        write_report(summary, report)
    if json_:
        console.print_json(summary.to_json())
    say_summary(console, summary, quiet=json_)
    if summary.interrupted:
        raise typer.Exit(ExitCode.CANCELLED)
    if summary.failed:
        raise typer.Exit(ExitCode.CASES_FAILED)


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
