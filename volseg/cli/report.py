"""What ``volseg segment`` says about its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from volseg.data.labelmap import LabelMap
    from volseg.sessions import Session


def describe(session: Session, labelmap: LabelMap) -> dict[str, Any]:
    """The result in numbers, as ``--json`` prints it.

    Voxels and volume are those of the label map, after overlaps were settled.
    """
    card = session.card
    objects = []
    for label in labelmap.labels:
        voxels = int((labelmap.layers[label.layer] == label.value).sum())
        result = session.result(label.value)
        objects.append(
            {
                "name": label.name,
                "label": label.value,
                "voxels": voxels,
                "ml": round(voxels * labelmap.grid.voxel_volume_ml, 6),
                "presence": None if label.presence is None else round(label.presence, 6),
                "seconds": None if result is None else round(result.seconds, 3),
            }
        )
    return {
        "objects": objects,
        "model": {"name": card.name, "version": card.version, "weights_sha256": card.weights_sha256},
        "image": {
            "shape": list(session.grid.shape),
            "spacing_mm": [round(spacing, 6) for spacing in session.grid.spacing_mm],
            "orientation": session.grid.axcodes,
            "sha256": session.image_sha256,
        },
        "settings": dict(labelmap.provenance.settings),
    }


def print_objects(objects: list[dict[str, Any]]) -> None:
    """The objects as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table("label", "object", "voxels", "ml", "presence", "seconds", box=None)
    for item in objects:
        presence = "" if item["presence"] is None else f"{item['presence']:.2f}"
        table.add_row(str(item["label"]), item["name"], str(item["voxels"]), f"{item['ml']:.3f}", presence,
                      f"{item['seconds']:.1f}")  # fmt: skip
    # Into a string first: rich would cut columns to the width of a terminal that a pipe does not have.
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table, markup=False, highlight=False)
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
