"""Boxes and key slices against brute force and a cuboid whose size is known."""

from __future__ import annotations

import itertools

import numpy as np
from grid_strategies import grids, make_grid
from hypothesis import example, given, settings
from hypothesis import strategies as st

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid, all_orientations
from volseg.grounding.shape import axis_box, key_slice, oriented_box


def corners_mm(mask):
    """Every corner of every voxel, [N, 3] in RAS mm."""
    voxels = np.argwhere(mask.full())
    offsets = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return mask.grid.to_ras_mm((voxels[:, None] + offsets[None]).reshape(-1, 3))


@settings(max_examples=40)
@given(grids(largest=6), st.integers(0, 2**32 - 1), st.floats(0.02, 0.9))
@example(Grid((3, 1, 4), np.diag([-1.0, -1.625, -1.0, 1.0])), 2, 0.5)
def test_boxes_hold_every_voxel_whole(grid, seed, share):
    full = np.random.default_rng(seed).random(grid.shape) < share
    mask = ObjectMask.of(1, grid, full)
    if not full.any():
        assert axis_box(mask) is None
        assert oriented_box(mask) is None
        assert key_slice(mask) is None
        return
    corners = corners_mm(mask)
    box = axis_box(mask)
    np.testing.assert_allclose(box.low_ras_mm, corners.min(axis=0), atol=1e-3)
    np.testing.assert_allclose(box.high_ras_mm, corners.max(axis=0), atol=1e-3)
    np.testing.assert_array_equal(box.low_ijk, np.argwhere(full).min(axis=0))
    np.testing.assert_array_equal(box.high_ijk, np.argwhere(full).max(axis=0))
    turned = oriented_box(mask)
    axes = np.array(turned.axes_ras)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(axes) > 0.99
    assert list(turned.size_mm) == sorted(turned.size_mm, reverse=True)
    along = np.abs((corners - np.array(turned.center_ras_mm)) @ axes.T)
    assert (along <= np.array(turned.size_mm) / 2 + 1e-2).all()
    # Not the box's own corners: each is rounded to 1e-3 mm, as the turned box's sides are.
    straight = np.prod(np.ptp(corners, axis=0) + 1e-3) / 1000
    assert turned.volume_ml <= straight


def test_a_turned_cuboid_has_its_own_size():
    grid = Grid((64, 64, 64), np.diag([1.0, 1.0, 1.0, 1.0]))
    axes = make_grid(tilt=((1.0, 2.0, 0.5), 33.0)).affine_ras[:3, :3]
    points = np.argwhere(np.ones(grid.shape, dtype=bool)) - 31.5
    inside = (np.abs(points @ axes) <= np.array([22.0, 13.0, 7.0])).all(axis=1)
    box = oriented_box(ObjectMask.of(1, grid, inside.reshape(grid.shape)))
    # Whole voxels reach up to a voxel's half diagonal over the ideal faces.
    np.testing.assert_allclose(box.size_mm, (44.0, 26.0, 14.0), atol=2.6)
    np.testing.assert_allclose(box.center_ras_mm, (31.5, 31.5, 31.5), atol=0.6)
    for side in range(3):
        assert abs(np.array(box.axes_ras[side]) @ axes[:, side]) > 0.99


def test_one_voxel_and_a_line_have_boxes():
    grid = make_grid((5, 5, 5), (1.0, 2.0, 3.0))
    full = np.zeros(grid.shape, dtype=bool)
    full[2, 2, 2] = True
    assert oriented_box(ObjectMask.of(1, grid, full)).size_mm == (3.0, 2.0, 1.0)
    full[:, 2, 2] = True
    assert oriented_box(ObjectMask.of(1, grid, full)).size_mm == (5.0, 3.0, 2.0)


def test_the_key_slice_is_the_largest_cut_of_the_acquired_slices():
    full = np.zeros((10, 12, 6), dtype=bool)
    full[2:8, 3:9, 1:5] = True
    full[1:9, 2:10, 3] = True
    for axcodes in all_orientations():
        base = make_grid(full.shape, (1.0, 1.0, 4.0), (3.0, -7.0, 20.0))
        to_old = base.reorientation(axcodes)
        order = np.abs(to_old[:3, :3]).argmax(axis=0)
        flips = tuple(axis for axis in range(3) if to_old[order[axis], axis] < 0)
        stored = np.flip(full.transpose(order), flips)
        key = key_slice(ObjectMask.of(1, base.reoriented(axcodes), stored))
        assert key.plane == "axial"
        assert key.area_mm2 == 64.0
        np.testing.assert_allclose(key.center_ras_mm, base.to_ras_mm((4.5, 5.5, 3.0)), atol=1e-3)
        assert np.take(stored, key.index, axis=key.axis).sum() == 64
