"""Each kind of prompt against brute force on random shapes, and what it refuses."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from grid_strategies import CUBIC, OBLIQUE, STRAIGHT, all_voxels, grids, index_set, make_grid, ras_of
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, PromptedObject, PromptKind, PromptSet, Scribble, Text

INDEX = st.tuples(*[st.floats(-4, 12)] * 3)
FLAT = st.tuples(*[st.floats(-3, 10)] * 2)


def as_set(voxels: np.ndarray) -> set[tuple[int, int, int]]:
    found = {(int(i), int(j), int(k)) for i, j, k in voxels}
    assert len(found) == len(voxels), "a voxel is listed twice"
    return found


def inside_of(voxel: np.ndarray, start: np.ndarray, end: np.ndarray, half: float) -> float:
    """Length in voxels of the part of a segment in the cube of half-width ``half`` around a voxel's centre."""
    low, high = 0.0, 1.0
    for axis in range(3):
        step = end[axis] - start[axis]
        offset = start[axis] - voxel[axis]
        if abs(step) < 1e-15:
            if abs(offset) > half:
                return -1.0
            continue
        a, b = sorted(((-half - offset) / step, (half - offset) / step))
        low, high = max(low, a), min(high, b)
    return float((high - low) * np.linalg.norm(end - start)) if low <= high else -1.0


@given(grids(), INDEX)
def test_a_point_covers_the_voxel_it_lies_in(grid: Grid, position: tuple[float, float, float]) -> None:
    found = Point(position, Frame.IJK).voxels_ijk(grid)
    apart = np.abs(all_voxels(grid) - position).max(axis=1)
    near = as_set(all_voxels(grid)[apart <= 0.501])
    sure = as_set(all_voxels(grid)[apart < 0.499])
    assert sure <= as_set(found) <= near
    assert bool(len(found)) == bool(near)


@given(grids(), INDEX, INDEX)
def test_a_box_covers_the_centres_in_it(
    grid: Grid, a: tuple[float, float, float], b: tuple[float, float, float]
) -> None:
    # Thinner boxes cover the voxel they lie in; another test has those.
    box = Box(a, np.where(np.abs(np.subtract(a, b)) < 1.01, np.add(a, 1.01), b), Frame.IJK)
    centres = all_voxels(grid)
    wide = as_set(centres[((centres >= np.array(box.low) - 2e-3) & (centres <= np.array(box.high) + 2e-3)).all(axis=1)])
    tight = as_set(centres[((centres >= box.low) & (centres <= box.high)).all(axis=1)])
    assert tight <= as_set(box.voxels_ijk(grid)) <= wide


def test_box_corners_are_inclusive_voxel_centres() -> None:
    box = Box((1, 2, 3), (3, 4, 4), Frame.IJK)
    assert box.bounds_ijk(CUBIC) == ((1, 2, 3), (4, 5, 5))
    assert len(box.voxels_ijk(CUBIC)) == 3 * 3 * 2
    assert Box((3, 4, 4), (1, 2, 3), Frame.IJK) == box


def test_a_thin_box_covers_the_voxel_it_lies_in() -> None:
    assert Box((1.6, 2.2, 0.2), (1.8, 2.4, 0.4), Frame.IJK).bounds_ijk(CUBIC) == ((2, 2, 0), (3, 3, 1))


@given(grids(), st.lists(INDEX, min_size=2, max_size=4))
def test_a_thin_line_covers_the_voxels_it_runs_through(grid: Grid, points: list[tuple[float, float, float]]) -> None:
    corners = np.array(points)
    found = as_set(Scribble(points, Frame.IJK).voxels_ijk(grid))
    for voxel in all_voxels(grid):
        parts = list(zip(corners, corners[1:], strict=False))
        if max(inside_of(voxel, start, end, 0.497) for start, end in parts) > 0.01:
            assert tuple(voxel.tolist()) in found
        if max(inside_of(voxel, start, end, 0.503) for start, end in parts) < 0:
            assert tuple(voxel.tolist()) not in found


@given(grids(), st.lists(INDEX, min_size=2, max_size=4), st.floats(0.1, 12))
def test_a_thick_line_covers_what_is_near(
    grid: Grid, points: list[tuple[float, float, float]], radius_mm: float
) -> None:
    corners = ras_of(grid, np.array(points))
    found = as_set(Scribble(points, Frame.IJK, radius_mm=radius_mm).voxels_ijk(grid))
    line = as_set(Scribble(points, Frame.IJK).voxels_ijk(grid))
    finest = min(grid.spacing_mm)
    for voxel, position in zip(all_voxels(grid), ras_of(grid, all_voxels(grid)), strict=True):
        distance = np.inf
        for start, end in zip(corners, corners[1:], strict=False):
            along = end - start
            length = float(along @ along)
            at = np.clip((position - start) @ along / length, 0, 1) if length > 0 else 0.0
            distance = min(distance, float(np.linalg.norm(position - start - at * along)))
        key = tuple(voxel.tolist())
        if distance <= radius_mm:
            assert key in found
        elif distance > radius_mm + 2e-3 * finest:
            assert (key in found) is (key in line)


@given(st.lists(FLAT, min_size=3, max_size=8), st.integers(0, 2), st.integers(0, 4))
def test_a_lasso_is_filled_by_the_even_odd_rule(points: list[tuple[float, float]], axis: int, index: int) -> None:
    corners = np.insert(np.array(points), axis, float(index), axis=1)
    spread = np.ptp(np.array(points), axis=0)
    if spread.min() < 0.01:
        return
    found = as_set(Lasso(corners, Frame.IJK).voxels_ijk(CUBIC))
    in_plane = [a for a in range(3) if a != axis]
    for voxel in all_voxels(CUBIC):
        if voxel[axis] != index:
            assert tuple(voxel.tolist()) not in found
            continue
        x, y = voxel[in_plane]
        crossings, outline = 0, np.inf
        for (xa, ya), (xb, yb) in zip(points, [*points[1:], points[0]], strict=True):
            if (ya > y) != (yb > y) and x < xa + (y - ya) / (yb - ya) * (xb - xa):
                crossings += 1
            along = np.array([xb - xa, yb - ya])
            length = float(along @ along)
            at = np.clip(((x - xa) * along[0] + (y - ya) * along[1]) / length, 0, 1) if length > 0 else 0.0
            outline = min(outline, float(np.hypot(x - xa - at * along[0], y - ya - at * along[1])))
        if outline > 2e-3:
            assert (tuple(voxel.tolist()) in found) is (crossings % 2 == 1)
        elif outline < 1e-9:
            assert tuple(voxel.tolist()) in found


def test_a_lasso_includes_its_outline() -> None:
    square = Lasso([(1, 1, 2), (4, 1, 2), (4, 3, 2), (1, 3, 2)], Frame.IJK)
    assert len(square.voxels_ijk(CUBIC)) == 4 * 3
    diamond = Lasso([(3, 1, 2), (5, 3, 2), (3, 5, 2), (1, 3, 2)], Frame.IJK)
    assert len(diamond.voxels_ijk(CUBIC)) == 13


@given(grids(), st.data())
def test_a_mask_stays_where_it_is(grid: Grid, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([tuple(v) for v in all_voxels(grid).tolist()]), min_size=1, max_size=6))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(np.array(sorted(chosen)).T)] = True
    prompt = MaskPrompt(mask, grid)
    assert as_set(prompt.voxels_ijk(grid)) == chosen == index_set(prompt.on(grid))
    assert prompt.mask.any(axis=(1, 2))[[0, -1]].all()
    again = MaskPrompt.from_json(prompt.to_json())
    assert again == prompt
    assert hash(again) == hash(prompt)
    assert again.digest == prompt.digest
    crop = grid.cropped((1, 0, 0), grid.shape)
    assert as_set(prompt.voxels_ijk(crop)) == {(i - 1, j, k) for i, j, k in chosen if i > 0}


def test_masks_that_differ_are_not_equal() -> None:
    mask = np.zeros(CUBIC.shape, dtype=bool)
    mask[1, 2, 3] = True
    one = MaskPrompt(mask, CUBIC)
    assert one == MaskPrompt(mask[:4], CUBIC.cropped((0, 0, 0), (4, 7, 6)))
    assert one != MaskPrompt(mask, CUBIC, positive=False)
    assert one != MaskPrompt(mask, CUBIC.cropped((1, 0, 0), CUBIC.shape))
    assert one != MaskPrompt(np.roll(mask, 1, axis=0), CUBIC)
    mask[:] = True
    assert one.mask.sum() == 1
    with pytest.raises(ValueError, match="read-only"):
        one.mask[:] = False


def test_a_mask_needs_the_lattice() -> None:
    mask = MaskPrompt(np.ones(CUBIC.shape, dtype=bool), CUBIC)
    with pytest.raises(PromptError, match="does not lie on the image's voxels; move it there first"):
        mask.voxels_ijk(STRAIGHT)


# ---- what a prompt refuses

BAD: list[tuple[Any, str]] = [
    (lambda: Point((1, 2), "ijk"), "a point takes positions of three numbers"),
    (lambda: Point((), "ijk"), "a point with no position is empty"),
    (lambda: Point(None, "ijk"), "a point takes positions of three numbers"),
    (lambda: Point(("1", "2", "3"), "ijk"), "a point takes positions of three numbers, got [('1', '2', '3')]"),
    (lambda: Point((True, 2, 3), "ijk"), "a point takes positions of three numbers"),
    (lambda: Point((1, 2, float("nan")), "ijk"), "a point takes finite coordinates"),
    (lambda: Point((1, 2, 1e300), "ijk"), "a point takes coordinates up to 1e+09"),
    (lambda: Point((1, 2, 10**400), "ijk"), "a point takes positions of three numbers"),
    (lambda: Point((1, 2, 3), "scanner"), "the frame is one of ijk, ras, lps, got 'scanner'"),
    (lambda: Point((1, 2, 3), None), "the frame is one of ijk, ras, lps, got None"),
    (lambda: Point((1, 2, 3), []), "the frame is one of ijk, ras, lps, got []"),
    (lambda: Point((1, 2, 3), "ijk", "false"), "positive of a point is true or false, got 'false'"),
    (lambda: Box((1, 2, 3), (1, 2, 9), "ijk"), "a box is equal in at most one coordinate"),
    (lambda: Box((1, 2, 3), (1, 2), "ijk"), "a box takes positions of three numbers"),
    (lambda: Box((1, 2, 3), (4, 5, 6), "ijk", 0), "positive of a box is true or false, got 0"),
    (lambda: Scribble([(1, 2, 3)], "ijk"), "a scribble needs at least 2 positions, got 1"),
    (lambda: Scribble([], "ijk"), "a scribble with no position is empty; give at least 2"),
    (lambda: Scribble([(1, 2, 3)] * 2, "ijk", radius_mm=-1), "the radius of a scribble is 0 mm or more, got -1"),
    (lambda: Scribble([(1, 2, 3)] * 2, "ijk", radius_mm=float("nan")), "the radius of a scribble is 0 mm or more"),
    (lambda: Scribble([(1, 2, 3)] * 2, "ijk", radius_mm=None), "the radius of a scribble is a number of mm, got None"),
    (lambda: Scribble([(1, 2, 3)] * 2, "ijk", radius_mm=True), "the radius of a scribble is a number of mm"),
    (lambda: Lasso([(1, 2, 3)] * 2, "ijk"), "a lasso needs at least 3 positions, got 2"),
    (lambda: MaskPrompt(np.zeros(CUBIC.shape), CUBIC), "the mask is empty: no voxel is set"),
    (lambda: MaskPrompt(np.ones((2, 2, 2)), CUBIC), "a mask has its grid's shape (8, 7, 6), got (2, 2, 2)"),
    (lambda: MaskPrompt(np.full(CUBIC.shape, np.nan), CUBIC), "a mask is an array of truth values or finite numbers"),
    (lambda: Text("  "), "a text prompt has words, got '  '"),
    (lambda: Text(3), "a text prompt has words, got 3"),
    (lambda: Text("liver", 1), "positive of a text is true or false, got 1"),
    (lambda: PromptedObject(0, ()), "an object's id lies in 1..2147483647, got 0"),
    (lambda: PromptedObject(2**40, ()), "an object's id lies in 1..2147483647"),
    (lambda: PromptedObject(True, ()), "an object's id is a whole number, got True"),
    (lambda: PromptedObject(1, (), 3), "an object's name is a text, got 3"),
    (
        lambda: PromptSet(CUBIC, (PromptedObject(1, ()), PromptedObject(1, ()))),
        "each object has its own id, got [1, 1]",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(PromptError) as error:
        make()
    assert message in str(error.value)


OUTSIDE: list[Prompt] = [
    Point((-0.6, 3, 3), Frame.IJK),
    Box((-9, 1, 1), (-1, 3, 3), Frame.IJK),
    Box((1, 1, 6), (3, 3, 6), Frame.IJK),
    Scribble([(-9, 3, 3), (-2, 3, 3)], Frame.IJK, radius_mm=1.0),
    Lasso([(20, 1, 2), (24, 1, 2), (22, 4, 2)], Frame.IJK),
    Lasso([(1, 1, 9), (4, 1, 9), (4, 4, 9)], Frame.IJK),
    MaskPrompt(np.ones((2, 2, 2), dtype=bool), CUBIC.cropped((50, 0, 0), (2, 2, 2))),
]


@pytest.mark.parametrize("prompt", OUTSIDE, ids=lambda prompt: str(prompt.kind))
def test_outside_prompts_are_named(prompt: Prompt) -> None:
    inside = Point((1, 1, 1), Frame.IJK)
    prompts = PromptSet(CUBIC, (PromptedObject(7, (inside,)), PromptedObject(3, (inside, prompt), "liver")))
    with pytest.raises(PromptError) as error:
        prompts.on_grid(CUBIC)
    assert f"prompt 2 ({prompt.kind}) of liver: lies outside the volume of 8x7x6 voxels" in str(error.value)
    # Moving alone asks no questions: a model's grid may be a part of the image.
    assert prompts.moved(CUBIC).objects[1].prompts[1].kind is prompt.kind


def test_other_refusals_name_the_prompt() -> None:
    for prompt, message in [
        (Lasso([(1, 1, 0), (5, 1, 3), (3, 5, 5)], Frame.IJK), "does not lie on one slice of the image"),
        (Lasso([(1.2, 1.2, 0), (1.4, 1.2, 0), (1.3, 1.4, 0)], Frame.IJK), "encloses no voxel's centre; draw it larger"),
    ]:
        with pytest.raises(PromptError) as error:
            PromptSet.of(CUBIC, [prompt], "liver").on_grid(CUBIC)
        assert f"prompt 1 ({prompt.kind}) of liver: {message}" in str(error.value)
    with pytest.raises(PromptError, match="object 4 has no prompt; give it at least one"):
        PromptSet(CUBIC, (PromptedObject(4, ()),)).on_grid(CUBIC)


@pytest.mark.parametrize(
    "prompt",
    [
        Point((1, 2, 3), Frame.RAS),
        Box((1, 2, 3), (4, 5, 6), Frame.LPS),
        Scribble([(1, 2, 3), (4, 5, 6)], Frame.RAS),
        Lasso([(1, 2, 3), (4, 5, 3), (1, 5, 3)], Frame.RAS),
    ],
)
def test_millimetres_are_not_taken_for_voxels(prompt: Prompt) -> None:
    with pytest.raises(PromptError, match="mm; move it to a grid first"):
        prompt.voxels_ijk(CUBIC)


def test_kinds_and_words() -> None:
    assert Box((1, 2, 3), (4, 2, 6), Frame.IJK).kind is PromptKind.BOX_2D
    assert Box((1, 2, 3), (4, 5, 6), Frame.IJK).kind is PromptKind.BOX_3D
    words = Text("left kidney")
    words.check_inside(CUBIC)
    assert words.moved(CUBIC, OBLIQUE) is words
    assert PromptSet.of(CUBIC, [words]).kinds == {PromptKind.TEXT}


# ---- what reaches far costs little


@settings(max_examples=20)
@given(st.lists(st.tuples(*[st.sampled_from([-1e9, -3.0, 2.0, 1e9])] * 3), min_size=3, max_size=5))
def test_far_coordinates_cost_no_memory(points: list[tuple[float, float, float]]) -> None:
    grid = make_grid((40, 30, 20))
    prompts: list[Prompt] = [
        Point(points[0], Frame.IJK),
        Scribble(points, Frame.IJK),
        Scribble(points, Frame.IJK, radius_mm=2.0),
        Scribble(points, Frame.IJK, radius_mm=1e9),
        Lasso([(x, y, 3.0) for x, y, _ in points], Frame.IJK),
    ]
    tracemalloc.start()
    start = time.perf_counter()
    for prompt in prompts:
        try:
            assert len(prompt.voxels_ijk(grid)) <= 24000
        except PromptError:
            assert isinstance(prompt, Lasso)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert time.perf_counter() - start < 5


def test_a_scribble_longer_than_any_image_is_not_sampled() -> None:
    with pytest.raises(PromptError, match=r"a scribble of 1e\+09 voxels is longer than any image"):
        Scribble([(0, 0, 0), (1e9, 0, 0)], Frame.IJK).sampled_ijk(0.25)


def test_samples_are_close_and_end_at_the_ends() -> None:
    samples = Scribble([(0, 0, 0), (3, 0, 0), (3, 2, 0)], Frame.IJK).sampled_ijk(0.25)
    assert samples[0].tolist() == [0, 0, 0]
    assert samples[-1].tolist() == [3, 2, 0]
    assert np.linalg.norm(np.diff(samples, axis=0), axis=1).max() <= 0.25 + 1e-9


def test_a_mask_of_huge_voxels_does_not_fill_the_memory() -> None:
    coarse = make_grid((2, 2, 2), (1e6, 1e6, 1e6))
    mask = MaskPrompt(np.ones((2, 2, 2), dtype=bool), coarse)
    with pytest.raises(PromptError, match=r"prompt 1 \(mask\) of liver: the mask would span"):
        PromptSet.of(CUBIC, [mask], "liver").on_grid(CUBIC)
    speck = MaskPrompt(np.ones((1, 1, 1), dtype=bool), make_grid((1, 1, 1), (0.01, 0.01, 0.01), (0.3, 0.3, 0.3)))
    with pytest.raises(PromptError, match="no voxel of the mask is left on voxels of"):
        speck.moved(CUBIC, CUBIC)
