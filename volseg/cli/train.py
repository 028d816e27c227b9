"""``volseg train``: a slice-wise network from labelled volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volseg.cli.choices import AUTO
from volseg.cli.choices import device as check_device


def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Folder that the configuration's paths start from, or a CSV file: "
            "id,image,label,modality[,group,patient,split].",
            exists=True,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints, log and weights.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file; that of sam2-nano if not given.", dir_okay=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Safetensors to start from; random if not given.", dir_okay=False)
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device)
    ] = AUTO,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw samples beside the training.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard.")] = False,
) -> None:
    """Trains a slice-wise network from labelled volumes; unlabelled voxels count as unknown, not as background."""
    from volseg.training.config import NANO_CONFIG, read_config
    from volseg.training.run import read_weights
    from volseg.training.run import train as run

    path = run(
        read_config(config or NANO_CONFIG),
        data,
        output,
        resume=resume,
        device=None if device == AUTO else device,
        workers=workers,
        weights=None if weights is None else read_weights(weights),
        tensorboard=tensorboard,
    )
    typer.echo(path)
