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
]
_MAX_DESCRIPTION = 64


@dataclass(frozen=True)
class SeriesDescription:
    """A series of DICOM slices, without anything about the patient.

    Attributes:
        uid: its SeriesInstanceUID.
        modality: the DICOM code, such as ``"CT"``.
        slices: number of slice files.
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
        if path.is_file() and (header := slice_header(path)) is not None:
            series.setdefault(header.series_uid, []).append(header)
    if not series:
        raise ImageReadError(f"{folder}: holds no DICOM images; expected the slices of a series")
    return dict(sorted(series.items(), key=lambda item: (-len(item[1]), item[0])))


def slice_header(path: Path) -> SliceHeader | None:
    """The header of one slice; None for a file that is no DICOM image.

    Raises:
        ImageReadError: a DICOM file that is damaged.
    """
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return None
    import pydicom

    with library_errors(path, FileFormat.DICOM):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
        if "Rows" not in dataset or "Columns" not in dataset:
            return None
        if syntax is None:
            raise ImageReadError(f"{path}: damaged DICOM file: its transfer syntax is missing")
        return SliceHeader(
            path=path,
            series_uid=str(dataset.get("SeriesInstanceUID", "")),
            modality=str(dataset.get("Modality", "")),
            description=" ".join(str(dataset.get("SeriesDescription", "")).split())[:_MAX_DESCRIPTION],
            position_lps_mm=_numbers(dataset, "ImagePositionPatient"),
            cosines_lps=_numbers(dataset, "ImageOrientationPatient"),
            spacing_mm=_numbers(dataset, "PixelSpacing"),
            thickness_mm=next(
                iter((*_numbers(dataset, "SpacingBetweenSlices"), *_numbers(dataset, "SliceThickness"))), None
            ),
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            frames=int(dataset.get("NumberOfFrames", None) or 1),
            samples=int(dataset.get("SamplesPerPixel", None) or 1),
            photometric=str(dataset.get("PhotometricInterpretation", "")),
            bits_allocated=int(dataset.get("BitsAllocated", None) or 0),
            signed=bool(dataset.get("PixelRepresentation", 0)),
            compressed=syntax.is_compressed,
            slope=next(iter(_numbers(dataset, "RescaleSlope")), 1.0),
            intercept=next(iter(_numbers(dataset, "RescaleIntercept")), 0.0),
        )


def modality_of(code: str) -> Modality:
    """CT, MR or other, from a DICOM code."""
    return Modality(code) if code in (Modality.CT, Modality.MR) else Modality.OTHER


def _numbers(dataset: Any, name: str) -> tuple[float, ...]:
    value = dataset.get(name, None)
    if value is None or value == "":
        return ()
    return tuple(float(part) for part in (value if hasattr(value, "__iter__") else (value,)))
