"""The DICOM slices in a folder: what their headers say, grouped into series."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.data.formats import FileFormat
from volseg.data.modality import Modality
from volseg.data.volume_file import library_errors
from volseg.errors import ImageReadError

logger = logging.getLogger(__name__)

_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "Modality",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_NOT_IMAGES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentations have rows and columns but are results, not images to segment."""

_MAX_DESCRIPTION = 64


@dataclass(frozen=True)
class SeriesDescription:
    """A series of DICOM slices, without anything about the patient.

    Attributes:
        uid: its SeriesInstanceUID.
        modality: the DICOM code, such as ``"CT"``.
        slices: number of slices, a file each or all in one multi-frame file.
        description: what the scanner's operator called it; free text.
    """

    uid: str
    modality: str
    slices: int
    description: str

    def __str__(self) -> str:
        """One line for a person who has to choose."""
        return f"{self.uid}  {self.modality}, {self.slices} slices, {self.description or 'no description'}"


@dataclass(frozen=True)
class SliceHeader:
    """What volseg needs of one slice's header, unchecked.

    Attributes:
        path: the file.
        frame: index of the slice in its file, from 0.
        series_uid: its SeriesInstanceUID.
        modality: the DICOM code.
        description: of the series.
        position_lps_mm: centre of the first pixel, three numbers, or none.
        cosines_lps: direction of increasing column (three numbers), then of increasing row, or none.
        spacing_mm: between rows, then between columns, or none.
        thickness_mm: between slices as declared, or None.
        rows: pixels down.
        columns: pixels across.
        frames: images in the file.
        samples: numbers a pixel.
        photometric: the DICOM term for what the numbers mean.
        bits_allocated: bits a number takes.
        signed: whether the stored numbers have a sign.
        compressed: whether the pixels are packed.
        slope: stored numbers are multiplied by this,
        intercept: and this is added.
    """

    path: Path
    frame: int
    series_uid: str
    modality: str
    description: str
    position_lps_mm: tuple[float, ...]
    cosines_lps: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float | None
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    signed: bool
    compressed: bool
    slope: float
    intercept: float

    @property
    def dtype(self) -> str:
        """The type of the stored numbers, such as ``"int16"``."""
        return f"{'' if self.signed else 'u'}int{self.bits_allocated}"


def list_series(folder: str | Path) -> tuple[SeriesDescription, ...]:
    """The image series in a folder and its sub-folders, the largest first.

    Raises:
        ImageReadError: there is no such folder, or it holds no DICOM image.
    """
    return tuple(describe_series(slices) for slices in series_in(Path(folder)).values())


def describe_series(slices: Sequence[SliceHeader]) -> SeriesDescription:
    """What a series is."""
    first = slices[0]
    return SeriesDescription(first.series_uid, first.modality, len(slices), first.description)


def series_in(folder: Path) -> dict[str, list[SliceHeader]]:
    """The slices in a folder and its sub-folders by SeriesInstanceUID, the largest series first.

    Files that are no DICOM images (reports, contours, other formats) are passed over.

    Raises:
        ImageReadError: there is no such folder, no DICOM image in it, or a damaged slice.
    """
    if not folder.is_dir():
        raise ImageReadError(f"{folder}: there is no such folder")
    series: dict[str, list[SliceHeader]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (headers := slice_headers(path)):
            series.setdefault(headers[0].series_uid, []).extend(headers)
    if not series:
        raise ImageReadError(f"{folder}: holds no DICOM images; expected the slices of a series")
    return dict(sorted(series.items(), key=lambda item: (-len(item[1]), item[0])))


def slice_headers(path: Path) -> tuple[SliceHeader, ...]:
    """The headers of the slices in a file, in the file's order; none for a file that is no DICOM image.

    A classic file holds one slice, an enhanced multi-frame one as many as it has frames.

    Raises:
        ImageReadError: a DICOM file that is damaged.
    """
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return ()
    import pydicom

    with library_errors(path, FileFormat.DICOM):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
        if "Rows" not in dataset or "Columns" not in dataset or dataset.get("SOPClassUID") in _NOT_IMAGES:
            return ()
        if syntax is None:
            raise ImageReadError(f"{path}: damaged DICOM file: its transfer syntax is missing")
        return frame_headers(path, dataset)


def frame_headers(path: Path, dataset: Any) -> tuple[SliceHeader, ...]:
    """The headers of the slices in a file that is already parsed, in the file's order.

    Raises:
        ImageReadError: it does not describe all of its frames.
    """
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    return tuple(
        _slice_header(path, dataset, attributes, index, compressed=compressed)
        for index, attributes in enumerate(_frame_attributes(path, dataset))
    )


def _frame_attributes(path: Path, dataset: Any) -> list[list[Any]]:
    """For each slice of a file the datasets in which its attributes are looked up, the nearest first.

    Source: DICOM PS3.3 C.7.6.16, multi-frame functional groups: a macro stands either with each frame or with all.
    """
    shared = dataset.get("SharedFunctionalGroupsSequence", None) or []
    frames = dataset.get("PerFrameFunctionalGroupsSequence", None) or []
    if not frames and not shared:
        return [[dataset]]
    count = int(dataset.get("NumberOfFrames", None) or 1)
    if len(frames) != count:
        raise ImageReadError(f"{path}: damaged DICOM file: it has {count} frames and describes {len(frames)} of them")
    common = _macros(shared[0]) if shared else []
    return [[*_macros(frame), *common, dataset] for frame in frames]


def _macros(group: Any) -> list[Any]:
    names = (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
    )
    return [group[name].value[0] for name in names if group.get(name, None)]


def _slice_header(path: Path, dataset: Any, attributes: list[Any], frame: int, *, compressed: bool) -> SliceHeader:
    def numbers(name: str) -> tuple[float, ...]:
        return next((found for source in attributes if (found := _numbers(source, name))), ())

    return SliceHeader(
        path=path,
        frame=frame,
        series_uid=str(dataset.get("SeriesInstanceUID", "")),
        modality=str(dataset.get("Modality", "")),
        description=" ".join(str(dataset.get("SeriesDescription", "")).split())[:_MAX_DESCRIPTION],
        position_lps_mm=numbers("ImagePositionPatient"),
        cosines_lps=numbers("ImageOrientationPatient"),
        spacing_mm=numbers("PixelSpacing"),
        thickness_mm=next(iter((*numbers("SpacingBetweenSlices"), *numbers("SliceThickness"))), None),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        frames=int(dataset.get("NumberOfFrames", None) or 1),
        samples=int(dataset.get("SamplesPerPixel", None) or 1),
        photometric=str(dataset.get("PhotometricInterpretation", "")),
        bits_allocated=int(dataset.get("BitsAllocated", None) or 0),
        signed=bool(dataset.get("PixelRepresentation", 0)),
        compressed=compressed,
        slope=next(iter(numbers("RescaleSlope")), 1.0),
        intercept=next(iter(numbers("RescaleIntercept")), 0.0),
    )


def modality_of(code: str) -> Modality:
    """CT, MR or other, from a DICOM code."""
    return Modality(code) if code in (Modality.CT, Modality.MR) else Modality.OTHER


def _numbers(dataset: Any, name: str) -> tuple[float, ...]:
    value = dataset.get(name, None)
    if value is None or value == "":
        return ()
    return tuple(float(part) for part in (value if hasattr(value, "__iter__") else (value,)))
