"""DICOM series in folders of any layout, found by what their headers say."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volseg.batch.case import SeriesSource
from volseg.batch.privacy import quiet_pydicom
from volseg.errors import ImageReadError

_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
]
_NO_IMAGES = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG", "DOC"})
"""DICOM codes of what may have pixels and is no image to segment."""

DEFAULT_MIN_SLICES = 3
"""Smaller series are scouts."""


@dataclass(frozen=True)
class SeriesFilter:
    """Which series of an archive are wanted.

    Attributes:
        modalities: DICOM codes; none takes all images.
        description: a regular expression that must occur in the series' description, upper and lower case alike.
        min_slices: the smallest number of slices or frames.
        max_slices: the largest.
    """

    modalities: frozenset[str] = frozenset()
    description: re.Pattern[str] | None = None
    min_slices: int = DEFAULT_MIN_SLICES
    max_slices: int | None = None

    def refusal(self, modality: str, description: str, slices: int) -> str:
        """Why a series is passed over, in words that hold nothing of its headers; empty if it is wanted."""
        if modality in _NO_IMAGES and modality not in self.modalities:
            return "no image"
        if self.modalities and modality not in self.modalities:
            return "another modality"
        if self.description is not None and self.description.search(description) is None:
            return "another description"
        if slices < self.min_slices:
            return f"fewer than {self.min_slices} slices"
        if self.max_slices is not None and slices > self.max_slices:
            return f"more than {self.max_slices} slices"
        return ""


@dataclass
class _Growing:
    """A series while its files are being found."""

    modality: str
    description: str
    columns: int
    rows: int
    bits: int
    slices: int = 0
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Archive:
    """The series in some files.

    Attributes:
        series: the wanted ones, by UID.
        passed_over: why others are not wanted, and how many.
        lost: files that begin like DICOM, cannot be read, and lie beside no series.
    """

    series: tuple[SeriesSource, ...]
    passed_over: Counter[str]
    lost: tuple[Path, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(files: Iterable[Path], wanted: SeriesFilter) -> Archive:
    """Groups DICOM files into series; reads headers only.

    A file whose header is damaged cannot be counted to a series, so every series in its folder is marked: a slice of
    it may be missing.

    Args:
        files: DICOM files in any order.
        wanted: which series are taken.
    """
    growing: dict[str, _Growing] = {}
    damaged: list[Path] = []
    for path in sorted(files):
        try:
            with quiet_pydicom():
                header = _header(path)
        except Exception:  # what parsers raise on broken files is not documented
            damaged.append(path)
            continue
        if header is None:
            continue
        uid = str(header.get("SeriesInstanceUID", "")) or f"none in {path.parent}"
        item = growing.setdefault(
            uid,
            _Growing(
                str(header.get("Modality", "")),
                str(header.get("SeriesDescription", "")),
                int(header.Columns),
                int(header.Rows),
                int(header.get("BitsAllocated", None) or 16),
            ),
        )
        item.slices += int(header.get("NumberOfFrames", None) or 1)
        item.files.append(path)
    damaged_in = Counter(path.parent for path in damaged)
    passed_over: Counter[str] = Counter()
    series = []
    homes: set[Path] = set()
    for uid, item in sorted(growing.items()):
        folders = {path.parent for path in item.files}
        homes |= folders
        reason = wanted.refusal(item.modality, item.description, item.slices)
        if reason:
            passed_over[reason] += 1
            continue
        series.append(
            SeriesSource(
                Path(os.path.commonpath(folders)),
                tuple(item.files),
                uid,
                item.modality,
                (item.columns, item.rows, item.slices),
                item.bits,
                sum(damaged_in[folder] for folder in folders),
            )
        )
    return Archive(tuple(series), passed_over, tuple(path for path in damaged if path.parent not in homes))


def _header(path: Path) -> Any:
    """The few elements that are needed; None for DICOM without pixels, such as reports and contours."""
    import pydicom

    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    if "Rows" in dataset and "Columns" in dataset:
        return dataset
    # A parser may take a file that was cut off for one with few elements.
    kind = pydicom.uid.UID(str(dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    if not kind or kind.name.endswith("Image Storage"):
        raise ImageReadError("a DICOM image without a size")
    return None
