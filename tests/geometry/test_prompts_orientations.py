"""The same prompt covers the same tissue, in whatever frame it is given and orientation the volume is stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from grid_strategies import CUBIC, OBLIQUE, ORIENTATIONS, STRAIGHT, all_voxels, ijk_of, index_set, ras_of, tissue

from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, PromptSet, Scribble

GRIDS = {"straight": STRAIGHT, "oblique": OBLIQUE, "cubic": CUBIC}
Tissue = set[tuple[int, int, int]]


def in_frame(points_ijk: np.ndarray, frame: Frame, base: Grid) -> list[list[float]]:
    """Positions in another frame, by hand."""
    points = np.asarray(points_ijk, dtype=np.float64)
    if frame is Frame.IJK:
        return points.tolist()
    ras_mm = ras_of(base, points)
    return (ras_mm * (-1, -1, 1) if frame is Frame.LPS else ras_mm).tolist()


def phantom(shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[1:5, 2:4, 1] = True
    mask[1, 2, 1:5] = True
    mask[6, 5, 4] = True
    return mask


POINT = np.array([[3.2, 4.4, 1.3]])
LINE = np.array([[1.2, 1.1, 0.3], [6.7, 2.4, 3.8], [4.1, 5.3, 4.4]])
RADIUS_MM = 1.758
TIES = np.array([[1.5, 1.5, 0.5], [6.5, 1.5, 0.5], [6.5, 4.5, 3.5]])
RING = np.array([[1.2, 0.6, 2.0], [6.8, 1.3, 2.0], [5.1, 5.2, 2.0], [3.4, 2.6, 2.0], [2.1, 4.9, 2.0]])


def point_in(base: Grid) -> Tissue:
    return {(3, 4, 1)}


def line_in(base: Grid) -> Tissue:
    """Voxels within the radius of the line, from distances to 20000 samples."""
    samples = np.concatenate(
        [a + (b - a) * np.linspace(0, 1, 10001)[:, None] for a, b in zip(LINE, LINE[1:], strict=False)]
    )
    voxels = all_voxels(base)
    samples_mm = ras_of(base, samples)
    distance = np.array([np.linalg.norm(samples_mm - position, axis=1).min() for position in ras_of(base, voxels)])
    assert np.abs(distance - RADIUS_MM).min() > 0.003, "the example decides nothing at the radius"
    covered = {tuple(voxel) for voxel in voxels[distance <= RADIUS_MM].tolist()}
    return covered | {tuple(voxel) for voxel in np.floor(samples + 0.5).astype(int).tolist()}


def ring_in(base: Grid) -> Tissue:
    """Even-odd rule by casting a ray along i."""
    found = set()
    for i in range(base.shape[0]):
        for j in range(base.shape[1]):
            crossings = 0
            for (xa, ya, _), (xb, yb, _) in zip(RING, np.roll(RING, -1, axis=0), strict=True):
                if (ya > j) != (yb > j) and i < xa + (j - ya) / (yb - ya) * (xb - xa):
                    crossings += 1
            if crossings % 2:
                found.add((i, j, 2))
    assert len(found) > 8
    return found


def mask_in(base: Grid) -> Tissue:
    return index_set(phantom(base.shape))


CASES: dict[str, tuple[Callable[[Frame, Grid], Prompt], Callable[[Grid], Tissue]]] = {
    "point": (lambda frame, base: Point(in_frame(POINT, frame, base)[0], frame), point_in),
    "scribble": (lambda frame, base: Scribble(in_frame(LINE, frame, base), frame, radius_mm=RADIUS_MM), line_in),
    "lasso": (lambda frame, base: Lasso(in_frame(RING, frame, base), frame), ring_in),
    "mask": (lambda frame, base: MaskPrompt(phantom(base.shape), base), mask_in),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("case", CASES)
def test_every_kind_covers_the_same_tissue(case: str, name: str) -> None:
    base = GRIDS[name]
    make, answer = CASES[case]
    expected = answer(base)
    for frame in Frame:
        prompt = make(frame, base)
        for axcodes in ORIENTATIONS:
            turned = base.reoriented(axcodes)
            moved = prompt.moved(base, turned)
            assert moved.kind is prompt.kind
            assert tissue(moved.voxels_ijk(turned), turned, base) == expected, (frame, axcodes)
            back = moved.moved(turned, base)
            assert tissue(back.voxels_ijk(base), base, base) == expected, (frame, axcodes)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
@pytest.mark.parametrize("frame", [Frame.RAS, Frame.LPS])
@pytest.mark.parametrize(
    ("low", "high"),
    [([1, 2, 1], [5, 4, 3]), ([0.7, 1.6, 0.8], [5.3, 4.4, 3.3]), ([-9, 2, 1], [4, 99, 2]), ([2, 1, 3], [6, 4, 3])],
    ids=["centres", "between", "beyond", "flat"],
)
def test_boxes_in_mm_hold_the_voxels_whose_centres_lie_in_them(
    axcodes: str, frame: Frame, low: list[float], high: list[float]
) -> None:
    base = STRAIGHT
    box = Box(*in_frame(np.array([low, high]), frame, base), frame)
    inside = ((all_voxels(base) >= low) & (all_voxels(base) <= high)).all(axis=1)
    expected = {tuple(voxel) for voxel in all_voxels(base)[inside].tolist()}
    turned = base.reoriented(axcodes)
    moved = box.moved(base, turned)
    assert tissue(moved.voxels_ijk(turned), turned, base) == expected
    assert moved.kind is box.kind
    if box.flat_axis is not None:
        assert moved.flat_axis == turned.axis_order.index(2)
    in_index = Box(low, high, Frame.IJK).moved(base, turned)
    assert tissue(in_index.voxels_ijk(turned), turned, base) == expected
    assert tissue(moved.moved(turned, base).voxels_ijk(base), base, base) == expected


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_a_box_on_an_oblique_grid_is_the_smallest_around_it(axcodes: str) -> None:
    grid = OBLIQUE.reoriented(axcodes)
    middle = ras_of(OBLIQUE, np.array([[4.0, 3.0, 2.5]]))[0]
    low, high = middle - (1.1, 1.4, 2.0), middle + np.array([1.0, 1.7, 2.4])
    moved = Box(low, high, Frame.RAS).moved(STRAIGHT, grid)
    corners = ijk_of(grid, np.array([[(low, high)[a][0], (low, high)[b][1], (low, high)[c][2]]
                                     for a in (0, 1) for b in (0, 1) for c in (0, 1)]))  # fmt: skip
    np.testing.assert_allclose(moved.low, corners.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(moved.high, corners.max(axis=0), atol=1e-9)
    positions = ras_of(grid, all_voxels(grid))
    inside = all_voxels(grid)[((positions >= low) & (positions <= high)).all(axis=1)]
    assert {tuple(v) for v in inside.tolist()} <= {tuple(v) for v in moved.voxels_ijk(grid).tolist()}
    assert len(inside) > 5


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
@pytest.mark.parametrize("flat", [0, 1, 2])
def test_a_flat_box_stays_on_one_slice_of_an_oblique_grid(axcodes: str, flat: int) -> None:
    grid = OBLIQUE.reoriented(axcodes)
    middle = ras_of(OBLIQUE, np.array([[4.0, 3.0, 2.5]]))[0]
    half = np.where(np.arange(3) == flat, 0.0, 1.5)
    moved = Box(middle - half, middle + half, Frame.RAS).moved(STRAIGHT, grid)
    assert moved.flat_axis == grid.axis_order.index(flat)
    assert len(np.unique(moved.voxels_ijk(grid)[:, moved.flat_axis])) == 1
    np.testing.assert_allclose(moved.low[moved.flat_axis], ijk_of(grid, middle[None])[0][moved.flat_axis], atol=1e-9)


@pytest.mark.parametrize("name", GRIDS)
def test_positions_between_voxels_name_the_same_tissue(name: str) -> None:
    base = GRIDS[name]
    flat = TIES.copy()
    flat[:, 2] = 0.5
    prompts: list[Prompt] = [
        Point((2.5, 3.5, 1.5), Frame.IJK),
        Scribble(TIES, Frame.IJK),
        Scribble(TIES[::-1], Frame.IJK),
        Scribble(TIES, Frame.IJK, radius_mm=1.0),
        Lasso(flat, Frame.IJK),
        Box((1, 1, 0.5), (4, 4, 0.5), Frame.IJK),
        Box((1.2, 1, 0), (1.8, 4, 3), Frame.IJK),
    ]
    for prompt in prompts:
        expected = tissue(prompt.voxels_ijk(base), base, base)
        assert expected
        for axcodes in ORIENTATIONS:
            turned = base.reoriented(axcodes)
            found = prompt.moved(base, turned).voxels_ijk(turned)
            assert tissue(found, turned, base) == expected, (prompt, axcodes)


def test_direction_and_start_of_a_line_do_not_matter() -> None:
    for points in (LINE, TIES):
        for radius in (0.0, 1.3):
            a, b = (
                Scribble(order, Frame.IJK, radius_mm=radius).voxels_ijk(STRAIGHT) for order in (points, points[::-1])
            )
            np.testing.assert_array_equal(a, b)
    for ring in (RING, RING[::-1], np.roll(RING, 2, axis=0)):
        np.testing.assert_array_equal(Lasso(ring, "ijk").voxels_ijk(CUBIC), Lasso(RING, "ijk").voxels_ijk(CUBIC))


@pytest.mark.parametrize("coarse", [(2.0, 2.0, 2.0), (1.6, 2.2, 3.0), (0.4, 0.55, 1.5)])
def test_a_mask_on_other_voxels_is_the_nearest_one_in_every_orientation(coarse: tuple[float, float, float]) -> None:
    base = CUBIC if coarse == (2.0, 2.0, 2.0) else STRAIGHT
    target = base.with_spacing(coarse)
    mask = MaskPrompt(phantom(base.shape), base)
    position = ijk_of(base, ras_of(target, all_voxels(target)))
    # Ties go right, anterior and superior, which is up the index of a RAS grid.
    nearest = np.floor(position + 0.5 + 1e-3).astype(int)
    held = ((nearest >= 0) & (nearest < base.shape)).all(axis=1)
    chosen = all_voxels(target)[held][phantom(base.shape)[tuple(nearest[held].T)]]
    expected = {tuple(voxel) for voxel in chosen.tolist()}
    assert expected
    for axcodes in ORIENTATIONS:
        for source in (mask, mask.moved(base, base.reoriented(axcodes))):
            turned = target.reoriented(axcodes)
            assert tissue(source.moved(base, turned).voxels_ijk(turned), turned, target) == expected, axcodes


@pytest.mark.parametrize("shape", [(1, 7, 6), (9, 1, 6), (9, 7, 1), (1, 1, 6), (1, 1, 1)])
def test_images_of_one_slice(shape: tuple[int, int, int]) -> None:
    base = Grid(shape, OBLIQUE.affine_ras)
    thin = [axis for axis in range(3) if shape[axis] == 1]
    mask = np.zeros(shape, dtype=bool)
    mask[0, 0, :2] = True
    if shape == (1, 7, 6):
        mask[0, 3, 4] = True
    prompts: list[Prompt] = [
        MaskPrompt(mask, base),
        Point((0, 0, 0), Frame.IJK),
        Point(np.where(np.array(shape) == 1, 0.5, 0.2), Frame.IJK),
        Scribble([(0, 0, 0), np.array(shape) - 1], Frame.IJK, radius_mm=1.0),
    ]
    if len(thin) == 1:
        high = np.where(np.array(shape) == 1, 0, 3)
        prompts.append(Box((0, 0, 0), high, Frame.IJK))
        ring = np.insert([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]], thin[0], 0.0, axis=1)
        prompts.append(Lasso(ring, Frame.IJK))
    for prompt in prompts:
        expected = tissue(prompt.voxels_ijk(base), base, base)
        assert expected
        if isinstance(prompt, MaskPrompt):
            assert expected == index_set(mask)
        for axcodes in ORIENTATIONS:
            turned = base.reoriented(axcodes)
            assert tissue(prompt.moved(base, turned).voxels_ijk(turned), turned, base) == expected


def test_a_set_moves_all_of_its_objects() -> None:
    turned = OBLIQUE.reoriented("PIR")
    prompts = PromptSet.of(OBLIQUE, [make(Frame.LPS, OBLIQUE) for make, _ in CASES.values()], "liver")
    moved = prompts.on_grid(turned)
    assert moved.grid is turned
    assert moved.objects[0].name == "liver"
    for (_, answer), prompt in zip(CASES.values(), moved.objects[0].prompts, strict=True):
        assert tissue(prompt.voxels_ijk(turned), turned, OBLIQUE) == answer(OBLIQUE)
