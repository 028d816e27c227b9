"""UIDs and dates of new DICOM objects, derived from what they are made of: the same input gives the same file."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import numpy as np

from volseg.data.label_table import label_table_to_json
from volseg.data.labelmap import LabelMap

NO_DATE = "19700101"
"""Stands where DICOM demands a date and no source has one; the clock is never read."""


def derived_uid(*parts: str) -> str:
    """A UID that is the same for the same ``parts`` everywhere.

    Source: DICOM PS3.5 B.2, UUID-derived UIDs (root 2.25); the UUID is of version 8, made of a SHA-256.
    """
    digest = hashlib.sha256("\0".join(("volseg", *parts)).encode()).digest()
    bits = int.from_bytes(digest[:16], "big")
    bits = bits & ~(0xF << 76) | (8 << 76)  # version
    bits = bits & ~(0x3 << 62) | (0x2 << 62)  # variant
    return f"2.25.{uuid.UUID(int=bits).int}"


def content_hash(labelmap: LabelMap) -> str:
    """Hash of voxels, grid, labels and provenance; memory layout and type of the arrays do not count."""
    digest = hashlib.sha256(repr(labelmap.grid.to_json()).encode())
    digest.update(label_table_to_json(labelmap.labels, labelmap.provenance).encode())
    for layer in labelmap.layers:
        for k in range(layer.shape[2]):
            digest.update(np.ascontiguousarray(layer[..., k].T, dtype="<u4").data)
    return digest.hexdigest()


def date_and_time(dataset: Any) -> tuple[str, str]:
    """When the source's content was made, for the date and time of what is derived from it."""
    for kind in ("Content", "Acquisition", "Series", "Study"):
        date = str(dataset.get(f"{kind}Date", None) or "")
        if len(date) == 8 and date.isdigit():
            return date, str(dataset.get(f"{kind}Time", None) or "000000")
    return NO_DATE, "000000"
