"""What a label is, in DICOM's own attributes and, for what they cannot hold, in private ones beside them.

Private attributes stand in group 0099 under the creator ``volseg``: in each object's item the label as JSON
(0099,xx01); in the file the provenance as JSON (0099,xx01) and the grid as JSON (0099,xx02). A reader that does not
know them loses the label's value, its presence score and the end of a long name. Where other software has changed an
attribute, that one counts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from volseg.data.label_table import complete_labels, label_table_from_json, label_table_to_json
from volseg.data.labelmap import Label, LabelMap, Provenance, SnomedCode
from volseg.data.labelmap_files import present_values
from volseg.errors import GeometryError, WriteError
from volseg.geometry import Grid

PRIVATE_GROUP = 0x0099
PRIVATE_CREATOR = "volseg"
_LABEL, _PROVENANCE, _GRID = 0x01, 0x01, 0x02

FALLBACK_CODE = SnomedCode("85756007", "Tissue")
"""Category and type of an object without a code of its own, as in 3D Slicer."""

STRUCTURE_CODE = SnomedCode("91723000", "Anatomical Structure")
"""Category of an object with a code."""

_MAX_LO = 64
_MAX_SH_CODE = 16


def described(labelmap: LabelMap) -> LabelMap:
    """The same with a label for every value that occurs, refusing what DICOM cannot name."""
    values = [present_values(layer) for layer in labelmap.layers]
    labels = complete_labels(labelmap.labels, values)
    if not labels:
        raise WriteError("the label map has no objects; a DICOM result has at least one")
    for label in labels:
        if label.snomed is not None and (not label.snomed.code.strip() or not label.snomed.meaning.strip()):
            raise WriteError(f"{label.name}: its SNOMED CT code {label.snomed} lacks the number or the meaning")
    return replace(labelmap, labels=labels)


def short_text(text: str, fallback: str) -> str:
    """A text as DICOM's LO allows it: 64 characters, no backslash, no control characters.

    Cut to 64 bytes of UTF-8, as many readers count those.
    """
    plain = " ".join("".join(sign if sign.isprintable() and sign != "\\" else " " for sign in text).split())
    return plain.encode()[:_MAX_LO].decode(errors="ignore").strip() or fallback


def title(label: Label) -> str:
    """The label's name as it stands in the standard attribute."""
    return short_text(label.name, f"object {label.value}")


def code_of(code: SnomedCode) -> Any:
    """A SNOMED CT concept as highdicom has it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.code, "SCT", short_text(code.meaning, code.code))


def code_item(code: SnomedCode) -> Any:
    """A SNOMED CT concept as an item of a code sequence (DICOM PS3.3 8.8)."""
    from pydicom import Dataset

    item = Dataset()
    setattr(item, "CodeValue" if len(code.code) <= _MAX_SH_CODE else "LongCodeValue", code.code)
    item.CodingSchemeDesignator = "SCT"
    item.CodeMeaning = short_text(code.meaning, code.code)
    return item


def code_from(item: Any) -> SnomedCode | None:
    """Reads a code sequence's item; None for another coding scheme."""
    value = str(item.get("CodeValue", None) or item.get("LongCodeValue", None) or "")
    if not value or item.get("CodingSchemeDesignator", "") != "SCT":
        return None
    return SnomedCode(value, str(item.get("CodeMeaning", "")))


def put_label(item: Any, label: Label) -> None:
    """Puts the whole label into its object's item."""
    _put(item, _LABEL, label_table_to_json((label,), Provenance()))


def get_label(item: Any) -> Label | None:
    """The whole label, where volseg wrote the item."""
    table = label_table_from_json(_get(item, _LABEL))
    return table[0][0] if table is not None and table[0] else None


def put_origin(dataset: Any, labelmap: LabelMap) -> None:
    """Puts provenance and grid into the file."""
    _put(dataset, _PROVENANCE, label_table_to_json((), labelmap.provenance))
    _put(dataset, _GRID, json.dumps(labelmap.grid.to_json()))


def get_provenance(dataset: Any) -> Provenance:
    """How the label map came about, where volseg wrote the file."""
    table = label_table_from_json(_get(dataset, _PROVENANCE))
    return Provenance() if table is None else table[1]


def get_grid(dataset: Any) -> Grid | None:
    """The grid of the label map, where volseg wrote the file."""
    try:
        return Grid.from_json(json.loads(_get(dataset, _GRID)))
    except (ValueError, GeometryError, RecursionError):
        return None


def unique_values(labels: list[Label]) -> list[Label]:
    """The labels with values from 1, each once: a value that does not fit gives way to the next free one."""
    taken: set[int] = set()
    result = []
    for label in labels:
        value = label.value
        if value < 1 or value > np.iinfo(np.int32).max or value in taken:
            value = next(n for n in range(1, len(labels) + 1) if n not in taken and all(n != x.value for x in labels))
        taken.add(value)
        result.append(replace(label, value=value))
    return result


def _put(dataset: Any, element: int, text: str) -> None:
    dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True).add_new(element, "UT", text)


def _get(dataset: Any, element: int) -> str:
    try:
        value = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[element].value
    except KeyError:
        return ""
    # Implicit VR does not say that it is a text.
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
    return text.rstrip("\0 ")
