"""Putting objects together, against voxel-by-voxel brute force."""

from __future__ import annotations

import numpy as np
import pytest
from grid_strategies import CUBIC, all_voxels, make_grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from volseg.data.labelmap import Label, LabelMap, OverlapPolicy, Provenance, default_color_rgb, smallest_dtype
from volseg.data.object_mask import ObjectMask
from volseg.errors import GeometryError

GRID = make_grid((4, 3, 2))
VALUES = st.lists(st.integers(1, 70_000), min_size=1, max_size=6, unique=True)


def put_together(masks: list[np.ndarray], values: list[int], policy: OverlapPolicy) -> LabelMap:
    return LabelMap.from_masks(
        GRID,
        [ObjectMask.of(n + 1, GRID, mask, presence=n / 10) for n, mask in enumerate(masks)],
        [Label(value, f"object {value}", (1, 2, 3)) for value in values],
        policy,
    )


@st.composite
def objects(draw: st.DrawFn) -> tuple[list[np.ndarray], list[int]]:
    values = draw(VALUES)
    return [draw(hnp.arrays(bool, GRID.shape)) for _ in values], values


@pytest.mark.parametrize("policy", [OverlapPolicy.LAST_WINS, OverlapPolicy.FIRST_WINS])
@given(objects())
def test_one_layer_keeps_the_first_or_the_last(policy, given_objects) -> None:
    masks, values = given_objects
    result = put_together(masks, values, policy)
    for voxel in map(tuple, all_voxels(GRID).tolist()):
        claims = [value for mask, value in zip(masks, values, strict=True) if mask[voxel]]
        expected = 0 if not claims else claims[-1 if policy is OverlapPolicy.LAST_WINS else 0]
        assert result.array[voxel] == expected
    assert result.array.dtype == np.min_scalar_type(max(values))
    assert [label.value for label in result.labels] == sorted(values)


@given(objects())
def test_layers_keep_everything_in_as_few_layers_as_first_fit_needs(given_objects) -> None:
    masks, values = given_objects
    result = put_together(masks, values, OverlapPolicy.LAYERS)
    taken: list[set[tuple[int, ...]]] = []
    for n, (mask, value) in enumerate(zip(masks, values, strict=True)):
        np.testing.assert_array_equal(result.mask(value), mask)
        voxels = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
        layer = next((index for index, other in enumerate(taken) if not voxels & other), len(taken))
        if layer == len(taken):
            taken.append(set())
        taken[layer] |= voxels
        assert result.label(value).layer == layer
        assert result.label(value).presence == n / 10
    assert len(result.layers) == max(1, len(taken))
    most = int(np.sum(masks, axis=0).max())
    assert len(result.layers) >= max(1, most)
    flat = result.flattened()
    assert flat.array.dtype == result.layers[0].dtype
    for voxel in map(tuple, all_voxels(GRID).tolist()):
        present = [layer[voxel] for layer in result.layers if layer[voxel]]
        assert flat.array[voxel] == (present[-1] if present else 0)
    assert {label.layer for label in flat.labels} == {0}


def test_flattening_keeps_values_that_the_first_layers_type_cannot_hold() -> None:
    small, large = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint16)
    small[0], large[1] = 7, 300
    labels = (Label(7, "a", (0, 0, 0), 0), Label(300, "b", (0, 0, 0), 1))
    flat = LabelMap(GRID, (small, large), labels).flattened()
    assert set(np.unique(flat.array)) == {0, 7, 300}
    assert large.max() == 300
    assert small[1].max() == 0


@pytest.mark.parametrize(
    ("value", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_the_type_is_the_smallest(value: int, dtype: type) -> None:
    assert smallest_dtype(value) == dtype


def test_arrays_are_read_only() -> None:
    layer = np.zeros(GRID.shape, dtype=np.uint8)
    labels = LabelMap(GRID, (layer,), ())
    with pytest.raises(ValueError, match="read-only"):
        labels.array[0] = 1
    layer[0] = 0  # The caller's own array stays writable.


def test_several_layers_have_no_single_array() -> None:
    full = np.ones(GRID.shape, dtype=bool)
    result = put_together([full, full], [1, 2], OverlapPolicy.LAYERS)
    with pytest.raises(GeometryError, match="this label map has 2 layers as objects overlap"):
        _ = result.array
    with pytest.raises(KeyError):
        result.label(9)


def layer(dtype: type = np.uint8, shape: tuple[int, int, int] = GRID.shape) -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("layers", "labels", "message"),
    [
        ((), (), "a label map has at least one layer"),
        ((layer(np.float32),), (), "a layer is an integer array of shape (4, 3, 2), got float32"),
        ((layer(bool),), (), "a layer is an integer array"),
        ((layer(shape=(4, 3, 3)),), (), "a layer is an integer array of shape (4, 3, 2), got uint8 (4, 3, 3)"),
        ((layer(),), (Label(0, "", (0, 0, 0)),), "labels have values from 1, each once; got [0]"),
        ((layer(),), (Label(1, "", (0, 0, 0)), Label(1, "", (0, 0, 0))), "labels have values from 1, each once"),
        ((layer(),), (Label(1, "", (0, 0, 0), 1),), "a label names a layer that is not among the 1 there are"),
    ],
)
def test_what_is_no_label_map_is_refused(layers, labels, message: str) -> None:
    with pytest.raises(GeometryError) as error:
        LabelMap(GRID, layers, labels)
    assert message in str(error.value)


def test_objects_of_another_grid_are_refused() -> None:
    mask = ObjectMask.of(5, CUBIC, np.ones(CUBIC.shape, dtype=bool))
    with pytest.raises(GeometryError, match="object 5 lies on another grid than the label map"):
        LabelMap.from_masks(GRID, [mask], [Label(1, "", (0, 0, 0))])


def test_nothing_gives_an_empty_label_map() -> None:
    result = LabelMap.from_masks(GRID, [], [], provenance=Provenance(model="none"))
    assert result.array.dtype == np.uint8
    assert not result.array.any()
    assert result.provenance.model == "none"


def test_neighbouring_colours_are_far_apart() -> None:
    colors = [default_color_rgb(value) for value in range(1, 40)]
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    for color, following in zip(colors, colors[1:], strict=False):
        assert np.abs(np.subtract(color, following)).sum() > 100
