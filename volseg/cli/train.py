"""``volseg train``: a slice-wise network from labelled volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volseg.cli.choices import AUTO, one_of
from volseg.cli.choices import device as check_device

REFINE = "refine"
ADAPTATIONS = ("full", "frozen-encoder", "lora", REFINE)
START_PANEL = "Starting from trained weights"


def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="CSV file of cases: id,image,label,modality[,group,patient,split]; or the folder that the "
            "configuration's paths start from.",
            exists=True,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for checkpoint and log; in the end a bundle, to use as --model."),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file; by default that of sam2-nano, or of fine-tuning.", dir_okay=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME|DIR|FILE",
            help="Start from a model of 'volseg models list', a bundle, or a SAM 2 weights file; random if not given.",
            rich_help_panel=START_PANEL,
        ),
    ] = None,
    adapt: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ADAPTATIONS),
            help="Train everything, all but the image encoder, low-rank additions (LoRA), or the second look in 3D "
            "alone. [default: full]",
            callback=one_of(*ADAPTATIONS),
            rich_help_panel=START_PANEL,
        ),
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of LoRA. [default: 8]", rich_help_panel=START_PANEL)
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=64, help="Side of the frames in pixels, if not that of the weights.", rich_help_panel=START_PANEL
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="At most so many steps.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="At most so many minutes; then it is scored and written as ever.")
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device)
    ] = AUTO,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw samples beside the training.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard.")] = False,
) -> None:
    """Trains a slice-wise network from labelled volumes; unlabelled voxels count as unknown, not as background."""
    if weights is None and (adapt or lora_rank or image_size):
        raise typer.BadParameter("--adapt, --lora-rank and --image-size need --weights to start from")
    if adapt == REFINE:
        if lora_rank or image_size or workers or tensorboard:
            raise typer.BadParameter(
                "--adapt refine takes none of --lora-rank, --image-size, --workers and --tensorboard"
            )
        typer.echo(_train_refinement(str(weights), data, output, config, resume, steps, minutes, device))
        return
    from volseg.training.run import choose_config
    from volseg.training.run import train as run
    from volseg.training.start import read_start

    start = None if weights is None else read_start(weights, image_size=image_size)
    chosen = choose_config(config, start, adapt=adapt, lora_rank=lora_rank, steps=steps, minutes=minutes)
    path = run(
        chosen,
        data,
        output,
        resume=resume,
        device=None if device == AUTO else device,
        workers=workers,
        start=start,
        tensorboard=tensorboard,
    )
    typer.echo(path)


def _train_refinement(
    weights: str,
    data: Path,
    output: Path,
    config: Path | None,
    resume: bool,
    steps: int | None,
    minutes: float | None,
    device: str,
) -> Path:
    from volseg.models.device import choose_device
    from volseg.training.config import read_settings
    from volseg.training.refine.base import load_base
    from volseg.training.refine.config import REFINE_CONFIG, REFINE_FINE_TUNE, RefineTrainConfig
    from volseg.training.refine.run import RefineRun
    from volseg.training.start import read_start

    said = {name: value for name, value in (("steps", steps), ("minutes", minutes)) if value is not None}
    path = config or (REFINE_FINE_TUNE if data.is_file() else REFINE_CONFIG)
    chosen = read_settings(path, RefineTrainConfig, above={"schedule": said})
    where = str(choose_device(device))
    run = RefineRun(chosen, output, read_start(weights), lambda: load_base(weights, where), where)
    return run.train(data, resume=resume)
