"""``volseg convert``: a label map in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volseg.cli.choices import one_of
from volseg.cli.console import Console
from volseg.cli.output_paths import check_outputs
from volseg.errors import WriteError

KINDS = ("binary", "labelmap")


def convert(
    ctx: typer.Context,
    labels: Annotated[
        Path, typer.Argument(help="Label map: NIfTI, NRRD, MetaImage, .seg.nrrd, DICOM segmentation or structure set.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help=".nii.gz, .nii, .nrrd, .seg.nrrd, .mha, .seg.dcm or .rtstruct.dcm; a new file."
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="The image the labels belong to: DICOM for DICOM output, any for a structure set.",
        ),
    ] = None,
    series_uid: Annotated[
        str | None, typer.Option(metavar="UID", help="DICOM series, where the reference folder holds several.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(metavar="|".join(KINDS), callback=one_of(*KINDS), help="How .seg.dcm stores voxels."),
    ] = KINDS[0],
    flatten: Annotated[
        bool, typer.Option("--flatten", help="Where objects overlap, keep the one of the highest layer.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Convert a label map to another format; nothing is resampled.

    For example: volseg convert labels.nii.gz -o labels.seg.dcm --reference ct_folder
    """
    from volseg.data import FileFormat, check_output_path, read_labelmap, write_labelmap
    from volseg.data.dicom import SegmentationKind, read_sources, source_files, write_dicom_seg
    from volseg.data.formats import format_to_read
    from volseg.data.images import open_volume
    from volseg.data.labelmap_files import ON_SOURCES
    from volseg.data.lattice import on_lattice

    console: Console = ctx.obj
    target_format = check_output_path(output)
    check_outputs([output], [path for path in (labels, reference) if path is not None])
    sources: tuple[Path, ...] = ()
    grid = None
    if reference is not None:
        if format_to_read(reference) is FileFormat.DICOM:
            sources = source_files(reference, series_uid)
            grid = read_sources(sources).grid
        else:
            grid = open_volume(reference, series_uid).grid
    if target_format in ON_SOURCES and not sources:
        raise WriteError(
            f"{output}: a {target_format} refers to the DICOM images it was made on; give their folder with --reference"
        )
    labelmap = read_labelmap(labels, grid=grid, sources=sources)
    if grid is not None:
        labelmap = on_lattice(labelmap, grid)
    if flatten:
        labelmap = labelmap.flattened()
    if target_format is FileFormat.DICOM_SEG:
        write_dicom_seg(labelmap, output, sources, kind=SegmentationKind(kind))
    else:
        write_labelmap(labelmap, output, sources)
    if json_:
        objects = [{"label": label.value, "name": label.name} for label in labelmap.labels]
        console.print_json({"output": str(output), "format": str(target_format), "objects": objects,
                            "warnings": console.warnings})  # fmt: skip
    else:
        typer.echo(f"wrote {output}")
