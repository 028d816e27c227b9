"""DICOM structure sets (RTSTRUCT), ours and others', as label maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom.contours import filled, united
from volseg.data.dicom.label_items import code_from, get_label, get_provenance, title, unique_values
from volseg.data.dicom.layers import layered
from volseg.data.dicom.sources import read_sources
from volseg.data.formats import FileFormat
from volseg.data.labelmap import Label, LabelMap, default_color_rgb
from volseg.data.object_mask import ObjectMask
from volseg.data.volume_file import library_errors
from volseg.errors import ImageReadError
from volseg.geometry import Frame, Grid

logger = logging.getLogger(__name__)

SLICE_TOLERANCE = 0.1
"""A contour may lie off its slice by this part of the distance between slices; files round positions."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True, eq=False)
class _Contour:
    """One contour of a region.

    Attributes:
        points_lps_mm: vertices, [N, 3].
        exclusive: whether it combines with others of its slice by exclusive or.
    """

    points_lps_mm: NDArray[np.float64]
    exclusive: bool


def read_rtstruct(path: str | os.PathLike[str], reference: Grid | Sequence[str | os.PathLike[str]]) -> LabelMap:
    """Reads the regions of a structure set; a voxel belongs to a region if its centre lies inside.

    Contours of one region and slice are united, except that one wholly inside another is a hole; those of type
    CLOSEDPLANAR_XOR combine by exclusive or. Regions of points only (isocentres, markers) are left out with a warning
    where there are others.

    Args:
        path: the file.
        reference: the files of the image series it was drawn on (then the frame of reference is checked), or a grid.

    Raises:
        ImageReadError: the file is no structure set, is damaged, has no region, one with open contours, or one in
            another frame of reference; or a contour does not lie on one of the slices.
    """
    import pydicom

    source = Path(path)
    if isinstance(reference, Grid):
        grid, frame_uid = reference, None
    else:
        series = read_sources(reference)
        grid, frame_uid = series.grid, series.frame_of_reference_uid
    with library_errors(source, FileFormat.RTSTRUCT):
        dataset = pydicom.dcmread(source)
        regions = _regions(source, dataset)
        contours = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence", None) or ()}
        codes = _codes(dataset)
        unknown = sorted(set(contours) - {number for number, _, _ in regions})
        if unknown:
            raise ImageReadError(f"{source}: has contours of region {unknown[0]}, which is not described")
        labels, outlines = [], []
        for number, name, item in regions:
            if frame_uid is not None:
                _check_frame(source, name, item, frame_uid)
            found = _contours_of(source, name, contours.get(number))
            if found is None:
                logger.warning("%s: region %s consists of points, not of outlines; left out", source.name, name)
                continue
            labels.append(_label(item, number, name, contours.get(number), codes.get(number)))
            outlines.append(found)
        if not labels:
            raise ImageReadError(f"{source}: has no region with outlines; expected closed planar contours")
    labels = unique_values(labels)
    masks = [_mask(source, label, found, grid) for label, found in zip(labels, outlines, strict=True)]
    return layered(grid, masks, labels, get_provenance(dataset))


def region_names(path: Path) -> tuple[str, ...]:
    """The names of the regions in a structure set.

    Raises:
        ImageReadError: the file is no structure set.
    """
    import pydicom

    with library_errors(path, FileFormat.RTSTRUCT):
        return tuple(name for _, name, _ in _regions(path, pydicom.dcmread(path)))


def _regions(path: Path, dataset: Any) -> list[tuple[int, str, Any]]:
    """Number, name and item of each region."""
    if dataset.get("Modality", "") != "RTSTRUCT" or "StructureSetROISequence" not in dataset:
        raise ImageReadError(f"{path}: not a DICOM structure set; expected regions of interest")
    regions = {int(item.ROINumber): item for item in dataset.StructureSetROISequence}
    if len(regions) < len(dataset.StructureSetROISequence):
        raise ImageReadError(f"{path}: damaged structure set: two regions have one number")
    return [(number, str(item.get("ROIName", "")) or f"region {number}", item) for number, item in regions.items()]


def _check_frame(path: Path, name: str, item: Any, frame_uid: str) -> None:
    uid = item.get("ReferencedFrameOfReferenceUID", None)
    if not uid:
        raise ImageReadError(
            f"{path}: region {name} does not say which frame of reference it lies in, so it may belong to other images"
        )
    if uid != frame_uid:
        raise ImageReadError(
            f"{path}: region {name} lies in the frame of reference {uid}, the images in {frame_uid}; "
            "expected the images it was drawn on"
        )


def _contours_of(path: Path, name: str, item: Any) -> list[_Contour] | None:
    """The closed contours of a region; None for a region of points."""
    sequence = (item.get("ContourSequence", None) or ()) if item is not None else ()
    types = {str(contour.get("ContourGeometricType", "")) for contour in sequence}
    if types == {"POINT"}:
        return None
    wrong = sorted(types - set(_CLOSED))
    if wrong:
        raise ImageReadError(
            f"{path}: region {name} has contours of type {wrong[0] or 'not stated'}, which enclose nothing; "
            f"expected {' or '.join(_CLOSED)}"
        )
    result = []
    for index, contour in enumerate(sequence, start=1):
        points = _points(contour)
        if points is None or len(points) < 3 or not np.isfinite(points).all():
            raise ImageReadError(f"{path}: contour {index} of region {name} is damaged; expected three points or more")
        declared = contour.get("NumberOfContourPoints", None)
        if declared is not None and int(declared) != len(points):
            raise ImageReadError(
                f"{path}: contour {index} of region {name} declares {declared} points and has {len(points)}"
            )
        result.append(_Contour(points, contour.ContourGeometricType == "CLOSEDPLANAR_XOR"))
    return result


def _points(contour: Any) -> NDArray[np.float64] | None:
    """Contour Data [N, 3], parsed at once: pydicom would check each of millions of numbers."""
    if "ContourData" not in contour:
        return None
    raw = contour.get_item("ContourData").value
    parts = raw.rstrip(b"\0 ").split(b"\\") if isinstance(raw, bytes) else raw
    try:
        numbers = np.array([float(part) for part in parts])
    except (TypeError, ValueError):
        return None
    return numbers.reshape(-1, 3) if numbers.size % 3 == 0 else None


def _mask(path: Path, label: Label, contours: list[_Contour], grid: Grid) -> ObjectMask:
    if not contours:
        return ObjectMask(label.value, grid, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool), label.presence)
    points = [grid.to_ijk(contour.points_lps_mm, Frame.LPS) for contour in contours]
    # The axis along which contours are flat: k on the images' own grid, another one where axes were swapped.
    spread = np.array([np.ptp(item, axis=0) for item in points]).max(axis=0)
    axis = int(spread.argmin())
    if spread[axis] > 2 * SLICE_TOLERANCE:
        raise ImageReadError(
            f"{path}: the contours of {label.name} do not lie on the image's slices: they rise by up to "
            f"{spread[axis] * grid.spacing_mm[axis]:.2f} mm; expected the images they were drawn on"
        )
    planes: dict[int, list[tuple[NDArray[np.float64], bool]]] = {}
    others = [other for other in range(3) if other != axis]
    count = grid.shape[axis]
    for contour, item in zip(contours, points, strict=True):
        place = float(item[:, axis].mean())
        index = round(place)
        if np.abs(item[:, axis] - index).max() > SLICE_TOLERANCE:
            raise ImageReadError(
                f"{path}: a contour of {label.name} lies between slices, "
                f"{abs(place - index) * grid.spacing_mm[axis]:.2f} mm from the nearest; expected it on a slice"
            )
        if not 0 <= index < count:
            raise ImageReadError(
                f"{path}: a contour of {label.name} lies on slice {index}, outside of the image's {count} slices; "
                "expected the whole series it was drawn on"
            )
        planes.setdefault(index, []).append((item[:, others], contour.exclusive))
    low, high = min(planes), max(planes)
    shape = list(grid.shape)
    shape[axis] = high - low + 1
    block = np.zeros(shape, dtype=bool, order="F")
    area = (shape[others[0]], shape[others[1]])
    cut = False
    for index, found in planes.items():
        # One contour of the exclusive type makes its slice so: the standard does not mix them in one region.
        exclusive = any(flag for _, flag in found)
        place_ = [slice(None)] * 3
        place_[axis] = slice(index - low, index - low + 1)
        plane = united([filled(outline, area) for outline, _ in found], exclusive=exclusive)
        block[tuple(place_)] = np.expand_dims(plane, axis)
        cut |= any((outline < -1).any() or (outline > np.array(area)).any() for outline, _ in found)
    if cut:
        logger.warning("%s: %s reaches beyond the image; that part is left out", path.name, label.name)
    start = [0, 0, 0]
    start[axis] = low
    return ObjectMask.of(label.value, grid, block, label.presence, (start[0], start[1], start[2]))


def _label(item: Any, number: int, name: str, contour: Any, code: Any) -> Label:
    """The label as volseg wrote it, except for what other software has changed."""
    color = contour.get("ROIDisplayColor", None) if contour is not None else None
    rgb = None
    if color is not None and len(color) == 3:
        red, green, blue = (min(255, max(0, int(part))) for part in color)
        rgb = (red, green, blue)
    whole = get_label(item)
    if whole is None:
        return Label(number, name, rgb or default_color_rgb(max(1, number)), snomed=code)
    if name != title(whole):
        whole = replace(whole, name=name)
    if (code.code if code else None) != (whole.snomed.code if whole.snomed else None):
        whole = replace(whole, snomed=code)
    return whole if rgb is None else replace(whole, color_rgb=rgb)


def _codes(dataset: Any) -> dict[int, Any]:
    found = {}
    for item in dataset.get("RTROIObservationsSequence", None) or ():
        sequence = item.get("RTROIIdentificationCodeSequence", None)
        if sequence and (code := code_from(sequence[0])) is not None:
            found[int(item.ReferencedROINumber)] = code
    return found
