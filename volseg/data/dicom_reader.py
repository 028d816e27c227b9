"""One DICOM series as a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom_geometry import sorted_slices
from volseg.data.dicom_slices import SliceHeader, describe_series, modality_of, series_in, slice_headers
from volseg.data.formats import FileFormat
from volseg.data.modality import Modality
from volseg.data.volume_file import library_errors
from volseg.data.voxel_array import VoxelArray
from volseg.errors import ImageReadError, MissingExtraError
from volseg.geometry import Grid

_MAX_COMPRESSION = 2000
"""Compressed slices that claim to be more times larger than their file are refused."""


@dataclass(frozen=True)
class DicomSeries:
    """Slices that make one regular volume.

    Attributes:
        path: the folder.
        slices: sorted along the k axis of ``grid``.
        grid: where the voxels are.
        modality: CT, MR or other.
    """

    path: Path
    slices: tuple[SliceHeader, ...]
    grid: Grid
    modality: Modality

    def read(self) -> NDArray[Any]:
        """Reads the pixels slice by slice, each with its own rescale slope and intercept.

        Returns:
            [I, J, K] in Fortran order: int16 (or wider, where a value asks for it) if every slope and intercept is a
            whole number, as in CT; else float32.

        Raises:
            ImageReadError: pixels are missing, truncated, or packed in an unknown way.
            MissingExtraError: the pixels are packed in a way that needs another library.
        """
        whole = all(item.slope.is_integer() and item.intercept.is_integer() for item in self.slices)
        array = VoxelArray(self.path, self.grid.shape, np.dtype(np.int16 if whole else np.float32))
        size = self.grid.shape[0] * self.grid.shape[1]
        for k, (item, pixels) in enumerate(_slices_with_pixels(self.slices)):
            # Pixels come [row, column]: columns, our i, are fastest, as in the array.
            if not whole:
                array.put(k * size, pixels.ravel().astype(np.float64) * item.slope + item.intercept)
            elif (item.slope, item.intercept) == (1.0, 0.0):
                array.put(k * size, pixels.ravel())
            else:
                array.put(k * size, pixels.ravel().astype(np.int64) * int(item.slope) + int(item.intercept))
        return array.finished()


def open_dicom(path: Path, series_uid: str | None = None) -> DicomSeries:
    """Chooses a series and checks that it is one volume; reads headers only.

    Args:
        path: a folder; one slice, which stands for its series in its folder; or one multi-frame file.
        series_uid: the SeriesInstanceUID, where there are several.

    Raises:
        ImageReadError: several series and no choice (the message lists them), or slices that make no regular volume.
    """
    if path.is_file():
        headers = slice_headers(path)
        if not headers:
            raise ImageReadError(f"{path}: not a DICOM image; expected a slice, or a folder of slices")
        series_uid = series_uid or headers[0].series_uid
        if len(headers) > 1:
            series = {headers[0].series_uid: list(headers)}
        else:
            path = path.parent
            series = series_in(path)
    else:
        series = series_in(path)
    if series_uid is None and len(series) > 1:
        listed = "\n".join(f"  {describe_series(slices)}" for slices in series.values())
        raise ImageReadError(f"{path}: holds {len(series)} series; choose one by its UID (--series):\n{listed}")
    chosen = next(iter(series)) if series_uid is None else series_uid
    if chosen not in series:
        listed = "\n".join(f"  {describe_series(slices)}" for slices in series.values())
        raise ImageReadError(f"{path}: holds no series {chosen}; it has:\n{listed}")
    return _series(path, series[chosen])


def open_slices(folder: Path, files: Sequence[Path]) -> DicomSeries:
    """The volume of a series whose files are known, so that no folder is searched for them.

    Args:
        folder: named in errors.
        files: of one series, in any order; one multi-frame file, or one slice each.

    Raises:
        ImageReadError: slices that make no regular volume, or a file that is no image.
    """
    headers: list[SliceHeader] = []
    for file in files:
        found = slice_headers(file)
        if not found:
            raise ImageReadError(f"{file}: not a DICOM image; expected a slice")
        headers += found
    return _series(folder, headers)


def _series(path: Path, slices: Sequence[SliceHeader]) -> DicomSeries:
    described = Counter(item.path for item in slices)
    for item in slices:
        _check_pixels(item, described[item.path])
    ordered, grid = sorted_slices(path, slices)
    return DicomSeries(path, tuple(ordered), grid, modality_of(ordered[0].modality))


def _check_pixels(item: SliceHeader, described: int) -> None:
    if item.frames != described:
        raise ImageReadError(
            f"{item.path}: a multi-frame file of {item.frames} images that does not say where they lie; expected "
            "enhanced CT or MR, or one slice a file (convert with dcm2niix)"
        )
    if item.samples != 1 or not item.photometric.startswith("MONOCHROME"):
        raise ImageReadError(f"{item.path}: a colour image ({item.photometric}); expected one number a voxel")
    if not (np.isfinite(item.slope) and np.isfinite(item.intercept)) or item.slope == 0:
        raise ImageReadError(f"{item.path}: rescale slope {item.slope} and intercept {item.intercept} are not valid")
    if min(item.rows, item.columns) < 1:
        raise ImageReadError(f"{item.path}: empty: {item.rows} rows and {item.columns} columns")
    needed = item.rows * item.columns * item.frames * item.bits_allocated // 8
    there = item.path.stat().st_size
    if needed > there * (_MAX_COMPRESSION if item.compressed else 1):
        frames = f" in {item.frames} frames" if item.frames > 1 else ""
        raise ImageReadError(
            f"{item.path}: truncated, or its header is wrong: it declares {item.columns} x {item.rows} pixels"
            f"{frames}, which need {needed} bytes, and the file has {there}"
        )


def _slices_with_pixels(slices: tuple[SliceHeader, ...]) -> Iterator[tuple[SliceHeader, NDArray[Any]]]:
    """Each slice with its stored numbers [row, column]; a multi-frame file is opened once."""
    from pydicom.pixels.utils import iter_pixels

    for path, items in groupby(slices, key=lambda item: item.path):
        wanted = list(items)
        _check_decoder(wanted[0])
        with library_errors(path, FileFormat.DICOM):
            frames = iter_pixels(path, indices=[item.frame for item in wanted])
            for item in wanted:
                try:
                    pixels = next(frames)
                except ValueError as error:
                    raise ImageReadError(f"{path}: its pixel data are truncated or damaged: {error}") from error
                if pixels.shape != (item.rows, item.columns):
                    raise ImageReadError(
                        f"{path}: has pixels of shape {pixels.shape}, expected {(item.rows, item.columns)}"
                    )
                yield item, pixels


def _check_decoder(item: SliceHeader) -> None:
    if not item.compressed:
        return
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    with library_errors(item.path, FileFormat.DICOM):
        syntax = pydicom.filereader.read_file_meta_info(item.path).TransferSyntaxUID
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError as error:
            raise ImageReadError(
                f"{item.path}: its pixels are packed as {syntax.name}, which nothing here can unpack; "
                "convert the files first, for example with dcmdjpeg or gdcmconv"
            ) from error
        if not available:
            # The one decoder that the extra leaves out, as it is under the GPL.
            lossless = syntax in (pydicom.uid.JPEGLossless, pydicom.uid.JPEGLosslessSV1)
            extra = "'volseg[dicom]' pylibjpeg-libjpeg" if lossless else "'volseg[dicom]'"
            raise MissingExtraError(
                f"{item.path}: its pixels are packed as {syntax.name}, which needs more libraries: pip install {extra}"
            )
