"""Outlines of masks and back, against other rasterisers and hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from volseg.data.dicom.contours import filled, outlines, united

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14), elements=st.booleans())


@given(MASKS)
def test_filling_outlines_gives_the_mask(mask) -> None:
    parts = [filled(outline, mask.shape) for outline in outlines(mask)]
    if not mask.any():
        assert parts == []
        return
    np.testing.assert_array_equal(united(parts, exclusive=False), mask)
    np.testing.assert_array_equal(united(parts, exclusive=True), mask)
    # Each outline is one island with its holes: parts do not share voxels.
    assert sum(int(part.sum()) for part in parts) == mask.sum()


@given(arrays(float, (7, 2), elements=st.integers(-2000, 12000).map(lambda n: n / 1000)))
def test_filling_counts_crossings(polygon) -> None:
    """Random polygons that cross themselves, voxel by voxel, by the crossings of a ray."""
    expected = np.zeros((10, 9), dtype=bool)
    for start, stop in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        for i, j in np.ndindex(expected.shape):
            if (start[0] > i) != (stop[0] > i):
                place = start[1] + (stop[1] - start[1]) * (i - start[0]) / (stop[0] - start[0])
                assume(abs(place - j) > 1e-6)  # a centre on an edge lies on neither side
                expected[i, j] ^= place < j
    np.testing.assert_array_equal(filled(polygon, (10, 9)), expected)


def test_a_square_ring_by_hand() -> None:
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    (outline,) = outlines(mask)
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    # 25 minus four cut corners of 1/8, minus the hole's diamond of 1/2; the keyhole has no area.
    assert area == pytest.approx(25 - 0.5 - 0.5)
    assert {(2.0, 1.5), (1.5, 2.0), (2.0, 2.5), (2.5, 2.0)} <= set(map(tuple, outline.tolist()))


def test_a_hole_without_keyhole_and_the_same_outline_twice() -> None:
    outer = np.array([(0.5, 0.5), (0.5, 7.5), (7.5, 7.5), (7.5, 0.5)])
    inner = np.array([(2.5, 2.5), (2.5, 5.5), (5.5, 5.5), (5.5, 2.5)])
    beside = np.array([(6.5, 6.5), (6.5, 9.5), (9.5, 9.5), (9.5, 6.5)])
    parts = [filled(outline, (11, 11)) for outline in (inner, outer, outer, beside)]
    expected = np.zeros((11, 11), dtype=bool)
    expected[1:8, 1:8] = True
    expected[3:6, 3:6] = False
    expected[7:10, 7:10] = True
    np.testing.assert_array_equal(united(parts, exclusive=False), expected)
    expected[7, 7] = False
    np.testing.assert_array_equal(united([parts[0], parts[1], parts[3]], exclusive=True), expected)


def test_thousands_of_holes_take_no_search() -> None:
    mask = np.random.default_rng(0).random((150, 150)) < 0.9
    parts = [filled(outline, mask.shape) for outline in outlines(mask)]
    np.testing.assert_array_equal(np.any(parts, axis=0), mask)
