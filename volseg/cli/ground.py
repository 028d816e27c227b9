"""``volseg ground``: a report on an image."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from volseg.cli.choices import AUTO, MODALITIES, one_of
from volseg.cli.choices import device as check_device
from volseg.cli.console import Console
from volseg.cli.output_paths import check_outputs, write_bytes

MAX_REPORT_BYTES = 1_000_000
"""A larger file is no report."""


def ground(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD or MetaImage file, or a folder of DICOM slices.")],
    report: Annotated[Path, typer.Option("--report", metavar="FILE.txt", help="The report, plain text in UTF-8.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for findings.json, findings.seg.nrrd and report.html; made if needed."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="One that takes words; see 'volseg models list'.")
    ] = None,
    attributes: Annotated[
        bool, typer.Option("--attributes", help="Send what things look like too, to models that take free text.")
    ] = False,
    window: Annotated[
        str | None, typer.Option(metavar="NAME|LO,HI", help="Intensity window; by modality if not given.")
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device)
    ] = AUTO,
    trust: Annotated[bool, typer.Option("--trust", help="Let a bundle run code that is not volseg's.")] = False,
    series_uid: Annotated[
        str | None, typer.Option(metavar="UID", help="DICOM series, where a folder holds several.")
    ] = None,
    channel: Annotated[int | None, typer.Option(min=0, help="Channel or time point, from 0, of a 4D file.")] = None,
    modality: Annotated[
        str | None,
        typer.Option(metavar="|".join(MODALITIES), help="Where the file does not say.", callback=one_of(*MODALITIES)),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Also print findings.json on stdout.")] = False,
) -> None:
    """Find what a radiology report speaks of: masks, boxes, key slices, and whether the model agrees."""
    start = time.perf_counter()
    console: Console = ctx.obj

    from volseg.data import Modality, image_sha256, read_image, write_labelmap
    from volseg.errors import PromptError, WriteError
    from volseg.grounding.document import to_json, to_labelmap
    from volseg.grounding.ground import ground_report
    from volseg.grounding.page import draw_page
    from volseg.models.options import EncodeOptions
    from volseg.models.registry import load_model

    text = _read_text(report, PromptError)
    if output.exists() and not output.is_dir():
        raise WriteError(f"{output}: is a file; expected a folder, or the name of one to make")
    if not output.parent.is_dir():
        raise WriteError(f"{output}: the folder {output.parent} does not exist; make it first")
    name = model or _only_model_for_words()
    stated = None if modality is None else Modality(modality)
    with console.progress("reading the image") as progress:
        volume = read_image(image, series_uid=series_uid, channel=channel, modality=stated)
        loaded = load_model(name, device=device, trust=trust)
        options = EncodeOptions(window, None, stated)
        grounding = ground_report(volume, text, loaded, options=options, attributes=attributes, progress=progress)
        data = to_json(grounding, image_sha256(volume))
        page = draw_page(volume, grounding, window=window, modality=stated)
        output.mkdir(exist_ok=True)
        paths = [output / one for one in ("findings.json", "report.html", "findings.seg.nrrd")]
        check_outputs(paths, [image, report])
        write_bytes(paths[0], json.dumps(data, indent=2, allow_nan=False).encode())
        write_bytes(paths[1], page.encode("utf-8", "replace"))
        write_labelmap(to_labelmap(grounding), paths[2])
    for problem in grounding.problems:
        console.warn(problem.message)
    for item in grounding.findings:
        if item.message:
            console.warn(f"{item.finding.query.describe()}: {item.message}")
    if json_:
        console.print_json(data)
        return
    for item in grounding.findings:
        presence = "" if item.presence is None else f"presence {item.presence:.2f}"
        volume_ml = f"{item.mask.volume_ml:.3g} ml" if item.mask.voxels else ""
        typer.echo(
            f"{item.mask.object_id:>3} {item.finding.query.describe():<44} {item.finding.assertion:<10} "
            f"{item.status:<12} {volume_ml:<10} {presence}".rstrip()
        )
    for path in paths:
        typer.echo(f"wrote {path}")
    typer.echo(f"{len(grounding.findings)} findings in {time.perf_counter() - start:.1f} s")


def _read_text(path: Path, error_type: type[Exception]) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_REPORT_BYTES:
        raise error_type(f"{path}: has {len(data)} bytes; a report has at most {MAX_REPORT_BYTES}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise error_type(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from error


def _only_model_for_words() -> str:
    """The name of the first model that takes words."""
    from volseg.errors import ModelError
    from volseg.models.registry import list_models
    from volseg.prompts import PromptKind

    for card in list_models():
        if PromptKind.TEXT in card.positive:
            return card.name
    raise ModelError("no model that takes words is here; give one with --model (a name or a bundle folder)")
