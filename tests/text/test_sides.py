"""Left and right of structures on both sides, from their own masks where the image does not say."""

from __future__ import annotations

import numpy as np
import pytest

from volseg.geometry import Grid
from volseg.text.phrases import resolve
from volseg.text.selectors import compose
from volseg.text.sides import midline_for, settle
from volseg.transforms.midline import Midline

GRID = Grid((60, 40, 30), np.diag([1.0, 1.0, 1.0, 1.0]))
UNSURE = Midline.middle_of(GRID, sure=False)


def boxes(*lows: tuple[int, int, int], side: int = 8) -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=bool)
    for low in lows:
        mask[tuple(slice(n, n + side) for n in low)] = True
    return mask


def sides(mask: np.ndarray, seen: Midline) -> tuple[np.ndarray, np.ndarray]:
    masks = {"hippocampus": mask}
    answers = []
    for side in ("left", "right"):
        (query,) = resolve(f"{side} hippocampus")
        answers.append(compose(query, masks, GRID, midline=midline_for([query], masks, GRID, lambda: seen)))
    return answers[0], answers[1]


def test_a_pair_on_one_side_of_the_volume_is_told_apart() -> None:
    """An off-centre head: both lie left of the volume's middle, and the image says nothing."""
    left, right = sides(boxes((2, 10, 10), (18, 12, 10)), UNSURE)
    np.testing.assert_array_equal(left, boxes((2, 10, 10)))
    np.testing.assert_array_equal(right, boxes((18, 12, 10)))


def test_a_pair_overrules_an_image_that_puts_both_on_one_side() -> None:
    left, right = sides(boxes((2, 10, 10), (18, 12, 10)), Midline.at(40.0))
    np.testing.assert_array_equal(left, boxes((2, 10, 10)))
    np.testing.assert_array_equal(right, boxes((18, 12, 10)))


def test_an_image_that_fits_the_pair_decides() -> None:
    seen = Midline((np.cos(0.3), np.sin(0.3), 0.0), 18.0)
    assert settle(seen, [boxes((2, 10, 10), (18, 12, 10))], GRID) is seen


@pytest.mark.parametrize(
    "lows",
    [
        [(10, 10, 10)],  # one alone
        [(10, 4, 10), (12, 24, 10)],  # one behind the other
        [(2, 10, 10), (18, 12, 10), (40, 12, 10)],  # which two?
    ],
)
def test_where_nothing_says_the_side_nothing_is_cut_and_it_is_said(lows: list[tuple[int, int, int]]) -> None:
    mask = boxes(*lows)
    (query,) = resolve("left hippocampus")
    midline = midline_for([query], {"hippocampus": mask}, GRID, lambda: UNSURE)
    assert midline is not None
    assert not midline.sure
    left, right = sides(mask, UNSURE)
    np.testing.assert_array_equal(left, mask)
    np.testing.assert_array_equal(right, mask)


def test_the_image_is_not_asked_where_no_side_is() -> None:
    def asked() -> Midline:
        raise AssertionError("the plane was not needed")

    (both,) = resolve("hippocampus")
    (largest,) = resolve("largest hippocampus")
    masks = {"hippocampus": boxes((2, 10, 10), (18, 12, 10))}
    assert midline_for([both, largest], masks, GRID, asked) is None
    (own,) = resolve("left hippocampus")
    assert midline_for([own], {"hippocampus_left": masks["hippocampus"]}, GRID, asked) is None
