"""From the positions of DICOM slices to one grid, or a refusal with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom_slices import SliceHeader
from volseg.data.volume_file import grid_of
from volseg.errors import ImageReadError
from volseg.geometry import RAS_LPS, Grid

COSINE_TOLERANCE = 1e-4
"""Directions of slices may differ by this much; headers round them."""

SPACING_TOLERANCE = 0.02
"""Distances between slices may differ from their median by this part of it; headers round positions."""

TILT_TOLERANCE_DEG = 0.1
"""A stack may lean by this angle against its slices' normal before it counts as tilted."""


def sorted_slices(path: Path, slices: Sequence[SliceHeader]) -> tuple[list[SliceHeader], Grid]:
    """Sorts slices along their normal and finds their grid.

    The axes are i along a row (to the next column), j down a column (to the next row), k along the normal, the cross
    product of both, as ITK has it.

    Args:
        path: the folder, named in errors.
        slices: of one series, in any order.

    Raises:
        ImageReadError: the slices do not make one regular volume; the message has the numbers.
    """
    for item in slices:
        if (len(item.position_lps_mm), len(item.cosines_lps), len(item.spacing_mm)) != (3, 6, 2):
            raise ImageReadError(f"{item.path}: has no position, orientation or pixel spacing; it is no slice in space")
        if not np.isfinite((*item.position_lps_mm, *item.cosines_lps, *item.spacing_mm)).all():
            raise ImageReadError(f"{item.path}: its position, orientation or pixel spacing is not finite")
    first = slices[0]
    _check_same(path, slices)
    row, column = np.array(first.cosines_lps[:3]), np.array(first.cosines_lps[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > 1e-2:
        raise ImageReadError(
            f"{first.path}: its orientation {list(first.cosines_lps)} is no pair of orthogonal directions"
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    positions = np.array([item.position_lps_mm for item in slices])
    order = np.argsort(positions @ normal, kind="stable")
    step = _step(path, positions[order], normal, first)
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = row * first.spacing_mm[1]
    affine_lps[:3, 1] = column * first.spacing_mm[0]
    affine_lps[:3, 2] = normal * step
    affine_lps[:3, 3] = positions[order[0]]
    grid = grid_of(path, (first.columns, first.rows, len(slices)), RAS_LPS @ affine_lps)
    return [slices[index] for index in order], grid


def _check_same(path: Path, slices: Sequence[SliceHeader]) -> None:
    first = slices[0]
    sizes = sorted({(item.columns, item.rows) for item in slices})
    if len(sizes) > 1:
        raise ImageReadError(f"{path}: slices of mixed sizes: {_listed([f'{a} x {b}' for a, b in sizes])} pixels")
    for item in slices:
        if np.abs(np.subtract(item.cosines_lps, first.cosines_lps)).max() > COSINE_TOLERANCE:
            raise ImageReadError(
                f"{path}: slices of mixed orientation: {list(first.cosines_lps)} and {list(item.cosines_lps)} "
                f"({item.path.name}), perhaps a localizer; expected parallel slices"
            )
        if not np.allclose(item.spacing_mm, first.spacing_mm, rtol=1e-4, atol=0):
            raise ImageReadError(
                f"{path}: slices of mixed pixel spacing: {list(first.spacing_mm)} and {list(item.spacing_mm)} mm"
            )


def _step(path: Path, positions: NDArray[np.float64], normal: NDArray[np.float64], first: SliceHeader) -> float:
    """The distance between neighbouring slices; ``positions`` [N, 3] are sorted along ``normal``."""
    if len(positions) == 1:
        if first.thickness_mm is None or not first.thickness_mm > 0:
            raise ImageReadError(f"{path}: one slice without a thickness; its extent is unknown")
        return first.thickness_mm
    along = positions @ normal
    gaps = np.diff(along)
    typical = float(np.median(gaps))
    same = np.flatnonzero(gaps < max(1e-3, SPACING_TOLERANCE * typical))
    if same.size:
        raise ImageReadError(
            f"{path}: {same.size} of {len(positions)} slices are duplicates in position, the first at "
            f"{along[same[0]]:.3f} mm; expected one slice each (copied files, or several times or echoes)"
        )
    across = positions[-1] - positions[0] - normal * (along[-1] - along[0])
    tilt_deg = float(np.degrees(np.arctan2(np.linalg.norm(across), along[-1] - along[0])))
    # Slices that lie apart by a rounding error only, as in a stack of two, are not tilted.
    if tilt_deg > TILT_TOLERANCE_DEG and np.linalg.norm(across) > 0.05 * min(first.spacing_mm):
        raise ImageReadError(
            f"{path}: gantry tilt: the stack leans by {tilt_deg:.2f} degrees against its slices; "
            "correct the tilt first, for example with dcm2niix"
        )
    wrong = np.flatnonzero(np.abs(gaps - typical) > SPACING_TOLERANCE * typical)
    if wrong.size:
        multiples = gaps[wrong] / typical
        missing = np.abs(multiples - np.round(multiples)).max() < 3 * SPACING_TOLERANCE and multiples.min() > 1.5
        places = _listed([f"{gaps[n]:.3f} mm at {along[n]:.3f} mm" for n in wrong])
        if missing:
            count = int(np.round(multiples).sum()) - wrong.size
            noun = "slice" if count == 1 else "slices"
            raise ImageReadError(f"{path}: {count} missing {noun}: {typical:.3f} mm between slices, but {places}")
        raise ImageReadError(f"{path}: uneven spacing: {typical:.3f} mm between most slices, but {places}")
    return float((along[-1] - along[0]) / (len(positions) - 1))


def _listed(items: list[str], most: int = 4) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
