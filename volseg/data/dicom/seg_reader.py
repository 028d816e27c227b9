"""DICOM segmentations, ours and others', as label maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom.label_items import (
    FALLBACK_CODE,
    code_from,
    get_grid,
    get_label,
    get_provenance,
    title,
    unique_values,
)
from volseg.data.dicom.layers import layered
from volseg.data.dicom.objects import need_highdicom
from volseg.data.dicom.sources import read_sources
from volseg.data.dicom_geometry import COSINE_TOLERANCE, SPACING_TOLERANCE
from volseg.data.dicom_slices import SliceHeader, frame_headers
from volseg.data.formats import FileFormat
from volseg.data.labelmap import Label, LabelMap, default_color_rgb
from volseg.data.lattice import on_lattice
from volseg.data.object_mask import ObjectMask
from volseg.data.volume_file import grid_of, library_errors
from volseg.errors import GeometryError, ImageReadError
from volseg.geometry import RAS_LPS, Grid

_POSITION_TOLERANCE_MM = 0.01


def read_dicom_seg(
    path: str | os.PathLike[str], grid: Grid | None = None, *, sources: Sequence[str | os.PathLike[str]] = ()
) -> LabelMap:
    """Reads a DICOM segmentation: BINARY, LABELMAP, or FRACTIONAL (a voxel belongs from a half on).

    Args:
        path: the file.
        grid: where the labels are wanted, usually the image's. Without it, files that volseg wrote come back on the
            grid of their images, others on the smallest one that holds their frames.
        sources: the files of the image series; gives ``grid``, and the frame of reference is checked.

    Raises:
        ImageReadError: the file is no DICOM segmentation, is damaged, or lies in another frame of reference.
        GeometryError: its voxels are not those of ``grid``.
        MissingExtraError: highdicom is not installed.
    """
    import pydicom

    source = Path(path)
    need_highdicom(source)
    series = read_sources(sources) if sources else None
    with library_errors(source, FileFormat.DICOM_SEG):
        dataset = pydicom.dcmread(source)
        if dataset.get("Modality", "") != "SEG" or "SegmentSequence" not in dataset:
            raise ImageReadError(f"{source}: not a DICOM segmentation; expected segments")
        if series is not None and dataset.get("FrameOfReferenceUID", None) != series.frame_of_reference_uid:
            raise ImageReadError(
                f"{source}: lies in the frame of reference {dataset.get('FrameOfReferenceUID', None)}, the images in "
                f"{series.frame_of_reference_uid}; expected the images it was made on"
            )
        frames = frame_headers(source, dataset)
        wanted = grid if series is None else series.grid
        target = wanted or get_grid(dataset)
        own, places = _grid_of_frames(source, frames, target)
        masks, labels = _objects(source, dataset, own, places)
    labelmap = layered(own, masks, labels, get_provenance(dataset))
    if wanted is None and target is not None:
        try:
            return on_lattice(labelmap, target)
        except GeometryError:  # other software has moved the frames; its word counts
            return labelmap
    try:
        return labelmap if wanted is None else on_lattice(labelmap, wanted)
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from error


def _grid_of_frames(path: Path, frames: tuple[SliceHeader, ...], target: Grid | None) -> tuple[Grid, list[int]]:
    """The smallest grid that holds all frames, and for each frame its k; empty slices are not stored."""
    for index, item in enumerate(frames, start=1):
        if (len(item.position_lps_mm), len(item.cosines_lps), len(item.spacing_mm)) != (3, 6, 2):
            raise ImageReadError(f"{path}: frame {index} does not say where it lies in the patient")
    first = frames[0]
    row, column = np.array(first.cosines_lps[:3]), np.array(first.cosines_lps[3:])
    for item in frames:
        if np.abs(np.subtract(item.cosines_lps, first.cosines_lps)).max() > COSINE_TOLERANCE:
            raise ImageReadError(f"{path}: its frames are not parallel; expected frames of one volume")
        if not np.allclose(item.spacing_mm, first.spacing_mm, rtol=1e-4, atol=0):
            raise ImageReadError(f"{path}: its frames have different pixel spacings; expected frames of one volume")
    normal = np.cross(row, column)
    positions = np.array([item.position_lps_mm for item in frames])
    along = positions @ normal
    origin = positions[np.argmin(along)]
    across = positions - origin - np.outer(along - along.min(), normal)
    if np.abs(across).max() > _POSITION_TOLERANCE_MM + SPACING_TOLERANCE * min(first.spacing_mm):
        raise ImageReadError(f"{path}: its frames do not lie straight behind one another; expected one volume")
    step = _step(path, np.unique(along), normal, first, target)
    places = (along - along.min()) / step
    if np.abs(places - np.round(places)).max() > 0.1:
        raise GeometryError(f"{path}: its frames lie between slices that are {step:.3f} mm apart; expected on them")
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = np.column_stack((row * first.spacing_mm[1], column * first.spacing_mm[0], normal * step))
    affine_lps[:3, 3] = origin
    indices = [int(place) for place in np.round(places)]
    return grid_of(path, (first.columns, first.rows, max(indices) + 1), RAS_LPS @ affine_lps), indices


def _step(
    path: Path, along: NDArray[np.float64], normal: NDArray[np.float64], first: SliceHeader, target: Grid | None
) -> float:
    """The distance between slices: that of the image where known, else as declared, else the smallest there is."""
    if target is not None:
        directions = target.affine_ras[:3, :3] / np.array(target.spacing_mm)
        return target.spacing_mm[int(np.abs(directions.T @ (RAS_LPS[:3, :3] @ normal)).argmax())]
    gaps = np.diff(along)
    gaps = gaps[gaps > _POSITION_TOLERANCE_MM]
    if first.thickness_mm is not None and first.thickness_mm > 0:
        multiples = gaps / first.thickness_mm
        if not gaps.size or np.abs(multiples - np.round(multiples)).max() < 0.1 > abs(1 - np.round(multiples).min()):
            exact = (along[-1] - along[0]) / max(1, round((along[-1] - along[0]) / first.thickness_mm))
            return float(exact) if gaps.size else first.thickness_mm
    if not gaps.size:
        raise ImageReadError(f"{path}: one slice without a thickness; its extent is unknown")
    return float(gaps.min())


def _objects(path: Path, dataset: Any, grid: Grid, places: list[int]) -> tuple[list[ObjectMask], list[Label]]:
    labels = {}
    is_labelmap = dataset.get("SegmentationType", "") == "LABELMAP"
    for item in dataset.SegmentSequence:
        number = int(item.SegmentNumber)
        if is_labelmap and number == 0:
            continue  # the background
        if number in labels:
            raise ImageReadError(f"{path}: has two segments {number}")
        labels[number] = _label(item, number)
    planes: dict[int, dict[int, NDArray[np.bool_]]] = {number: {} for number in labels}
    for index, number, plane in _planes(path, dataset, is_labelmap):
        if number not in planes:
            raise ImageReadError(f"{path}: frame {index + 1} belongs to segment {number}, which is not described")
        if plane.any():
            k = places[index]
            planes[number][k] = planes[number][k] | plane if k in planes[number] else plane
    values = unique_values(list(labels.values()))
    masks = []
    for label, found in zip(values, planes.values(), strict=True):
        low, high = min(found, default=0), max(found, default=-1)
        block = np.zeros((*grid.shape[:2], high - low + 1), dtype=bool, order="F")
        for k, plane in found.items():
            block[..., k - low] = plane.T
        masks.append(ObjectMask.of(label.value, grid, block, label.presence, (0, 0, low)))
        found.clear()
    return masks, values


def _planes(path: Path, dataset: Any, is_labelmap: bool) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Index of the frame, number of the segment, and its pixels [row, column]."""
    kind = dataset.get("SegmentationType", "")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise ImageReadError(f"{path}: is a segmentation of type {kind!r}; expected BINARY, FRACTIONAL or LABELMAP")
    half = int(dataset.get("MaximumFractionalValue", None) or 1) / 2 if kind == "FRACTIONAL" else 0.5
    shared = dataset.get("SharedFunctionalGroupsSequence", None) or [{}]
    per_frame = dataset.PerFrameFunctionalGroupsSequence
    for index, (group, pixels) in enumerate(zip(per_frame, _pixels(path, dataset), strict=True)):
        if is_labelmap:
            for number in np.unique(pixels).tolist():
                if number != 0:
                    yield index, number, pixels == number
            continue
        identification = group.get("SegmentIdentificationSequence", None) or shared[0].get(
            "SegmentIdentificationSequence", None
        )
        if not identification:
            raise ImageReadError(f"{path}: frame {index + 1} does not say to which segment it belongs")
        yield index, int(identification[0].ReferencedSegmentNumber), pixels >= half


def _pixels(path: Path, dataset: Any) -> Iterator[NDArray[Any]]:
    """The frames, [row, column] each."""
    if int(dataset.BitsAllocated) != 1 or dataset.file_meta.TransferSyntaxUID.is_compressed:
        from pydicom.pixels.utils import iter_pixels

        yield from iter_pixels(dataset)
        return
    # Frames of single bits follow one another without regard to bytes, which pydicom reads only all at once.
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    count, size = int(dataset.NumberOfFrames), rows * columns
    data = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    if data.size * 8 < count * size:
        raise ImageReadError(f"{path}: truncated: {count} frames of {columns} x {rows} bits, and {data.size} bytes")
    for index in range(count):
        first, last = index * size, (index + 1) * size
        bits = np.unpackbits(data[first // 8 : -(-last // 8)], bitorder="little")
        yield bits[first % 8 :][:size].reshape(rows, columns)


def _label(item: Any, number: int) -> Label:
    """The label as volseg wrote it, except for what other software has changed."""
    from highdicom.color import CIELabColor

    whole = get_label(item)
    name = str(item.get("SegmentLabel", "")) or f"segment {number}"
    lab = item.get("RecommendedDisplayCIELabValue", None)
    types = item.get("SegmentedPropertyTypeCodeSequence", None)
    code = code_from(types[0]) if types else None
    if whole is None:
        color = default_color_rgb(max(1, number)) if lab is None else _rgb(lab)
        return Label(number, name, color, snomed=code)
    if name != title(whole):
        whole = replace(whole, name=name)
    if lab is not None and list(lab) != list(CIELabColor.from_rgb(*whole.color_rgb).value):
        whole = replace(whole, color_rgb=_rgb(lab))
    if (code or FALLBACK_CODE).code != (whole.snomed or FALLBACK_CODE).code:
        whole = replace(whole, snomed=code)
    return whole


def _rgb(lab: Any) -> tuple[int, int, int]:
    from highdicom.color import CIELabColor

    red, green, blue = CIELabColor.from_dicom_value(tuple(int(part) for part in lab)).to_rgb()
    return int(red), int(green), int(blue)
