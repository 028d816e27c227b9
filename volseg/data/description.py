"""What a file holds, without its voxels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom_slices import SeriesDescription, describe_series, list_series, slice_headers
from volseg.data.formats import FileFormat, format_to_read
from volseg.data.images import open_volume
from volseg.data.modality import Modality
from volseg.data.volume_file import chosen_channel
from volseg.errors import ImageReadError
from volseg.geometry import Grid


@dataclass(frozen=True)
class ImageDescription:
    """What a file or folder holds; nothing about the patient.

    Attributes:
        format: the kind of file.
        grid: where the voxels are; None for a folder of several DICOM series of which none was chosen.
        dtype: the numbers as stored, such as ``"int16"``; empty where ``grid`` is None.
        channels: number of channels or time points.
        modality: CT, MR or other, where known.
        series: the DICOM series in the folder.
        value_range: smallest and largest value, where asked for.
        objects: names of the objects in a DICOM segmentation or structure set.
    """

    format: FileFormat
    grid: Grid | None
    dtype: str
    channels: int = 1
    modality: Modality | None = None
    series: tuple[SeriesDescription, ...] = ()
    value_range: tuple[float, float] | None = None
    objects: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``volseg info --json``."""
        grid = self.grid
        return {
            "format": str(self.format),
            "shape": None if grid is None else list(grid.shape),
            "spacing_mm": None if grid is None else list(grid.spacing_mm),
            "axcodes": None if grid is None else grid.axcodes,
            "oblique": None if grid is None else grid.is_oblique,
            "affine_ras": None if grid is None else grid.affine_ras.tolist(),
            "dtype": self.dtype or None,
            "channels": self.channels,
            "modality": None if self.modality is None else str(self.modality),
            "series": [
                {"uid": item.uid, "modality": item.modality, "slices": item.slices, "description": item.description}
                for item in self.series
            ],
            "value_range": None if self.value_range is None else list(self.value_range),
            "objects": list(self.objects),
        }


def describe_image(
    path: str | os.PathLike[str],
    *,
    series_uid: str | None = None,
    channel: int | None = None,
    values: bool = False,
) -> ImageDescription:
    """Says what a file or folder holds; reads headers only, unless ``values`` is asked for.

    Args:
        path: as for ``read_image``.
        series_uid: the DICOM series to describe, where there are several.
        channel: the channel or time point whose values are meant, where there are several.
        values: also read the voxels and give their range.

    Raises:
        ImageReadError: as ``read_image``; several DICOM series and no choice are listed, which is no error here.
    """
    source = Path(path)
    format = format_to_read(source)
    if format is FileFormat.DICOM_SEG:
        from volseg.data.dicom import read_dicom_seg

        labelmap = read_dicom_seg(source)
        names = tuple(label.name for label in labelmap.labels)
        dtype = str(labelmap.layers[0].dtype)
        return ImageDescription(format, labelmap.grid, dtype, len(labelmap.layers), objects=names)
    if format is FileFormat.RTSTRUCT:
        from volseg.data.dicom.rtstruct_reader import region_names

        return ImageDescription(format, None, "", objects=region_names(source))
    if format is not FileFormat.DICOM:
        file = open_volume(source, series_uid)
        if channel is not None:
            chosen_channel(source, file.store.channels, channel)
        value_range = _range(file.read(channel)) if values else None
        return ImageDescription(
            file.format,
            file.grid,
            str(file.store.dtype.newbyteorder("=")),
            file.store.channels,
            value_range=value_range,
        )
    from volseg.data.dicom_reader import open_dicom

    folder = source
    headers = slice_headers(source) if source.is_file() else ()
    if len(headers) > 1:
        series: tuple[SeriesDescription, ...] = (describe_series(headers),)
    else:
        if source.is_file():
            if not headers:
                raise ImageReadError(f"{source}: not a DICOM image; expected a slice, or a folder of slices")
            folder, series_uid = source.parent, series_uid or headers[0].series_uid
        series = list_series(folder)
        if series_uid is None and len(series) > 1:
            return ImageDescription(FileFormat.DICOM, None, "", series=series)
    volume = open_dicom(folder, series_uid)
    return ImageDescription(
        FileFormat.DICOM,
        volume.grid,
        volume.slices[0].dtype,
        modality=volume.modality,
        series=series,
        value_range=_range(volume.read()) if values else None,
    )


def _range(array: NDArray[Any]) -> tuple[float, float]:
    return float(np.min(array)), float(np.max(array))
