"""The canvas shows what a full repaint would show, whatever changed in between."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from volseg.data.labelmap import Label, LabelMap, OverlapPolicy
from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid
from volseg.sessions.desk import LabelCanvas
from volseg.sessions.desk.canvas import merge_preview

SHAPE = (5, 4, 6)
GRID = Grid(SHAPE, np.eye(4))


def mask_of(number, start, stop):
    full = np.zeros(SHAPE, dtype=bool)
    full[tuple(slice(min(a, b), max(a, b)) for a, b in zip(start, stop, strict=True))] = True
    return ObjectMask.of(number, GRID, full)


corner = st.tuples(*(st.integers(0, size) for size in SHAPE))
scene = st.lists(st.tuples(st.integers(1, 4), corner, corner), max_size=4, unique_by=lambda row: row[0])


@given(st.lists(st.tuples(scene, st.sampled_from((OverlapPolicy.LAST_WINS, OverlapPolicy.FIRST_WINS))), max_size=5))
def test_every_step_looks_like_a_label_map_made_anew(steps):
    canvas = LabelCanvas(GRID)
    known = {}
    for rows, policy in steps:
        masks = {}
        for number, start, stop in rows:
            # The same block is the same Python object, as masks that did not change are.
            masks[number] = known.setdefault((number, start, stop), mask_of(number, start, stop))
        canvas.show(masks, policy)
        labels = [Label(number, "", (0, 0, 0)) for number in masks]
        fresh = LabelMap.from_masks(GRID, list(masks.values()), labels, policy)
        np.testing.assert_array_equal(canvas.array, fresh.array)


def test_nothing_is_painted_when_nothing_changed():
    canvas = LabelCanvas(GRID)
    masks = {1: mask_of(1, (0, 0, 0), (2, 2, 2))}
    assert canvas.show(masks, OverlapPolicy.LAST_WINS)
    canvas.array[4, 3, 5] = 9  # far from every object: must not be looked at
    assert not canvas.show(dict(masks), OverlapPolicy.LAST_WINS)
    canvas.show({1: mask_of(1, (0, 0, 0), (3, 2, 2))}, OverlapPolicy.LAST_WINS)
    assert canvas.array[4, 3, 5] == 9


def test_a_growing_mask_replaces_the_slices_it_has_reached():
    known = mask_of(1, (0, 0, 1), (5, 4, 5))
    growing = mask_of(1, (1, 1, 2), (3, 3, 4))
    merged = merge_preview(known, growing, axis=2).full()
    want = known.full()
    want[:, :, 2:4] = growing.full()[:, :, 2:4]
    np.testing.assert_array_equal(merged, want)
    assert merge_preview(known, growing, None) is growing
    assert merge_preview(None, growing, 2) is growing
