"""``volseg demo``: a vertebra in CT and in MR, to see that everything works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volseg.cli.choices import AUTO
from volseg.cli.choices import device as check_device
from volseg.cli.console import Console
from volseg.cli.output_paths import write_bytes
from volseg.errors import MissingExtraError, WriteError
from volseg.progress import ProgressCallback

if TYPE_CHECKING:
    from volseg.models.base import Model
    from volseg.prompts import Prompt

SAMPLES_PACKAGE = "TPTBox"
OBJECT_NAME = "vertebra"


@dataclass(frozen=True)
class Stroke:
    """A brush stroke: positions in RAS mm and the brush's radius."""

    points_ras_mm: tuple[tuple[float, float, float], ...]
    radius_mm: float


@dataclass(frozen=True)
class DemoCase:
    """One sample and what a person who looks at it would say.

    Attributes:
        name: of the output files.
        title: for people.
        image: path within the samples' package.
        truth: path of the sample's own label map.
        value: the vertebra's value there.
        box_ras_mm: corners of a box drawn around the vertebra.
        strokes: within the vertebra.
        what: the strokes in words.
    """

    name: str
    title: str
    image: str
    truth: str
    value: int
    box_ras_mm: tuple[tuple[float, float, float], tuple[float, float, float]]
    strokes: tuple[Stroke, ...]
    what: str

    def prompts(self) -> list[Prompt]:
        """The box, then the strokes."""
        from volseg.geometry import Frame
        from volseg.prompts import Box, Scribble

        strokes = (Scribble(stroke.points_ras_mm, Frame.RAS, True, stroke.radius_mm) for stroke in self.strokes)
        return [Box(*self.box_ras_mm, Frame.RAS), *strokes]


CASES = (
    DemoCase(
        name="ct",
        title="CT, lumbar vertebra",
        image="tests/sample_ct/sub-ct_label-22_ct.nii.gz",
        truth="tests/sample_ct/sub-ct_seg-vert_label-22_msk.nii.gz",
        value=22,
        box_ras_mm=((-72, -237, -97), (24, -141, -40)),
        strokes=(
            Stroke(((-36, -158, -64), (-18, -158, -64)), 9.0),
            Stroke(((-42, -172, -59), (-43, -180, -58)), 3.0),
            Stroke(((-8, -180, -60), (-7, -189, -58)), 3.0),
            Stroke(((-22, -202, -69), (-22, -216, -77)), 3.0),
        ),
        what="a 3D box, a thick stroke through the body, thin ones through both pedicles and the spinous process",
    ),
    DemoCase(
        name="mr",
        title="T2-weighted MR, lumbar vertebra",
        image="tests/sample_mri/sub-mri_label-6_T2w.nii.gz",
        truth="tests/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz",
        value=6,
        box_ras_mm=((-46, 26, 86), (33, 107, 142)),
        strokes=(
            Stroke(((-16, 88, 124), (2, 88, 124)), 9.0),
            Stroke(((-22, 72, 125), (-24, 60, 124)), 3.0),
            Stroke(((9, 72, 125), (10, 56, 125)), 3.0),
            Stroke(((-8, 50, 104), (-8, 36, 100)), 3.0),
        ),
        what="a 3D box, a thick stroke through the body, thin ones through both pedicles and the spinous process",
    ),
)


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
    """Segment a vertebra in a CT and in an MR sample and compare with the samples' own masks."""
    console: Console = ctx.obj
    samples = _samples_folder()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{output}: the folder cannot be made: {error.strerror or error}") from error

    from volseg.models.registry import DEFAULT_MODEL, load_model

    loaded = load_model(model or DEFAULT_MODEL, device=device)
    results = []
    for case in CASES:
        with console.progress(case.title) as progress:
            result = _run(case, samples, loaded, output, progress)
        results.append(result)
        if not json_:
            typer.echo(f"{case.title}: {case.what}")
            typer.echo(
                f"  Dice against the sample's mask {result['dice']:.3f} "
                f"({result['ml']:.1f} ml, {result['seconds']:.1f} s, model {loaded.card.name})"
            )
            typer.echo(f"  wrote {result['overlay']} and {result['output']}")
    if json_:
        console.print_json({"cases": results, "model": loaded.card.name, "warnings": console.warnings})


def _samples_folder() -> Path:
    """The folder of the samples' package, found without running any of its code."""
    from importlib.util import find_spec

    spec = find_spec(SAMPLES_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if all((Path(folder) / part).is_file() for case in CASES for part in (case.image, case.truth)):
            return Path(folder)
    raise MissingExtraError("the demo's samples are not installed; run: pip install volseg[samples]")


def _run(
    case: DemoCase, samples: Path, model: Model, output: Path, progress: ProgressCallback | None
) -> dict[str, Any]:
    from volseg.data import read_image, read_labelmap, write_labelmap
    from volseg.overlay import draw_overlay
    from volseg.sessions import Session

    image = read_image(samples / case.image)
    truth = read_labelmap(samples / case.truth).mask(case.value)
    with Session(model, image) as session:
        object_id = session.add_object(OBJECT_NAME)
        for prompt in case.prompts():
            session.add_prompt(object_id, prompt)
        labelmap = session.predict(progress)
        result = session.result(object_id)
        picture = draw_overlay(image, labelmap, session.prompts)
    found = labelmap.mask(object_id)
    write_labelmap(labelmap, output / f"{case.name}.nii.gz")
    write_bytes(output / f"{case.name}.png", picture)
    overlap = 2.0 * int((found & truth).sum()) / max(1, int(found.sum()) + int(truth.sum()))
    return {
        "name": case.name,
        "dice": round(overlap, 4),
        "ml": round(int(found.sum()) * labelmap.grid.voxel_volume_ml, 3),
        "seconds": 0.0 if result is None else round(result.seconds, 3),
        "overlay": str(output / f"{case.name}.png"),
        "output": str(output / f"{case.name}.nii.gz"),
    }
