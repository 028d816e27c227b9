"""``volseg segment``: one image and prompts to a label map."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volseg.cli.choices import AUTO, FRAMES, MODALITIES, OVERLAPS, PLANES, one_of
from volseg.cli.choices import device as check_device
from volseg.cli.console import Console
from volseg.cli.ordered import OPTIONS_IN_ORDER
from volseg.cli.output_paths import check_outputs, write_bytes
from volseg.cli.prompt_options import (
    PROMPT_OPTIONS,
    MaskFile,
    PromptFile,
    PromptOption,
    assemble,
    parse_options,
)
from volseg.cli.report import describe, print_objects
from volseg.cli.words import everything_offered, model_for, spread_words
from volseg.errors import PromptError, WriteError

if TYPE_CHECKING:
    from volseg.data import LabelMap
    from volseg.sessions import Session

PROMPTS_PANEL = "Prompts (repeatable, in order; ',neg' at the end means 'not this')"
OUTPUT_PANEL = "Output"
MODEL_PANEL = "Model and image"


def segment(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD or MetaImage file, or a folder of DICOM slices.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Label map: .nii.gz, .nii, .nrrd, .seg.nrrd, .mha; of DICOM images also .seg.dcm, .rtstruct.dcm.",
        ),
    ],
    # ---- prompts; read from the context, where their order is known
    frame: Annotated[
        str,
        typer.Option(
            metavar="|".join(FRAMES),
            help="Frame of all coordinates: mm (ras, lps) or voxel index (ijk).",
            callback=one_of(*FRAMES),
        ),
    ] = FRAMES[0],
    object_: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="NAME", help="Opens the next object.", rich_help_panel=PROMPTS_PANEL),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,Z[,neg]", help="A click.", rich_help_panel=PROMPTS_PANEL)
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X0,Y0,Z0,X1,Y1,Z1[,neg]",
            help="Two corners, both inclusive; 2D if one coordinate is equal.",
            rich_help_panel=PROMPTS_PANEL,
        ),
    ] = None,
    scribble: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y,Z;X,Y,Z;...[,neg]", help="A free-hand line.", rich_help_panel=PROMPTS_PANEL),
    ] = None,
    lasso: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,Z;X,Y,Z;X,Y,Z;...[,neg]",
            help="An outline on one slice; closed and filled.",
            rich_help_panel=PROMPTS_PANEL,
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[,neg]", help="A rough mask, on any grid.", rich_help_panel=PROMPTS_PANEL),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHRASE",
            help="Words; each thing listed becomes an object, unless after --object.",
            rich_help_panel=PROMPTS_PANEL,
        ),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option(
            "--all", help="Every structure that the model knows by name and finds.", rich_help_panel=PROMPTS_PANEL
        ),
    ] = False,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A prompt file, a saved session or a label map; its objects come first and keep their numbers.",
            rich_help_panel=PROMPTS_PANEL,
        ),
    ] = None,
    radius: Annotated[
        float, typer.Option(metavar="MM", min=0.0, help="Radius of all scribbles.", rich_help_panel=PROMPTS_PANEL)
    ] = 0.0,
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
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|mps", help="Where to compute.", callback=check_device, rich_help_panel=MODEL_PANEL
        ),
    ] = AUTO,
    exact: Annotated[
        bool, typer.Option("--exact", help="Forgo approximate updates.", rich_help_panel=MODEL_PANEL)
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Let a bundle run code that is not volseg's.", rich_help_panel=MODEL_PANEL),
    ] = False,
    series_uid: Annotated[
        str | None,
        typer.Option(metavar="UID", help="DICOM series, where a folder holds several.", rich_help_panel=MODEL_PANEL),
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option(min=0, help="Channel or time point, from 0, of a 4D file.", rich_help_panel=MODEL_PANEL),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(MODALITIES),
            help="Where the file does not say.",
            callback=one_of(*MODALITIES),
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    # ---- output
    overlap: Annotated[
        str,
        typer.Option(
            metavar="|".join(OVERLAPS),
            callback=one_of(*OVERLAPS),
            help="Who keeps voxels that several objects claim; layers needs .seg.nrrd or DICOM.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = OVERLAPS[0],
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Also a picture of each object in three planes.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = None,
    save_session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Also the session, to go on or to repeat it.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
) -> None:
    """Segment objects in a CT or MR volume from prompts.

    Prompts before the first --object belong to object 1, each --object opens the next; label values count from 1 in
    that order. For example: volseg segment ct.nii.gz -o out.nii.gz --object liver --point -60,10,1040
    """
    start = time.perf_counter()
    console: Console = ctx.obj
    given = [PromptOption(name.rstrip("_"), value) for name, value in ctx.meta[OPTIONS_IN_ORDER]]

    from volseg.geometry import Frame, Grid, Plane

    options_said = [option for option in given if option.name in PROMPT_OPTIONS]
    if all_ and options_said:
        raise PromptError("--all takes no prompts beside it; it asks for every structure that the model offers")
    statements = () if all_ else parse_options(options_said, Frame(frame), radius)

    from volseg.data import FileFormat, Modality, OverlapPolicy, check_output_path, read_image, write_labelmap
    from volseg.data.formats import format_to_read
    from volseg.data.labelmap_files import ON_SOURCES, OVERLAPPING

    file_format = check_output_path(output)
    policy = OverlapPolicy(overlap)
    if policy is OverlapPolicy.LAYERS and file_format not in OVERLAPPING:
        raise WriteError(
            f"{output}: {file_format} holds no overlapping objects; with --overlap layers use .seg.nrrd, .seg.dcm or "
            ".rtstruct.dcm"
        )
    is_dicom = format_to_read(image) is FileFormat.DICOM
    if file_format in ON_SOURCES and not is_dicom:
        raise WriteError(f"{output}: a {file_format} refers to DICOM images, and {image} is none; use .seg.nrrd")
    outputs = [path for path in (output, overlay, save_session) if path is not None]
    prompt_files = [statement.path for statement in statements if isinstance(statement, MaskFile | PromptFile)]
    check_outputs(outputs, [image, *prompt_files])

    from volseg.models.options import EncodeOptions
    from volseg.models.registry import load_model
    from volseg.sessions import Session

    with console.progress("reading the image") as progress:
        stated = None if modality is None else Modality(modality)
        options = EncodeOptions(window, None if plane == AUTO else Plane(plane), stated)
        volume = read_image(image, series_uid=series_uid, channel=channel, modality=stated)
        sources: tuple[Path, ...] = ()
        if is_dicom:
            from volseg.data.dicom import source_files

            sources = source_files(image, series_uid)
        loaded = load_model(model or model_for(statements, all_), device=device, trust=trust)
        statements = everything_offered(loaded.card) if all_ else spread_words(statements, loaded.card)
        prompt_set = assemble(statements, Grid.of(volume), sources)
        with Session(loaded, volume, options, policy) as session:
            session.add_prompts(prompt_set)
            labelmap = session.predict(progress, exact=exact)
            if all_:
                labelmap = _only_found(session, labelmap)
            picture = None
            if overlay is not None:
                from volseg.overlay import draw_overlay

                picture = draw_overlay(volume, labelmap, session.prompts, window=window, modality=stated)
            report = describe(session, labelmap)
            # Last, so that nothing is there when anything before fails; the label map itself last of all.
            if overlay is not None and picture is not None:
                write_bytes(overlay, picture)
            if save_session is not None:
                session.save(save_session)
            write_labelmap(labelmap, output, sources)
    for item in report["objects"]:
        if item["voxels"] == 0:
            console.warn(f"{item['name']}: no voxel was found")
    report |= {
        "output": str(output),
        "overlay": None if overlay is None else str(overlay),
        "session": None if save_session is None else str(save_session),
        "seconds": round(time.perf_counter() - start, 3),
        "warnings": console.warnings,
    }
    if json_:
        console.print_json(report)
    else:
        print_objects(report["objects"])
        for path in outputs:
            typer.echo(f"wrote {path}")


def _only_found(session: Session, labelmap: LabelMap) -> LabelMap:
    """The label map without the structures that are not in the image."""
    empty = [label.value for label in labelmap.labels if not _has_voxels(session, label.value)]
    for value in empty:
        session.remove_object(value)
    return session.predict() if empty else labelmap


def _has_voxels(session: Session, value: int) -> bool:
    result = session.result(value)
    return result is not None and result.mask().voxels > 0
