"""``volseg demo``: a vertebra in CT and in MR and a part of the brain, to see that everything works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volseg.cli.choices import AUTO
from volseg.cli.choices import device as check_device
from volseg.cli.console import Console
from volseg.cli.demo_cases import CASES, DemoCase, Truth
from volseg.cli.output_paths import write_bytes
from volseg.errors import MissingExtraError, WriteError
from volseg.progress import ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from volseg.models.base import Model

MODEL = "sam2-nano"


def demo(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="See 'volseg models list'.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures.")] = Path(
        "volseg-demo"
    ),
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device)
    ] = AUTO,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Segment a vertebra in CT and in MR, compared with the samples' own masks, and a part of a brain."""
    console: Console = ctx.obj
    _require_samples()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{output}: the folder cannot be made: {error.strerror or error}") from error

    from volseg.models.registry import load_model

    loaded = load_model(model or MODEL, device=device)
    results = []
    for case in CASES:
        with console.progress(case.title) as progress:
            result = _run(case, loaded, output, progress)
        results.append(result)
        if not json_:
            dice = "" if result["dice"] is None else f"Dice against the sample's mask {result['dice']:.3f}, "
            typer.echo(f"{case.title}: {case.what}")
            typer.echo(f"  {dice}{result['ml']:.1f} ml, {result['seconds']:.1f} s, model {loaded.card.name}")
            typer.echo(f"  wrote {result['overlay']} and {result['output']}")
    if json_:
        console.print_json({"cases": results, "model": loaded.card.name, "warnings": console.warnings})


def _require_samples() -> None:
    missing = {sample.package for case in CASES for sample in case.samples if sample.find() is None}
    if missing:
        names = " and ".join(sorted(missing))
        raise MissingExtraError(f"the demo's samples ({names}) are not installed; run: pip install volseg[samples]")


def _run(case: DemoCase, model: Model, output: Path, progress: ProgressCallback | None) -> dict[str, Any]:
    from volseg.data import read_image, write_labelmap
    from volseg.overlay import draw_overlay
    from volseg.sessions import Session

    path = case.image.find()
    assert path is not None
    image = read_image(path)
    with Session(model, image) as session:
        object_id = session.add_object(case.structure)
        for prompt in case.prompts():
            session.add_prompt(object_id, prompt)
        labelmap = session.predict(progress)
        result = session.result(object_id)
        picture = draw_overlay(image, labelmap, session.prompts)
    found = labelmap.mask(object_id)
    write_labelmap(labelmap, output / f"{case.name}.nii.gz")
    write_bytes(output / f"{case.name}.png", picture)
    return {
        "name": case.name,
        "dice": None if case.truth is None else round(_dice(found, case.truth), 4),
        "ml": round(int(found.sum()) * labelmap.grid.voxel_volume_ml, 3),
        "seconds": 0.0 if result is None else round(result.seconds, 3),
        "overlay": str(output / f"{case.name}.png"),
        "output": str(output / f"{case.name}.nii.gz"),
    }


def _dice(found: NDArray[np.bool_], truth: Truth) -> float:
    from volseg.data import read_labelmap

    path = truth.sample.find()
    assert path is not None
    wanted = read_labelmap(path).mask(truth.value)
    return 2.0 * int((found & wanted).sum()) / max(1, int(found.sum()) + int(wanted.sum()))
