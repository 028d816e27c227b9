"""``volseg info``: what a file or folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volseg.cli.console import Console


def info(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MetaImage or DICOM file, or a folder of DICOM slices.")],
    series_uid: Annotated[
        str | None, typer.Option(metavar="UID", help="DICOM series, where a folder holds several.")
    ] = None,
    channel: Annotated[int | None, typer.Option(min=0, help="Channel or time point, from 0, for --values.")] = None,
    values: Annotated[bool, typer.Option("--values", help="Also read the voxels and show their range.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what a file or folder holds: format, grid, orientation, modality, DICOM series."""
    from volseg.data import describe_image

    description = describe_image(image, series_uid=series_uid, channel=channel, values=values)
    if json_:
        console: Console = ctx.obj
        console.print_json({"path": str(image), **description.to_json()})
        return
    lines = [("format", str(description.format))]
    grid = description.grid
    if grid is not None:
        lines.append(("voxels", " x ".join(map(str, grid.shape))))
        lines.append(("spacing", " x ".join(f"{spacing:.4g}" for spacing in grid.spacing_mm) + " mm"))
        lines.append(("orientation", grid.axcodes + (" (oblique)" if grid.is_oblique else "")))
        lines.append(("plane", str(grid.acquisition_plane())))
        low, high = grid.to_ras_mm(grid.corners_ijk()).min(axis=0), grid.to_ras_mm(grid.corners_ijk()).max(axis=0)
        lines.append(("extent", ", ".join(f"{a:.1f} to {b:.1f}" for a, b in zip(low, high, strict=True)) + " mm (ras)"))
        lines.append(("type", description.dtype))
    if description.channels > 1 and not description.objects:
        lines.append(("channels", f"{description.channels}; choose one with --channel"))
    lines.append(("modality", "not stated" if description.modality is None else str(description.modality)))
    if description.value_range is not None:
        lines.append(("values", "{:g} to {:g}".format(*description.value_range)))
    lines += [("object", name) for name in description.objects]
    for name, text in lines:
        typer.echo(f"{name:<12} {text}")
    for series in description.series:
        typer.echo(
            f"{'series':<12} {series.uid}  {series.modality} {series.slices} slices  {series.description}".rstrip()
        )
