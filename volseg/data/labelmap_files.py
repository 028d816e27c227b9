"""Label maps to files and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.atomic import atomic_path
from volseg.data.formats import FileFormat, check_output_path, format_to_read
from volseg.data.label_table import (
    LABEL_TABLE_KEY,
    complete_labels,
    label_table_from_json,
    label_table_to_json,
)
from volseg.data.labelmap import Label, LabelMap, Provenance, smallest_dtype
from volseg.data.volume_file import VolumeFile
from volseg.errors import ImageReadError, WriteError
from volseg.geometry import Grid

OVERLAPPING = frozenset({FileFormat.SEG_NRRD, FileFormat.DICOM_SEG, FileFormat.RTSTRUCT})
"""The formats that hold objects that overlap."""

ON_SOURCES = frozenset({FileFormat.DICOM_SEG, FileFormat.RTSTRUCT})
"""The formats that refer to the DICOM images they were made on."""


def write_labelmap(
    labelmap: LabelMap, path: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]] = ()
) -> None:
    """Writes a label map on exactly its own grid, in the smallest unsigned type, whole or not at all (P6).

    Names, colours, SNOMED codes, presence and provenance go along: in NIfTI as JSON in a header extension, in NRRD and
    MetaImage under the key ``volseg_labelmap``, in .seg.nrrd as 3D Slicer has them, in DICOM in its own attributes.

    Args:
        labelmap: what to write. Several layers only fit .seg.nrrd and DICOM.
        path: .nii, .nii.gz, .nrrd, .seg.nrrd, .mha, .seg.dcm (BINARY segmentation) or .rtstruct.dcm; a file already
            there is replaced.
        sources: for DICOM the files of the image series the labels were made on
            (``volseg.data.dicom.source_files``).

    Raises:
        GeometryError: the labels are not on the voxels of ``sources``.
        WriteError: the name, the folder or the disk does not allow it, or the format cannot hold overlapping objects.
    """
    target = Path(path)
    format = check_output_path(target)
    if format in ON_SOURCES:
        from volseg.data.dicom import write_dicom_seg, write_rtstruct

        if not sources:
            raise WriteError(f"{target}: a {format} refers to DICOM images; give the series the labels were made on")
        (write_dicom_seg if format is FileFormat.DICOM_SEG else write_rtstruct)(labelmap, target, sources)
        return
    if len(labelmap.layers) > 1 and format not in OVERLAPPING:
        raise WriteError(
            f"{target}: the objects overlap and {format} holds one label a voxel; "
            "write a .seg.nrrd or .seg.dcm file, or choose an overlap policy (first or last wins; LabelMap.flattened)"
        )
    layers = _smallest(labelmap)
    table = label_table_to_json(labelmap.labels, labelmap.provenance)
    with atomic_path(target) as partial:
        match format:
            case FileFormat.NIFTI:
                from volseg.data.nifti_writer import write_nifti

                write_nifti(layers[0], labelmap.grid, table, partial)
            case FileFormat.NRRD:
                from volseg.data.nrrd_writer import write_nrrd

                write_nrrd(layers, labelmap.grid, {LABEL_TABLE_KEY: table}, partial)
            case FileFormat.SEG_NRRD:
                from volseg.data.nrrd_writer import write_nrrd
                from volseg.data.slicer_segments import segment_fields

                write_nrrd(layers, labelmap.grid, segment_fields(labelmap), partial)
            case FileFormat.METAIMAGE:
                from volseg.data.metaimage_writer import write_metaimage

                write_metaimage(layers[0], labelmap.grid, {LABEL_TABLE_KEY: table}, partial)


def read_labelmap(
    path: str | os.PathLike[str],
    *,
    grid: Grid | None = None,
    sources: Sequence[str | os.PathLike[str]] = (),
) -> LabelMap:
    """Reads a label map: one of ours, a 3D Slicer segmentation, a DICOM one, or any plain volume of whole numbers.

    Values without a name get one ("label 3") and a colour.

    Args:
        path: the file; what a DICOM file holds is told by its header, not its name.
        grid: for DICOM, where the labels are wanted; a structure set needs this or ``sources``, as it has no voxels.
        sources: for DICOM, the files of the image series; checked to be the ones the labels were made on.

    Raises:
        ImageReadError: it cannot be read, or its voxels are not whole numbers from 0.
        GeometryError: a DICOM segmentation whose voxels are not those of ``grid`` or ``sources``.
    """
    from volseg.data.images import open_volume

    source = Path(path)
    format = format_to_read(source)
    if format is FileFormat.DICOM_SEG:
        from volseg.data.dicom import read_dicom_seg

        return read_dicom_seg(source, grid, sources=sources)
    if format is FileFormat.RTSTRUCT:
        from volseg.data.dicom import read_rtstruct

        if not sources and grid is None:
            raise ImageReadError(
                f"{source}: a structure set has outlines and no voxels; give the image they were drawn on (--reference)"
            )
        return read_rtstruct(source, sources or grid)  # type: ignore[arg-type]
    file = open_volume(source)
    if file.format is FileFormat.SEG_NRRD:
        from volseg.data.slicer_segments import labelmap_of_segments

        return labelmap_of_segments(file)
    array = whole_numbers(file)
    labels, provenance = _table(file)
    values = [present_values(array)]
    return LabelMap(file.grid, (array,), complete_labels(labels, values), provenance)


def read_mask(
    path: str | os.PathLike[str],
    *,
    grid: Grid | None = None,
    sources: Sequence[str | os.PathLike[str]] = (),
) -> tuple[NDArray[np.bool_], Grid]:
    """Reads a label map as a mask: True where the voxel is not 0.

    Args:
        path: as for ``read_labelmap``.
        grid: as for ``read_labelmap``.
        sources: as for ``read_labelmap``.

    Returns:
        The mask [I, J, K] and its grid.

    Raises:
        ImageReadError: as ``read_labelmap``; overlapping layers count together.
    """
    labelmap = read_labelmap(path, grid=grid, sources=sources)
    mask = labelmap.layers[0] != 0
    for layer in labelmap.layers[1:]:
        mask |= layer != 0
    return mask, labelmap.grid


def whole_numbers(file: VolumeFile, channel: int | None = None) -> NDArray[Any]:
    """The voxels of a label file in the smallest unsigned type.

    Raises:
        ImageReadError: negative or fractional numbers.
    """
    array = file.read(channel, torch_safe=False)
    low, high = array.min(), array.max()
    if low < 0:
        raise ImageReadError(f"{file.path}: holds {low}; expected labels, whole numbers from 0")
    if array.dtype.kind == "f":
        # Slice by slice, so that no second full array is needed.
        fractional = any((array[..., k] != np.floor(array[..., k])).any() for k in range(array.shape[2]))
        if fractional or high > 2**24:
            raise ImageReadError(f"{file.path}: holds fractions; expected labels, whole numbers from 0")
    return array.astype(smallest_dtype(int(high)), order="F", copy=False)


def present_values(array: NDArray[Any]) -> list[int]:
    """The values in the voxels without 0, ascending."""
    found: set[int] = set()
    for k in range(array.shape[2]):
        found.update(np.unique(array[..., k]).tolist())
    return sorted(found - {0})


def _smallest(labelmap: LabelMap) -> tuple[NDArray[Any], ...]:
    largest = max([label.value for label in labelmap.labels] + [int(layer.max()) for layer in labelmap.layers])
    return tuple(layer.astype(smallest_dtype(largest), copy=False) for layer in labelmap.layers)


def _table(file: VolumeFile) -> tuple[tuple[Label, ...], Provenance]:
    from volseg.data.metaimage_writer import joined_field

    for text in (joined_field(file.fields, LABEL_TABLE_KEY), *file.fields.values()):
        table = label_table_from_json(text)
        if table is not None:
            return table
    return (), Provenance()
