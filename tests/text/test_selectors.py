"""Queries carried out on masks: known answers, and the same tissue in every orientation."""

from __future__ import annotations

import numpy as np
import pytest
from grid_strategies import grids
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.errors import CapabilityError, GeometryError
from volseg.geometry import Grid, all_orientations
from volseg.text.phrases import resolve
from volseg.text.query import Query, Selector, SelectorKind
from volseg.text.selectors import compose, select
from volseg.transforms.midline import Midline

GRID = Grid((12, 10, 8), np.array([[2.0, 0, 0, -11.0], [0, 2, 0, 5], [0, 0, 3, 100], [0, 0, 0, 1]]))
"""Runs to the right, front and top; the middle between i = 5 and i = 6 lies at x = 0 mm."""


def boxes(*places, shape=GRID.shape):
    """A mask of boxes ((i, i), (j, j), (k, k)), ends inclusive."""
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[tuple(slice(low, high + 1) for low, high in place)] = True
    return mask


LEFT_SMALL = ((1, 2), (1, 2), (5, 6))
RIGHT_LARGE = ((8, 10), (5, 7), (0, 2))
RIGHT_MIDDLE = ((8, 9), (0, 1), (3, 6))
ALL = boxes(LEFT_SMALL, RIGHT_LARGE, RIGHT_MIDDLE)


def kept(kind, mask=ALL, **settings):
    return select(mask, GRID, Selector(kind, **settings))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SelectorKind.LARGEST, (RIGHT_LARGE,)),
        (SelectorKind.SMALLEST, (LEFT_SMALL,)),
        (SelectorKind.LEFT, (LEFT_SMALL,)),
        (SelectorKind.RIGHT, (RIGHT_LARGE, RIGHT_MIDDLE)),
        (SelectorKind.UPPERMOST, (LEFT_SMALL,)),
        (SelectorKind.LOWERMOST, (RIGHT_LARGE,)),
        (SelectorKind.FOREMOST, (RIGHT_LARGE,)),
        (SelectorKind.REARMOST, (RIGHT_MIDDLE,)),
        (SelectorKind.LEFTMOST, (LEFT_SMALL,)),
        (SelectorKind.RIGHTMOST, (RIGHT_LARGE,)),
    ],
)
def test_components(kind, expected):
    np.testing.assert_array_equal(kept(kind), boxes(*expected))


def test_two_largest():
    np.testing.assert_array_equal(kept(SelectorKind.LARGEST, count=2), boxes(RIGHT_LARGE, RIGHT_MIDDLE))
    np.testing.assert_array_equal(kept(SelectorKind.LARGEST, count=99), ALL)


def test_halves_of_one_thing_are_halves_of_its_extent():
    mask = boxes(((2, 5), (2, 5), (1, 6)))
    np.testing.assert_array_equal(kept(SelectorKind.UPPER, mask), boxes(((2, 5), (2, 5), (4, 6))))
    np.testing.assert_array_equal(kept(SelectorKind.LOWER, mask), boxes(((2, 5), (2, 5), (1, 3))))
    np.testing.assert_array_equal(kept(SelectorKind.ANTERIOR, mask), boxes(((2, 5), (4, 5), (1, 6))))
    np.testing.assert_array_equal(kept(SelectorKind.POSTERIOR, mask), boxes(((2, 5), (2, 3), (1, 6))))


def test_a_thing_across_the_midline_is_cut_and_one_that_barely_crosses_is_not():
    across = boxes(((3, 8), (2, 4), (2, 4)))
    np.testing.assert_array_equal(kept(SelectorKind.LEFT, across), boxes(((3, 5), (2, 4), (2, 4))))
    np.testing.assert_array_equal(kept(SelectorKind.RIGHT, across), boxes(((6, 8), (2, 4), (2, 4))))
    barely = boxes(((0, 5), (2, 4), (2, 4)), ((6, 6), (2, 2), (2, 2)))
    np.testing.assert_array_equal(kept(SelectorKind.LEFT, barely), barely)
    assert not kept(SelectorKind.RIGHT, barely).any()


def test_the_midline_can_be_given():
    mask = boxes(LEFT_SMALL)
    midline = Midline.at(-12.0)
    assert not select(mask, GRID, Selector(SelectorKind.LEFT), midline=midline).any()
    np.testing.assert_array_equal(select(mask, GRID, Selector(SelectorKind.RIGHT), midline=midline), mask)


def test_within_counts_holes_and_needs_the_larger_part():
    region = boxes(((0, 5), (0, 7), (0, 6)))
    lesion = boxes(((2, 3), (2, 3), (2, 3)))
    selector = Selector(SelectorKind.WITHIN, region=Query("", ("liver",)))
    np.testing.assert_array_equal(select(lesion, GRID, selector, region & ~lesion), lesion)
    outside = boxes(((5, 7), (2, 3), (2, 3)))
    assert not select(outside, GRID, selector, region).any()
    np.testing.assert_array_equal(select(lesion | boxes(((9, 10), (8, 9), (7, 7))), GRID, selector, region), lesion)
    assert not select(lesion, GRID, selector, np.zeros(GRID.shape, dtype=bool)).any()
    with pytest.raises(GeometryError, match="region"):
        select(lesion, GRID, selector)


def test_an_empty_mask_stays_empty_and_a_wrong_shape_is_refused():
    for kind in SelectorKind:
        selector = Selector(kind, region=Query("", ("liver",)))
        assert not select(np.zeros(GRID.shape, dtype=bool), GRID, selector, ALL).any()
    with pytest.raises(GeometryError, match="shape"):
        select(np.zeros((2, 2, 2), dtype=bool), GRID, Selector(SelectorKind.LARGEST))


MASKS = {
    "liver": boxes(((6, 11), (0, 9), (0, 7))),
    "liver_tumor": boxes(((8, 9), (2, 3), (2, 3))),
    "kidney_left": boxes(((1, 2), (1, 3), (1, 3))),
    "kidney_right": boxes(((9, 10), (1, 3), (1, 3))),
    "nodule": boxes(((7, 7), (5, 5), (5, 5)), ((9, 10), (7, 8), (5, 6)), ((1, 3), (7, 9), (4, 6))),
    "hippocampus_anterior": boxes(((2, 3), (6, 7), (3, 4)), ((8, 9), (6, 7), (3, 4))),
}


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("liver without the tumour", MASKS["liver"] & ~MASKS["liver_tumor"]),
        ("kidneys", MASKS["kidney_left"] | MASKS["kidney_right"]),
        ("left kidney", MASKS["kidney_left"]),
        ("left anterior hippocampus", boxes(((2, 3), (6, 7), (3, 4)))),
        ("right anterior hippocampus", boxes(((8, 9), (6, 7), (3, 4)))),
        ("largest nodule", boxes(((1, 3), (7, 9), (4, 6)))),
        ("largest nodule in the liver", boxes(((9, 10), (7, 8), (5, 6)))),
        ("nodules in the liver", boxes(((7, 7), (5, 5), (5, 5)), ((9, 10), (7, 8), (5, 6)))),
        ("left nodule", boxes(((1, 3), (7, 9), (4, 6)))),
    ],
)
def test_phrases_on_masks(phrase, expected):
    np.testing.assert_array_equal(compose(resolve(phrase)[0], MASKS, GRID), expected)


def test_what_is_not_there_is_not_made_up():
    with pytest.raises(CapabilityError, match="spleen"):
        compose(resolve("spleen")[0], MASKS, GRID)
    with pytest.raises(CapabilityError, match="lung_left"):
        compose(resolve("left lung")[0], MASKS, GRID)


def stored(mask, grid, axcodes):
    """A mask with its axes towards ``axcodes``, without the code under test."""
    to_old = grid.reorientation(axcodes)
    order = np.abs(to_old[:3, :3]).argmax(axis=0)
    flips = tuple(axis for axis in range(3) if to_old[order[axis], axis] < 0)
    return np.flip(mask.transpose(order), flips)


@pytest.mark.parametrize("axcodes", list(all_orientations()))
def test_left_stays_left_in_all_orientations(axcodes):
    grid = GRID.reoriented(axcodes)
    masks = {name: stored(mask, GRID, axcodes) for name, mask in MASKS.items()}
    for phrase in ("left kidney", "right kidney", "left anterior hippocampus", "uppermost nodule", "left nodule",
                   "upper half of the liver", "largest nodule in the liver"):  # fmt: skip
        query = resolve(phrase)[0]
        expected = stored(compose(query, MASKS, GRID), GRID, axcodes)
        np.testing.assert_array_equal(compose(query, masks, grid), expected, err_msg=phrase)


@settings(max_examples=60)
@given(grids(largest=6), st.sampled_from(list(all_orientations())), st.sampled_from(list(SelectorKind)), st.data())
def test_the_same_tissue_in_any_orientation_of_any_grid(grid, axcodes, kind, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    chance = np.random.default_rng(seed)
    mask, region = chance.random(grid.shape) < 0.3, chance.random(grid.shape) < 0.6
    selector = Selector(kind, count=data.draw(st.integers(1, 2)), region=Query("", ("liver",)))
    here = select(mask, grid, selector, region)
    there = select(stored(mask, grid, axcodes), grid.reoriented(axcodes), selector, stored(region, grid, axcodes))
    np.testing.assert_array_equal(there, stored(here, grid, axcodes))
    assert not (here & ~mask).any()
