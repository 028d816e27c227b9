"""Random grids and independent geometry for the tests."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from volseg.geometry import Grid, all_orientations

ORIENTATIONS = tuple(all_orientations())


def rotation(axis: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Rotation matrix by Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    result: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return result


def make_grid(
    shape: tuple[int, int, int] = (7, 6, 5),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin_ras_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    tilt: tuple[tuple[float, float, float], float] = ((0.0, 0.0, 1.0), 0.0),
) -> Grid:
    """A grid whose axes run about towards R, A and S, tilted by an angle in degrees about an axis."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.array(tilt[0]), tilt[1]) * np.array(spacing_mm)
    affine[:3, 3] = origin_ras_mm
    return Grid(shape, affine)


STRAIGHT = make_grid((9, 7, 6), (0.8, 1.1, 3.0), (-31.7, 12.3, 401.9))
OBLIQUE = make_grid((9, 7, 6), (0.8, 1.1, 3.0), (-31.7, 12.3, 401.9), ((1.0, -2.0, 0.7), 23.0))
CUBIC = make_grid((8, 7, 6))


@st.composite
def grids(draw: st.DrawFn, largest: int = 9, tilted: bool = True) -> Grid:
    """Anisotropic grids in any orientation, tilted by up to 35 degrees, so that the nearest axes are beyond doubt."""
    number = st.floats(-1, 1, allow_subnormal=False)
    axis = np.array(draw(st.tuples(number, number, number).filter(lambda v: np.linalg.norm(v) > 0.1)))
    directions = rotation(axis, draw(st.floats(0, 35))) if tilted else np.eye(3)
    order = draw(st.sampled_from(list(itertools.permutations(range(3)))))
    signs = np.array(draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = directions[:, list(order)] * signs * np.array(draw(st.tuples(*[st.floats(0.2, 8)] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-600, 600)] * 3))
    return Grid(draw(st.tuples(*[st.integers(1, largest)] * 3)), affine)


def all_voxels(grid: Grid) -> NDArray[np.int64]:
    """Every index of a grid, [N, 3]."""
    return np.argwhere(np.ones(grid.shape, dtype=bool)).astype(np.int64)


def ras_of(grid: Grid, points_ijk: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Positions [N, 3] in RAS mm by homogeneous coordinates."""
    points = np.asarray(points_ijk, dtype=np.float64)
    result: NDArray[np.float64] = (grid.affine_ras @ np.c_[points, np.ones(len(points))].T).T[:, :3]
    return result


def ijk_of(grid: Grid, points_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel indices [N, 3] by solving, not by an inverse matrix."""
    result: NDArray[np.float64] = np.linalg.solve(
        grid.affine_ras[:3, :3], (np.asarray(points_ras_mm) - grid.affine_ras[:3, 3]).T
    ).T
    return result


def tissue(voxels: NDArray[np.int64], grid: Grid, base: Grid) -> set[tuple[int, int, int]]:
    """The same voxels as indices of ``base``, whose lattice ``grid`` must share."""
    if len(voxels) == 0:
        return set()
    indices = ijk_of(base, ras_of(grid, voxels))
    assert np.abs(indices - np.round(indices)).max() < 1e-6
    result = {(int(i), int(j), int(k)) for i, j, k in np.round(indices)}
    assert len(result) == len(voxels), "a voxel is listed twice"
    return result


def index_set(mask: NDArray[np.bool_]) -> set[tuple[int, int, int]]:
    """The set voxels of a mask."""
    return {(int(i), int(j), int(k)) for i, j, k in np.argwhere(mask)}
