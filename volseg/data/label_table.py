"""The names, colours, codes and provenance of a label map as one JSON text."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from volseg.data.labelmap import Label, Provenance, SnomedCode, default_color_rgb

LABEL_TABLE_KEY = "volseg_labelmap"
"""Names the table: the key of the JSON text in NRRD and MetaImage, and its only member everywhere."""

_VERSION = 1


def label_table_to_json(labels: tuple[Label, ...], provenance: Provenance) -> str:
    """One line of JSON that ``label_table_from_json`` reads back exactly."""
    table = {
        "version": _VERSION,
        "labels": [asdict(label) for label in labels],
        "provenance": asdict(provenance),
    }
    return json.dumps({LABEL_TABLE_KEY: table}, ensure_ascii=False, separators=(",", ":"))


def label_table_from_json(text: str) -> tuple[tuple[Label, ...], Provenance] | None:
    """Reads what ``label_table_to_json`` wrote; None if ``text`` is something else or damaged.

    A damaged table is no reason to refuse the voxels, so there is no error.
    """
    try:
        table = json.loads(text)[LABEL_TABLE_KEY]
        labels = tuple(_label(item) for item in table["labels"])
        given = table["provenance"]
        provenance = Provenance(
            **{name: str(given[name]) for name in ("software", "model", "model_sha256", "image_sha256")},
            settings=tuple((str(name), str(value)) for name, value in given["settings"]),
        )
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    values = [label.value for label in labels]
    if len(set(values)) != len(values) or min(values, default=1) < 1 or any(label.layer < 0 for label in labels):
        return None
    return labels, provenance


def complete_labels(labels: tuple[Label, ...], values_by_layer: list[list[int]]) -> tuple[Label, ...]:
    """Labels for all values that occur: the given ones, and generated ones for the others.

    Args:
        labels: the known ones, empty objects included.
        values_by_layer: for each layer the values in its voxels, from 1.
    """
    known = {label.value for label in labels}
    layers = len(values_by_layer)
    found = [
        Label(value, f"label {value}", default_color_rgb(value), layer)
        for layer, values in enumerate(values_by_layer)
        for value in values
        if value not in known
    ]
    return tuple(replace(label, layer=min(label.layer, layers - 1)) for label in labels) + tuple(found)


def _label(item: Any) -> Label:
    red, green, blue = (min(255, max(0, int(part))) for part in item["color_rgb"])
    snomed = item["snomed"]
    return Label(
        value=int(item["value"]),
        name=str(item["name"]),
        color_rgb=(red, green, blue),
        layer=int(item["layer"]),
        snomed=None if snomed is None else SnomedCode(str(snomed["code"]), str(snomed["meaning"])),
        presence=None if item["presence"] is None else float(item["presence"]),
    )
