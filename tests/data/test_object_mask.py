"""The block around an object's voxels."""

from __future__ import annotations

import numpy as np
import pytest
from grid_strategies import CUBIC, OBLIQUE, grids, index_set, ras_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from volseg.data import object_mask
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
    assert (cut.shape, cut.bits.nbytes) == ((3, 1, 2), 3), "one bit a voxel, rows rounded up to bytes"
    assert cut.start_ijk == (30, 10, 50)


@given(hnp.arrays(bool, (5, 3, 19)), st.data())
def test_parts_are_those_of_the_block(block, data) -> None:
    grid = CUBIC.cropped((0, 0, 0), (5, 3, 19))
    mask = ObjectMask(1, grid, (0, 0, 0), block)
    where = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))) for size in block.shape
    )
    np.testing.assert_array_equal(mask.part(where), block[where])


def test_a_large_mask_is_gone_through_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_mask, "SLAB_VOXELS", 2 * 7 * 6)
    voxels = np.random.default_rng(0).random(CUBIC.shape) < 0.5
    voxels[0, 0, 0] = voxels[-1, -1, -1] = True
    mask = ObjectMask.of(1, CUBIC, voxels)
    assert [len(slab) for _, slab in mask.slabs()] == [2, 2, 2, 2]
    assert mask.voxels == voxels.sum()
    np.testing.assert_array_equal(mask.full(), voxels)


def test_voxels_are_written_into_an_array() -> None:
    part = np.zeros((2, 2, 2), dtype=bool)
    part[0, 0, 0] = part[1, 1, 1] = True
    mask = ObjectMask.of(1, CUBIC, part, start_ijk=(3, 2, 1))
    target = np.zeros(CUBIC.shape, dtype=np.uint8)
    assert not mask.overlaps(target)
    target[3, 2, 1] = 9
    assert mask.overlaps(target)
    mask.write(target, 4, only_free=True)
    assert (target[3, 2, 1], target[4, 3, 2], np.count_nonzero(target)) == (9, 4, 2)
    mask.write(target, 5)
    assert (target[3, 2, 1], target[4, 3, 2], np.count_nonzero(target)) == (5, 5, 2)


def test_another_number_for_the_same_voxels() -> None:
    mask = ObjectMask.of(1, CUBIC, np.ones((2, 1, 1), dtype=bool), 0.5, (1, 1, 1))
    other = mask.numbered(7)
    assert (mask.object_id, other.object_id) == (1, 7)
    assert (other.start_ijk, other.shape, other.presence) == (mask.start_ijk, mask.shape, mask.presence)
    np.testing.assert_array_equal(other.block, mask.block)


@given(grids(largest=5), st.data())
def test_a_union_has_the_voxels_of_both(grid, data) -> None:
    masks = [data.draw(hnp.arrays(bool, grid.shape, elements=st.sampled_from([False, False, True]))) for _ in range(2)]
    first, second = (ObjectMask.of(number, grid, mask, 0.5) for number, mask in enumerate(masks, start=1))
    found = first.union(second)
    assert np.array_equal(found.full(), masks[0] | masks[1])
    assert (found.object_id, found.presence, found.voxels) == (1, 0.5, int((masks[0] | masks[1]).sum()))


@given(grids(largest=5), st.data())
def test_a_region_is_that_of_the_grid(grid, data) -> None:
    mask = data.draw(hnp.arrays(bool, grid.shape))
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in grid.shape]
    where = tuple(slice(a, b) for a, b in ends)
    assert np.array_equal(ObjectMask.of(1, grid, mask).region(where), mask[where])
