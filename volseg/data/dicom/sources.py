"""The DICOM images a result was made on, and that it refers to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volseg.data.dicom_geometry import sorted_slices
from volseg.data.dicom_slices import SliceHeader, slice_headers
from volseg.data.formats import FileFormat
from volseg.data.volume_file import library_errors
from volseg.errors import ImageReadError
from volseg.geometry import Grid

_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class SourceSeries:
    """A series of images without their pixels.

    Attributes:
        slices: one for each k of ``grid``.
        grid: where the voxels are; i along rows, j down columns, k along the slices' normal.
        datasets: the files' headers in the order of the slices, without the patient's name, which
            libraries quote in their logs.
        patient_name: as it stands in the first header.
    """

    slices: tuple[SliceHeader, ...]
    grid: Grid
    datasets: tuple[Any, ...] = field(repr=False)
    patient_name: str = field(default="", repr=False)

    @property
    def frame_of_reference_uid(self) -> str:
        """Names the space the positions are in."""
        return str(self.datasets[0].FrameOfReferenceUID)

    @property
    def series_uid(self) -> str:
        """The SeriesInstanceUID."""
        return str(self.datasets[0].SeriesInstanceUID)

    @property
    def is_multiframe(self) -> bool:
        """Whether one file holds all slices."""
        return len(self.datasets) == 1 and len(self.slices) > 1

    def dataset_of(self, k: int) -> Any:
        """The header of the file that holds slice ``k``."""
        return self.datasets[0] if self.is_multiframe else self.datasets[k]


def source_files(image_path: str | os.PathLike[str], series_uid: str | None = None) -> tuple[Path, ...]:
    """The DICOM files of the series that ``read_image`` reads from a path, in the order of its slices.

    Args:
        image_path: a folder, a slice, or a multi-frame file, as for ``read_image``.
        series_uid: as for ``read_image``.

    Raises:
        ImageReadError: as ``read_image``; a path that holds no DICOM images.
    """
    from volseg.data.dicom_reader import open_dicom

    return tuple(dict.fromkeys(item.path for item in open_dicom(Path(image_path), series_uid).slices))


def read_sources(paths: Sequence[str | os.PathLike[str]]) -> SourceSeries:
    """Reads the headers of a series' files.

    Args:
        paths: all files of one series, in any order (``source_files``).

    Raises:
        ImageReadError: no file, files of several series, ones that are no images or make no regular volume, or headers
            without an identifier that results have to refer to.
    """
    import pydicom

    if not paths:
        raise ImageReadError("no DICOM images were given; a DICOM result refers to the images it was made on")
    headers: list[SliceHeader] = []
    for path in map(Path, paths):
        found = slice_headers(path)
        if not found:
            raise ImageReadError(f"{path}: not a DICOM image; expected the slices of one series")
        headers += found
    uids = sorted({item.series_uid for item in headers})
    if len(uids) > 1:
        raise ImageReadError(f"{headers[0].path.parent}: {len(uids)} series, expected one: {', '.join(uids[:4])}")
    slices, grid = sorted_slices(headers[0].path.parent, headers)
    files = list(dict.fromkeys(item.path for item in slices))
    if len(files) not in (1, len(slices)):
        raise ImageReadError(f"{files[0].parent}: {len(files)} multi-frame files make one volume; expected one file")
    datasets: list[Any] = []
    names: list[str] = []
    for path in files:
        with library_errors(path, FileFormat.DICOM):
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        missing = [name for name in _REQUIRED if not dataset.get(name, None)]
        if missing:
            raise ImageReadError(f"{path}: has no {', '.join(missing)}, which a result has to refer to")
        for name in _MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
        names.append(str(dataset.PatientName or ""))
        dataset.PatientName = ""
        datasets.append(dataset)
    return SourceSeries(tuple(slices), grid, tuple(datasets), names[0])
