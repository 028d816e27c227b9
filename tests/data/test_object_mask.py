"""The block around an object's voxels."""

from __future__ import annotations

import numpy as np
import pytest
from grid_strategies import CUBIC, OBLIQUE, grids, index_set, ras_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from volseg.data.object_mask import ObjectMask
from volseg.errors import GeometryError


@given(grids(largest=5), st.data())
def test_cut_and_put_back(grid, data) -> None:
    mask = data.draw(hnp.arrays(bool, grid.shape))
    cut = ObjectMask.of(3, grid, mask, presence=0.25)
    np.testing.assert_array_equal(cut.full(), mask)
    assert (cut.object_id, cut.presence) == (3, 0.25)
    assert cut.voxels == len(index_set(mask))
    assert cut.volume_ml == pytest.approx(mask.sum() * np.prod(grid.spacing_mm) / 1000)
    if not mask.any():
        assert cut.block.shape == (0, 0, 0)
        assert cut.centroid_ras_mm() is None
        return
    np.testing.assert_array_equal(mask[cut.slices], cut.block)
    for axis in range(3):
        ends = np.moveaxis(cut.block, axis, 0)[[0, -1]]
        assert ends.any(axis=(1, 2)).all(), "the block is not the smallest"
    np.testing.assert_allclose(cut.centroid_ras_mm(), ras_of(grid, np.argwhere(mask)).mean(axis=0), atol=1e-8)


@given(hnp.arrays(bool, (3, 2, 4)))
def test_a_part_of_the_image_can_be_given(part) -> None:
    cut = ObjectMask.of(1, CUBIC, part, start_ijk=(2, 4, 1))
    expected = np.zeros(CUBIC.shape, dtype=bool)
    expected[2:5, 4:6, 1:5] = part
    np.testing.assert_array_equal(cut.full(), expected)


@pytest.mark.parametrize("filled", ["all", "front"])
def test_the_mask_is_copied_and_the_block_read_only(filled: str) -> None:
    mask = np.zeros(CUBIC.shape, dtype=bool)
    mask[: 8 if filled == "all" else 3] = True
    cut = ObjectMask.of(1, CUBIC, mask)
    expected = mask.sum()
    mask[:] = False
    assert cut.voxels == expected
    with pytest.raises(ValueError, match="read-only"):
        cut.block[:] = False


@pytest.mark.parametrize(("start", "shape"), [((-1, 0, 0), (2, 2, 2)), ((7, 0, 0), (2, 2, 2)), ((0, 0, 0), (2, 2))])
def test_a_block_lies_in_the_image(start, shape) -> None:
    with pytest.raises((GeometryError, ValueError)) as error:
        ObjectMask(1, CUBIC, start, np.ones(shape, dtype=bool))
    if len(shape) == 3:
        assert f"a block of shape {shape} at {start} does not lie in (8, 7, 6) voxels" in str(error.value)


def test_the_block_is_small_on_a_large_image() -> None:
    mask = np.zeros((60, 60, 60), dtype=bool)
    mask[30:33, 10, 50:52] = True
    cut = ObjectMask.of(1, OBLIQUE.cropped((0, 0, 0), (60, 60, 60)), mask)
    assert cut.block.nbytes == 6
    assert cut.start_ijk == (30, 10, 50)
