"""Where voxels are: the one place that knows about orientation (P1).

Frames and units used all over volseg:

* ``ijk``: voxel index in the order of the array's spatial axes. An integer is a voxel's centre.
* ``ras_mm``: millimetres, x towards the right of the patient, y anterior, z superior (NIfTI's convention).
* ``lps_mm``: millimetres, x left, y posterior, z superior (DICOM's and ITK's convention).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import operator
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.errors import GeometryError

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Takes RAS millimetres to LPS millimetres and back (it is its own inverse)."""

POSITION_TOLERANCE = 1e-3
"""Positions that differ by less than this part of a voxel are one position: file formats round their affines."""

MAX_VOXELS = 2**62
"""More voxels cannot be counted in int64; what fits into memory is for others to say."""

MIN_SPACING_MM = 1e-6
"""A smaller distance between voxels is taken for a broken header."""

MAX_POSITION_MM = 1e9
"""A voxel further from the origin is taken for a broken header; beyond, float64 loses the micrometres."""


class Frame(StrEnum):
    """The coordinate frame a position is given in."""

    IJK = "ijk"
    RAS = "ras"
    LPS = "lps"


class Plane(StrEnum):
    """An anatomical plane, named after the slices that lie closest to it."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    @property
    def normal_ras_axis(self) -> int:
        """The RAS axis (0 right, 1 anterior, 2 superior) along which slices of this plane are stacked."""
        return {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}[self]


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of an image: shape and voxel-to-RAS affine.

    Attributes:
        shape: number of voxels along i, j, k.
        affine_ras: [4, 4] float64, takes homogeneous ijk to RAS millimetres; read-only.

    Raises:
        GeometryError: the shape is not three positive integers, or the affine is not finite, not invertible, or has a
            last row other than 0 0 0 1.
    """

    shape: tuple[int, int, int]
    affine_ras: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        shape = _as_shape(self.shape)
        try:
            affine = np.array(self.affine_ras, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise GeometryError(f"an affine is a 4x4 matrix of numbers, got {reprlib.repr(self.affine_ras)}") from error
        if affine.shape != (4, 4):
            raise GeometryError(f"an affine is a 4x4 matrix, got shape {affine.shape}")
        if not np.isfinite(affine).all():
            raise GeometryError(f"the affine has values that are not finite:\n{affine}")
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(f"the last row of an affine is 0 0 0 1, got {affine[3]}")
        reach_mm = (np.abs(affine[:3]) * np.array([*shape, 1.0])).sum(axis=1).max()
        if reach_mm > MAX_POSITION_MM:
            raise GeometryError(f"the affine puts voxels {reach_mm:.3g} mm from the origin; its unit is millimetres")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() < MIN_SPACING_MM:
            raise GeometryError(f"the voxel spacing has a zero: {spacing.round(6).tolist()} mm along i, j, k")
        # The determinant of the unit directions is a volume between 0 (singular) and 1 (orthogonal), free of units.
        if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-4:
            raise GeometryError(f"the affine is singular: its axes do not span space\n{affine}")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine_ras", affine)

    def __eq__(self, other: object) -> bool:
        """Whether shape and affine are exactly equal, as after JSON; ``same_as`` is for grids from two sources."""
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and bool(np.array_equal(self.affine_ras, other.affine_ras))
        )

    def __hash__(self) -> int:
        """Agrees with ``__eq__``."""
        return hash((self.shape, *self.affine_ras.ravel().tolist()))

    @classmethod
    def of(cls, image: Any) -> Grid:
        """Grid of a channel-first MONAI ``MetaTensor`` [C, I, J, K] (its affine is RAS in millimetres).

        Raises:
            GeometryError: ``image`` has no affine or not four axes.
        """
        affine = getattr(image, "affine", None)
        if affine is None:
            raise GeometryError(f"expected a MetaTensor with an affine, got {type(image).__name__}; use read_image")
        if image.ndim != 4:
            raise GeometryError(f"expected an image [C, I, J, K], got shape {tuple(image.shape)}")
        return cls(tuple(image.shape[1:]), np.asarray(affine, dtype=np.float64))

    # ---- what it says about itself

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k."""
        i, j, k = np.linalg.norm(self.affine_ras[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine_ras[:3, :3]))) / 1000.0

    @property
    def axis_order(self) -> tuple[int, int, int]:
        """For i, j, k: the RAS axis (0, 1, 2) each one lies closest to; a permutation also for oblique grids."""
        cosines = np.abs(self.affine_ras[:3, :3] / np.linalg.norm(self.affine_ras[:3, :3], axis=0))
        best = max(
            itertools.permutations(range(3)),
            key=lambda order: sum(cosines[ras, axis] for axis, ras in enumerate(order)),
        )
        return best[0], best[1], best[2]

    @property
    def axis_signs(self) -> tuple[int, int, int]:
        """For i, j, k: +1 where the axis runs towards R, A or S, -1 where towards L, P or I."""
        i, j, k = (1 if self.affine_ras[ras, axis] >= 0 else -1 for axis, ras in enumerate(self.axis_order))
        return i, j, k

    @property
    def axcodes(self) -> str:
        """Letters of the directions i, j and k run towards, such as ``"RAS"`` or ``"LPS"``."""
        pairs = ("LR", "PA", "IS")
        return "".join(pairs[ras][sign > 0] for ras, sign in zip(self.axis_order, self.axis_signs, strict=True))

    @property
    def is_oblique(self) -> bool:
        """Whether some voxel axis is more than about 0.1 degree off every anatomical axis."""
        cosines = np.abs(self.affine_ras[:3, :3] / np.linalg.norm(self.affine_ras[:3, :3], axis=0))
        return bool((cosines.max(axis=0) < np.cos(np.radians(0.1))).any())

    @property
    def fingerprint(self) -> str:
        """Short hash of shape and affine, equal for equal grids on every machine.

        The affine is rounded to a nanometre: coarser rounding would take spacings for one that end voxels apart.
        """
        rounded = np.round(self.affine_ras, 6) + 0.0  # + 0.0 turns -0.0 into 0.0
        text = f"{self.shape}{rounded.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def corners_ijk(self) -> NDArray[np.float64]:
        """The eight corner voxels' centres, [8, 3]."""
        return np.array(list(itertools.product(*((0.0, n - 1.0) for n in self.shape))))

    def axis_of(self, plane: Plane) -> int:
        """The voxel axis (0 i, 1 j, 2 k) along which slices of ``plane`` are stacked."""
        return self.axis_order.index(plane.normal_ras_axis)

    def plane_of(self, axis: int) -> Plane:
        """The anatomical plane that slices stacked along voxel ``axis`` lie closest to."""
        ras_axis = self.axis_order[axis]
        return next(plane for plane in Plane if plane.normal_ras_axis == ras_axis)

    def acquisition_plane(self) -> Plane:
        """The plane of the slices as acquired: stacked along the largest spacing, axial among equals."""
        spacing = np.array(self.spacing_mm)
        axial = self.axis_of(Plane.AXIAL)
        # One percent: resampled "isotropic" volumes carry rounding in their headers.
        axis = axial if spacing[axial] >= 0.99 * spacing.max() else int(spacing.argmax())
        return self.plane_of(axis)

    # ---- positions

    @cached_property
    def _ijk_from_ras(self) -> NDArray[np.float64]:
        return np.linalg.inv(self.affine_ras).astype(np.float64)

    def to_ras_mm(self, points: ArrayLike, frame: Frame = Frame.IJK) -> NDArray[np.float64]:
        """Moves positions [..., 3] in ``frame`` to RAS millimetres."""
        array = _as_points(points)
        match frame:
            case Frame.IJK:
                return _apply(self.affine_ras, array)
            case Frame.LPS:
                return _apply(RAS_LPS, array)
            case Frame.RAS:
                return array.copy()

    def to_ijk(self, points: ArrayLike, frame: Frame = Frame.RAS) -> NDArray[np.float64]:
        """Moves positions [..., 3] in ``frame`` to continuous voxel indices of this grid."""
        if frame is Frame.IJK:
            return _as_points(points).copy()
        return _apply(self._ijk_from_ras, self.to_ras_mm(points, frame))

    def ijk_from(self, other: Grid) -> NDArray[np.float64]:
        """[4, 4] matrix that takes voxel indices of ``other`` to voxel indices of this grid."""
        return self._ijk_from_ras @ other.affine_ras

    def contains_ijk(self, points_ijk: ArrayLike) -> NDArray[np.bool_]:
        """Which positions [..., 3] lie inside some voxel (within half a voxel of a centre)."""
        array = _as_points(points_ijk)
        # A rounding error at the very border must not push a point out of the image it was picked in.
        slack = 0.5 + POSITION_TOLERANCE
        inside = (array >= -slack) & (array <= np.array(self.shape) - 1 + slack)
        return np.asarray(inside.all(axis=-1))

    def nearest_voxels(self, points_ijk: ArrayLike) -> NDArray[np.int64]:
        """The voxels that positions [..., 3] in voxel index lie in, int64 [..., 3].

        A position halfway between two voxels goes to the one further right, anterior or superior, so that it names the
        same tissue in whatever orientation the volume is stored. A position on the image's border goes to the voxel at
        the border; one outside gets an index outside.
        """
        array = np.clip(_as_points(points_ijk), -(2.0**53), 2.0**53)
        signs = np.array(self.axis_signs)
        nearest = signs * np.floor(signs * array + (0.5 + POSITION_TOLERANCE))
        last = np.array(self.shape) - 1
        slack = 0.5 + POSITION_TOLERANCE
        within = (array >= -slack) & (array <= last + slack)
        return np.where(within, np.clip(nearest, 0, last), nearest).astype(np.int64)

    # ---- other grids

    def same_as(self, other: Grid, tolerance: float = POSITION_TOLERANCE) -> bool:
        """Whether both grids have the same shape and the same corner positions.

        Args:
            other: the grid to compare with.
            tolerance: the largest distance between corresponding corners, as a part of the smallest spacing.
        """
        if self.shape != other.shape:
            return False
        corners = self.corners_ijk()
        distance_mm = np.linalg.norm(self.to_ras_mm(corners) - other.to_ras_mm(corners), axis=-1).max()
        return bool(distance_mm <= tolerance * min(self.spacing_mm))

    def cropped(self, start_ijk: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of the block of ``shape`` voxels whose first voxel is ``start_ijk`` (which may lie outside)."""
        affine = self.affine_ras.copy()
        affine[:3, 3] = _apply(self.affine_ras, np.asarray(start_ijk, dtype=np.float64))
        return Grid((shape[0], shape[1], shape[2]), affine)

    def reoriented(self, axcodes: str) -> Grid:
        """The same voxels with axes permuted and flipped so that they run towards ``axcodes``.

        Raises:
            GeometryError: ``axcodes`` does not name each of the three directions once.
        """
        matrix = self.reorientation(axcodes)
        shape = np.abs(matrix[:3, :3].T) @ np.array(self.shape)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), self.affine_ras @ matrix)

    def reorientation(self, axcodes: str) -> NDArray[np.float64]:
        """[4, 4] signed permutation that takes indices of ``reoriented(axcodes)`` to indices of this grid."""
        wanted = parse_axcodes(axcodes)
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1.0
        for new_axis, (ras, sign) in enumerate(wanted):
            old_axis = self.axis_order.index(ras)
            flip = self.axis_signs[old_axis] != sign
            matrix[old_axis, new_axis] = -1.0 if flip else 1.0
            if flip:
                matrix[old_axis, 3] = self.shape[old_axis] - 1
        return matrix

    def with_spacing(self, spacing_mm: Sequence[float]) -> Grid:
        """A grid over the same block of space with another spacing along i, j, k.

        The outer faces of the first voxels coincide; the last face moves by at most half a new voxel, as the number of
        voxels is whole, or further where an axis would be left without a voxel: every axis keeps one.

        Raises:
            GeometryError: not three positive numbers.
        """
        old = np.array(self.spacing_mm)
        try:
            new = np.asarray(spacing_mm, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise GeometryError(f"a spacing is three positive numbers in mm, got {reprlib.repr(spacing_mm)}") from error
        if new.shape != (3,) or not np.isfinite(new).all() or new.min() < MIN_SPACING_MM:
            raise GeometryError(f"a spacing is three positive numbers in mm, got {spacing_mm}")
        shape = np.maximum(1, np.round(np.array(self.shape) * old / new)).astype(int)
        scale = new / old
        step = np.eye(4)
        step[:3, :3] = np.diag(scale)
        step[:3, 3] = 0.5 * scale - 0.5
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), self.affine_ras @ step)

    # ---- JSON

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` reads back exactly."""
        return {"shape": list(self.shape), "affine_ras": self.affine_ras.tolist()}

    @classmethod
    def from_json(cls, data: Any) -> Grid:
        """Reads what ``to_json`` wrote.

        Raises:
            GeometryError: ``data`` is not a grid.
        """
        if not isinstance(data, Mapping) or "shape" not in data or "affine_ras" not in data:
            raise GeometryError(f"a grid is {{shape, affine_ras}}, got {reprlib.repr(data)}")
        rows = data["affine_ras"]
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and all(type(value) in (int, float) for value in row) for row in rows
        ):
            raise GeometryError(f"an affine is a 4x4 matrix of numbers, got {reprlib.repr(rows)}")
        return cls(data["shape"], np.array(rows, dtype=object))


def parse_axcodes(axcodes: str) -> tuple[tuple[int, int], ...]:
    """Splits letters such as ``"LPS"`` into (RAS axis, sign) for each of the three axes.

    Raises:
        GeometryError: the letters do not name each of the three directions once.
    """
    letters = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    parsed = tuple(letters.get(letter, (-1, 0)) for letter in axcodes.upper())
    if len(parsed) != 3 or {axis for axis, _ in parsed} != {0, 1, 2}:
        raise GeometryError(f"an orientation is three of R/L, A/P, S/I in any order, such as RAS; got {axcodes!r}")
    return parsed


def all_orientations() -> Iterable[str]:
    """The 48 permutations and flips of the anatomical axes, as axis codes."""
    for order in itertools.permutations(("RL", "AP", "SI")):
        for letters in itertools.product(*order):
            yield "".join(letters)


def _as_shape(shape: Any) -> tuple[int, int, int]:
    try:
        sizes = tuple(shape)
        # Not int(): 2.7 voxels and "3" are mistakes.
        whole = tuple(operator.index(size) for size in sizes if not isinstance(size, bool))
    except TypeError:
        sizes, whole = (), ()
    if len(sizes) != 3 or len(whole) != 3 or min(whole) < 1:
        raise GeometryError(f"a grid has three positive whole sizes, got {reprlib.repr(shape)}")
    if math.prod(whole) > MAX_VOXELS:
        raise GeometryError(f"a grid has at most {MAX_VOXELS} voxels, got {reprlib.repr(shape)}")
    return whole[0], whole[1], whole[2]


def _as_points(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.shape[-1:] != (3,):
        raise GeometryError(f"positions have three coordinates in their last axis, got shape {array.shape}")
    return array


def _apply(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = points @ matrix[:3, :3].T + matrix[:3, 3]
    return result
