"""The grid against its definition, nibabel and SimpleITK."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from grid_strategies import CUBIC, OBLIQUE, ORIENTATIONS, STRAIGHT, all_voxels, grids, ijk_of, make_grid, ras_of
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.errors import GeometryError
from volseg.geometry import Frame, Grid, Plane, all_orientations, parse_axcodes

POINT = st.tuples(*[st.floats(-400, 400)] * 3)


def as_sitk(grid: Grid) -> sitk.Image:
    """An empty ITK image on the grid, with the definition of LPS written out."""
    image = sitk.Image([int(n) for n in grid.shape], sitk.sitkUInt8)
    columns = grid.affine_ras[:3, :3].copy()
    columns[:2] *= -1
    lengths = [math.sqrt(sum(value**2 for value in columns[:, axis])) for axis in range(3)]
    image.SetSpacing(lengths)
    image.SetDirection((columns / lengths).ravel().tolist())
    x, y, z = grid.affine_ras[:3, 3]
    image.SetOrigin((-x, -y, z))
    return image


@given(grids(), POINT)
def test_frames_round_trip(grid: Grid, point: tuple[float, float, float]) -> None:
    for frame in Frame:
        ras_mm = grid.to_ras_mm(point, frame)
        ijk = grid.to_ijk(point, frame)
        np.testing.assert_allclose(grid.to_ras_mm(ijk), ras_mm, atol=1e-8)
        np.testing.assert_allclose(ras_of(grid, ijk[None])[0], ras_mm, atol=1e-8)
    lps_mm = np.array(point) * (-1, -1, 1)
    np.testing.assert_array_equal(grid.to_ras_mm(lps_mm, Frame.LPS), point)
    np.testing.assert_allclose(grid.to_ijk(lps_mm, Frame.LPS), ijk_of(grid, np.array([point]))[0], atol=1e-7)


@given(grids(), POINT)
def test_positions_are_those_of_simpleitk(grid: Grid, point: tuple[float, float, float]) -> None:
    image = as_sitk(grid)
    x, y, z = grid.to_ras_mm(point)
    np.testing.assert_allclose(image.TransformContinuousIndexToPhysicalPoint(point), (-x, -y, z), atol=1e-6)
    corner = [n - 1 for n in grid.shape]
    x, y, z = grid.to_ras_mm(corner)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(corner), (-x, -y, z), atol=1e-6)


@given(grids())
def test_axcodes_are_those_of_nibabel(grid: Grid) -> None:
    assert grid.axcodes == "".join(nibabel.aff2axcodes(grid.affine_ras))


@settings(max_examples=8)
@given(grids())
def test_reorientation_keeps_every_voxel_in_place_as_nibabel_does(grid: Grid) -> None:
    array = np.arange(math.prod(grid.shape)).reshape(grid.shape)
    stored = nibabel.io_orientation(grid.affine_ras)
    for axcodes in ORIENTATIONS:
        turned = grid.reoriented(axcodes)
        assert turned.axcodes == axcodes
        matrix = grid.reorientation(axcodes)
        new = all_voxels(turned)
        old = np.round(new @ matrix[:3, :3].T + matrix[:3, 3]).astype(int)
        assert len(np.unique(old, axis=0)) == len(old)
        np.testing.assert_allclose(ras_of(turned, new), ras_of(grid, old), atol=1e-8)
        change = nibabel.orientations.ornt_transform(stored, nibabel.orientations.axcodes2ornt(tuple(axcodes)))
        expected = nibabel.apply_orientation(array, change)
        assert turned.shape == expected.shape
        np.testing.assert_array_equal(array[tuple(old.T)].reshape(turned.shape), expected)
        affine = grid.affine_ras @ nibabel.orientations.inv_ornt_aff(change, grid.shape)
        np.testing.assert_allclose(turned.affine_ras, affine, atol=1e-8)
        assert turned.reoriented(grid.axcodes).same_as(grid)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48
    assert list(all_orientations()) == list(ORIENTATIONS)
    assert parse_axcodes("lps") == ((0, -1), (1, -1), (2, 1))


@given(grids(), st.tuples(*[st.floats(0.2, 8)] * 3))
def test_new_spacing_keeps_the_outer_faces(grid: Grid, spacing_mm: tuple[float, float, float]) -> None:
    new = grid.with_spacing(spacing_mm)
    np.testing.assert_allclose(new.spacing_mm, spacing_mm, rtol=1e-9)
    np.testing.assert_allclose(new.to_ras_mm([-0.5] * 3), grid.to_ras_mm([-0.5] * 3), atol=1e-8)
    for axis in range(3):
        old_mm = grid.shape[axis] * grid.spacing_mm[axis]
        new_mm = new.shape[axis] * spacing_mm[axis]
        assert new.shape[axis] == 1 or abs(new_mm - old_mm) <= spacing_mm[axis] / 2 + 1e-6
    np.testing.assert_allclose(
        new.affine_ras[:3, :3] / new.spacing_mm, grid.affine_ras[:3, :3] / grid.spacing_mm, atol=1e-9
    )


@given(grids(), st.tuples(*[st.integers(-5, 5)] * 3), st.tuples(*[st.integers(1, 5)] * 3))
def test_a_crop_starts_where_it_is_cut(grid: Grid, start: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    crop = grid.cropped(start, shape)
    assert crop.shape == shape
    np.testing.assert_allclose(ras_of(crop, all_voxels(crop)), ras_of(grid, all_voxels(crop) + start), atol=1e-8)
    np.testing.assert_allclose(crop.ijk_from(grid)[:3, 3], -np.array(start), atol=1e-6)


@given(grids())
def test_same_as_measures_corners(grid: Grid) -> None:
    finest = min(grid.spacing_mm)
    for part, same in ((0.9e-3, True), (1.1e-3, False)):
        moved = grid.affine_ras.copy()
        moved[0, 3] += part * finest
        assert grid.same_as(Grid(grid.shape, moved)) is same
    # A spacing that is off by little moves the last voxel by much.
    stretched = grid.affine_ras.copy()
    stretched[:3, 0] *= 1 + 2e-3
    ends_apart_mm = (grid.shape[0] - 1) * grid.spacing_mm[0] * 2e-3
    assert grid.same_as(Grid(grid.shape, stretched)) is (ends_apart_mm <= 1e-3 * finest)
    assert not grid.same_as(Grid((grid.shape[0] + 1, *grid.shape[1:]), grid.affine_ras))


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
@pytest.mark.parametrize(
    ("spacing_mm", "plane"),
    [
        ((3.0, 1.0, 1.0), Plane.SAGITTAL),
        ((1.0, 3.0, 1.0), Plane.CORONAL),
        ((1.0, 1.0, 3.0), Plane.AXIAL),
        ((1.0, 1.0, 1.0), Plane.AXIAL),
        ((1.0, 1.005, 1.0), Plane.AXIAL),
        ((2.0, 2.0, 1.0), None),
    ],
)
def test_planes_do_not_depend_on_storage(
    axcodes: str, spacing_mm: tuple[float, float, float], plane: Plane | None
) -> None:
    grid = make_grid((4, 5, 6), spacing_mm, tilt=((1.0, 1.0, 0.0), 20.0)).reoriented(axcodes)
    letters = {Plane.SAGITTAL: "RL", Plane.CORONAL: "AP", Plane.AXIAL: "SI"}
    for each, pair in letters.items():
        assert grid.axcodes[grid.axis_of(each)] in pair
        assert grid.plane_of(grid.axis_of(each)) is each
    if plane is None:
        assert grid.acquisition_plane() in (Plane.SAGITTAL, Plane.CORONAL)
    else:
        assert grid.acquisition_plane() is plane


def test_oblique_means_a_tenth_of_a_degree() -> None:
    assert not make_grid(tilt=((0.0, 0.0, 1.0), 0.09)).is_oblique
    assert make_grid(tilt=((0.0, 0.0, 1.0), 0.11)).is_oblique
    assert not make_grid().reoriented("PIR").is_oblique


@given(grids())
def test_volume_and_corners(grid: Grid) -> None:
    assert math.isclose(grid.voxel_volume_ml, math.prod(grid.spacing_mm) / 1000, rel_tol=1e-9)
    expected = set(itertools.product(*((0.0, n - 1.0) for n in grid.shape)))
    assert {tuple(corner) for corner in grid.corners_ijk().tolist()} == expected


@given(grids())
def test_contains_reaches_half_a_voxel_beyond_the_centres(grid: Grid) -> None:
    last = np.array(grid.shape) - 1
    assert grid.contains_ijk([[-0.5] * 3, last + 0.5, last / 2]).all()
    for axis in range(3):
        step = np.eye(3)[axis] * 0.51
        assert not grid.contains_ijk([-step, last + step]).any()


# ---- the voxel a position lies in


def test_halfway_goes_right_anterior_superior() -> None:
    assert CUBIC.nearest_voxels([2.5, 3.5, 0.5]).tolist() == [3, 4, 1]
    assert CUBIC.reoriented("LPI").nearest_voxels([2.5, 3.5, 0.5]).tolist() == [2, 3, 0]
    assert CUBIC.nearest_voxels([2.499, 2.4999, 2.4]).tolist() == [3, 3, 2]


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
@pytest.mark.parametrize("base", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_every_position_lies_in_one_tissue_in_all_orientations(axcodes: str, base: Grid) -> None:
    half_steps = np.array(list(itertools.product(*(np.arange(-2, 2 * n + 2) / 2 for n in base.shape))))
    expected = ras_of(base, base.nearest_voxels(half_steps))
    turned = base.reoriented(axcodes)
    found = turned.nearest_voxels(turned.to_ijk(ras_of(base, half_steps)))
    np.testing.assert_allclose(ras_of(turned, found), expected, atol=1e-8)
    assert np.abs(base.nearest_voxels(half_steps) - half_steps).max() <= 0.5


def test_the_border_belongs_to_the_border_voxel() -> None:
    assert CUBIC.nearest_voxels([-0.5, 6.5, 5.5]).tolist() == [0, 6, 5]
    assert CUBIC.reoriented("LPI").nearest_voxels([-0.5, 6.5, 5.5]).tolist() == [0, 6, 5]
    assert CUBIC.nearest_voxels([-0.6, 6.6, 3.0]).tolist() == [-1, 7, 3]
    huge = CUBIC.nearest_voxels([1e300, -1e300, 0])
    assert huge[0] > 1e9
    assert huge[1] < -1e9


# ---- hash, JSON, errors


@given(grids())
def test_json_is_exact(grid: Grid) -> None:
    again = Grid.from_json(json.loads(json.dumps(grid.to_json())))
    assert again.affine_ras.tobytes() == grid.affine_ras.tobytes()
    assert again == grid
    assert hash(again) == hash(grid)
    assert again.fingerprint == grid.fingerprint


@given(grids())
def test_copies_are_equal(grid: Grid) -> None:
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert copy.deepcopy(grid) == grid
    assert grid != grid.cropped((1, 0, 0), grid.shape)
    assert grid != "grid"


def test_fingerprint_is_the_same_on_every_machine_and_blind_to_rounding() -> None:
    assert make_grid((3, 4, 5)).fingerprint == "6b0de80c0ee6eb55"
    noisy = STRAIGHT.affine_ras * (1 + 1e-12)
    assert Grid(STRAIGHT.shape, noisy).fingerprint == STRAIGHT.fingerprint
    negative_zero = np.where(STRAIGHT.affine_ras == 0, -0.0, STRAIGHT.affine_ras)
    assert Grid(STRAIGHT.shape, negative_zero).fingerprint == STRAIGHT.fingerprint
    assert STRAIGHT.cropped((0, 0, 0), (9, 7, 5)).fingerprint != STRAIGHT.fingerprint


def test_fingerprint_tells_spacings_apart_that_end_voxels_apart() -> None:
    a, b = (make_grid((1000, 1000, 1), (spacing, 0.7, 1.0)) for spacing in (0.7031, 0.7034))
    assert not a.same_as(b)
    assert a.fingerprint != b.fingerprint


def test_the_affine_cannot_be_changed() -> None:
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 3] = 7
    assert grid.affine_ras[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine_ras[0, 0] = 2


def affine_with(value: float, row: int = 0, column: int = 0) -> np.ndarray:
    affine = np.eye(4)
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 2), "a grid has three positive whole sizes, got (2, 2)"),
        ((2, 2, 2, 2), "three positive whole sizes"),
        ((2, 0, 2), "three positive whole sizes, got (2, 0, 2)"),
        ((2, -1, 2), "three positive whole sizes"),
        ((2, 2.7, 2), "three positive whole sizes, got (2, 2.7, 2)"),
        ((2, float("nan"), 2), "three positive whole sizes"),
        ((2, True, 2), "three positive whole sizes"),
        ((2, 2, 2, True), "three positive whole sizes"),
        ("222", "three positive whole sizes, got '222'"),
        (None, "three positive whole sizes, got None"),
        ((2**40, 2**40, 2**40), "a grid has at most 4611686018427387904 voxels"),
    ],
)
def test_bad_shapes(shape: object, message: str) -> None:
    with pytest.raises(GeometryError) as error:
        Grid(shape, np.eye(4))  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "an affine is a 4x4 matrix, got shape (3, 3)"),
        ([[1, 2], [3]], "an affine is a 4x4 matrix of numbers"),
        ("eye", "an affine is a 4x4 matrix of numbers, got 'eye'"),
        (affine_with(np.nan), "the affine has values that are not finite"),
        (affine_with(np.inf, 1, 3), "the affine has values that are not finite"),
        (affine_with(1, 3, 0), "the last row of an affine is 0 0 0 1, got [1. 0. 0. 1.]"),
        (affine_with(0.0), "the voxel spacing has a zero: [0.0, 1.0, 1.0] mm along i, j, k"),
        (affine_with(1e-9, 2, 2), "the voxel spacing has a zero"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "the affine is singular"),
        (affine_with(1e300), "mm from the origin; its unit is millimetres"),
        (affine_with(2e9, 0, 3), "the affine puts voxels 2e+09 mm from the origin"),
    ],
)
def test_bad_affines(affine: object, message: str) -> None:
    with pytest.raises(GeometryError) as error:
        Grid((2, 2, 2), affine)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "grid",
        {"shape": [1, 2, 3]},
        {"shape": "123", "affine_ras": np.eye(4).tolist()},
        {"shape": [1, 2, 3], "affine_ras": None},
        {"shape": [1, 2, 3], "affine_ras": [["1"] * 4] * 4},
        {"shape": [1, 2, 3], "affine_ras": [[True, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
        {"shape": [1, 2, 3], "affine_ras": [[10**400, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
        {"shape": [1, 2, 3], "affine_ras": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1]]},
    ],
)
def test_what_is_no_grid_is_refused(data: object) -> None:
    with pytest.raises(GeometryError):
        Grid.from_json(data)


@pytest.mark.parametrize("spacing_mm", [(1, 1), (1, 0, 1), (1, -1, 1), (1, np.nan, 1), "abc", None])
def test_bad_spacings(spacing_mm: object) -> None:
    with pytest.raises(GeometryError, match="a spacing is three positive numbers in mm, got"):
        CUBIC.with_spacing(spacing_mm)  # type: ignore[arg-type]


@pytest.mark.parametrize("axcodes", ["", "RA", "RAR", "RLS", "XYZ", "RASP"])
def test_bad_axcodes(axcodes: str) -> None:
    with pytest.raises(GeometryError, match="an orientation is three of R/L, A/P, S/I in any order"):
        CUBIC.reoriented(axcodes)


def test_positions_have_three_coordinates() -> None:
    with pytest.raises(GeometryError, match="positions have three coordinates in their last axis, got shape"):
        CUBIC.to_ras_mm([1, 2])


def test_a_grid_is_read_from_a_metatensor() -> None:
    monai_data = pytest.importorskip("monai.data")
    torch = pytest.importorskip("torch")
    image = monai_data.MetaTensor(torch.zeros(1, *OBLIQUE.shape), affine=torch.tensor(OBLIQUE.affine_ras))
    assert Grid.of(image).same_as(OBLIQUE)
    with pytest.raises(GeometryError, match="expected a MetaTensor with an affine, got ndarray"):
        Grid.of(np.zeros((1, 2, 2, 2)))
    with pytest.raises(GeometryError, match=r"expected an image \[C, I, J, K\], got shape"):
        Grid.of(image[0])
