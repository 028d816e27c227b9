"""Answers reach for the sides of the box that was drawn around the object."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Frame, Grid
from volseg.inferers.refine.lattice import Lattice
from volseg.inferers.refine.tight import LOWEST, MOST, PART, lowered_for_box, reach_for_box
from volseg.prompts import Box, Point

GRID = Grid((60, 50, 40), np.diag([1.0, 1.0, 2.0, 1.0]))


def ellipsoid(middle: tuple[float, ...], radii: tuple[float, ...], grid: Grid = GRID) -> ObjectMask:
    axes = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    inside = (
        np.add.reduce([((a - m) / r) ** 2 + np.zeros(grid.shape) for a, m, r in zip(axes, middle, radii, strict=True)])
        <= 1
    )
    return ObjectMask.of(7, grid, inside, 0.9)


def ends(mask: ObjectMask) -> list[tuple[int, int]]:
    return [(s, s + n - 1) for s, n in zip(mask.start_ijk, mask.shape, strict=True)]


def test_an_answer_short_of_the_box_moves_half_of_the_way() -> None:
    answer = ellipsoid((30, 25, 20), (20, 20, 10))  # 10..50, 5..45, 10..30
    box = Box((8, 1, 10), (52, 49, 30), Frame.IJK)  # lacks 2, 4 and nothing; 5 % of 49 voxels are 2.45
    found = reach_for_box(answer, [box])
    assert ends(found) == [(9, 51), (3, 47), (10, 30)]
    assert (found.object_id, found.presence, found.grid) == (7, 0.9, GRID)
    wanted = ellipsoid((30, 25, 20), (21, 22, 10))
    overlap = 2 * (found.full() & wanted.full()).sum() / (found.voxels + wanted.voxels)
    assert overlap > 0.98


def test_what_is_far_short_moves_a_little() -> None:
    answer = ellipsoid((30, 25, 20), (10, 8, 4))
    found = reach_for_box(answer, [Box((0, 0, 0), (59, 49, 39), Frame.IJK)])
    for (first, last), (old_first, old_last), size in zip(ends(found), ends(answer), GRID.shape, strict=True):
        assert 1 <= old_first - first <= MOST * size
        assert 1 <= last - old_last <= MOST * size


def test_a_flat_box_says_nothing_across_its_slice() -> None:
    answer = ellipsoid((30, 25, 20), (16, 14, 10))
    found = reach_for_box(answer, [Box((10, 25, 20), (50, 39, 20), Frame.IJK)])
    assert ends(found) == [(12, 48), (11, 39), (10, 30)]
    assert np.array_equal(found.block.any(axis=(0, 1)), answer.block.any(axis=(0, 1)))
    elsewhere = reach_for_box(answer, [Box((10, 5, 35), (50, 45, 35), Frame.IJK)])
    assert elsewhere is answer  # nothing lies on the box's slice


def test_what_is_no_single_box_changes_nothing() -> None:
    answer = ellipsoid((30, 25, 20), (16, 14, 10))
    box, other = Box((8, 1, 10), (52, 49, 30), Frame.IJK), Box((5, 5, 20), (50, 45, 20), Frame.IJK)
    taken = Box((8, 1, 10), (52, 49, 30), Frame.IJK, positive=False)
    for prompts in (
        [],
        [Point((30, 25, 20), Frame.IJK)],
        [box, other],
        [taken],
        [box, Point((9, 25, 20), Frame.IJK, False)],
    ):
        assert reach_for_box(answer, prompts) is answer
    nothing = ObjectMask.of(1, GRID, np.zeros(GRID.shape, bool))
    assert reach_for_box(nothing, [box]) is nothing


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0,), (1,), (2,), (0, 1, 2)]))
@settings(max_examples=60, deadline=None)
def test_any_answer_stays_in_the_image_and_mirrors(seed: int, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = (int(n) for n in rng.integers(1, 24, 3))
    shape = (a, b, c)
    grid = Grid(shape, np.eye(4))
    inside = rng.random(shape) < rng.choice([0.02, 0.5])
    inside[tuple(rng.integers(0, n) for n in shape)] = True
    corners = np.sort([[rng.uniform(-0.4, n - 0.6) for n in shape] for _ in range(2)], axis=0)
    box = Box(tuple(corners[0]), tuple(corners[1]), Frame.IJK)
    answer = ObjectMask.of(1, grid, inside)
    found = reach_for_box(answer, [box])
    for (first, last), (old_first, old_last), low, high in zip(
        ends(found), ends(answer), box.low, box.high, strict=True
    ):
        assert first >= min(old_first, np.ceil(low) + (1 - PART) * (old_first - np.ceil(low)) - 0.51)
        assert last <= max(old_last, np.floor(high) - (1 - PART) * (np.floor(high) - old_last) + 0.51)
    low, high = corners.copy()
    for axis in axes:
        low[axis], high[axis] = shape[axis] - 1 - corners[1][axis], shape[axis] - 1 - corners[0][axis]
    mirrored = reach_for_box(ObjectMask.of(1, grid, np.flip(inside, axes)), [Box(tuple(low), tuple(high), Frame.IJK)])
    assert np.array_equal(mirrored.full(), np.flip(found.full(), axes))


LATTICE = Lattice(GRID, (-0.5, -0.5, -0.5), (59.5, 49.5, 39.5), (30, 25, 20))
"""A sample for every two voxels."""
TUMOUR = Box((10, 10, 6), (49, 39, 33), Frame.IJK)


def half_dark(dark: float) -> torch.Tensor:
    """Logits of something that fills the box, surely at low i and doubtfully at high i; far away it is as doubtful."""
    logits = torch.full(LATTICE.shape, -5.0)
    logits[5:25, 5:20, 3:17] = dark
    logits[5:12, 5:20, 3:17] = 2.0
    logits[27:, :, :] = dark + 0.2
    return logits


@pytest.mark.parametrize("codes", ["RAS", "LIP", "SRA"])
def test_the_doubtful_half_of_what_a_box_holds_is_taken(codes: str) -> None:
    turned = GRID.reoriented(codes)
    lattice = Lattice(
        turned, (-0.5, -0.5, -0.5), tuple(n - 0.5 for n in turned.shape), tuple(n // 2 for n in turned.shape)
    )
    corners = turned.to_ijk(GRID.to_ras_mm(np.array([TUMOUR.low, TUMOUR.high])))
    box = Box(tuple(corners.min(axis=0)), tuple(corners.max(axis=0)), Frame.IJK)
    found = lowered_for_box(half_dark(-0.7), lattice, [box])
    assert bool((found[5:25, 5:20, 3:17] > 0).all())
    assert torch.allclose(found - half_dark(-0.7), torch.tensor(0.71))


def test_where_a_side_is_out_of_reach_nothing_grows() -> None:
    for believed in (-LOWEST - 0.1, -3.0):
        logits = half_dark(believed)
        assert torch.equal(lowered_for_box(logits, LATTICE, [TUMOUR]), logits)


def test_an_answer_near_all_sides_is_left_alone() -> None:
    logits = torch.full(LATTICE.shape, -0.5)
    logits[6:24, 6:19, 4:16] = 1.0  # one sample short on each side, of 20, 15 and 14
    assert torch.equal(lowered_for_box(logits, LATTICE, [TUMOUR]), logits)
    logits[6] = -0.5
    assert torch.equal(lowered_for_box(logits, LATTICE, [TUMOUR]), logits)
    logits[7] = -0.5  # the middle of the fourth sample is 3.5 of 20 away
    assert float((lowered_for_box(logits, LATTICE, [TUMOUR]) - logits).min()) == pytest.approx(0.51)


def test_a_flat_box_asks_for_its_slice_only() -> None:
    logits = half_dark(-0.7)
    logits[:, :, 10:] = -5.0
    flat = Box((10, 10, 12), (49, 39, 12), Frame.IJK)
    assert torch.allclose(lowered_for_box(logits, LATTICE, [flat]) - logits, torch.tensor(0.71))
    logits[:, :, 6] = 3.0  # the sample of that slice
    assert torch.equal(lowered_for_box(logits, LATTICE, [flat]), logits)


def test_what_is_no_single_box_lowers_nothing() -> None:
    logits = half_dark(-0.7)
    taken = Box(TUMOUR.low, TUMOUR.high, Frame.IJK, positive=False)
    for prompts in ([], [Point((30, 25, 20), Frame.IJK)], [TUMOUR, TUMOUR], [taken]):
        assert lowered_for_box(logits, LATTICE, prompts) is logits
