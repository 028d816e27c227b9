"""Carrying out a query on masks: unions, differences, and the parts that modifiers ask for.

Everything is decided in RAS millimetres, so the same tissue is chosen in whatever orientation the volume is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import CapabilityError, GeometryError
from volseg.geometry import Grid
from volseg.text.query import Query, Selector, SelectorKind, recipe
from volseg.text.vocabulary import Laterality
from volseg.transforms.midline import Midline

CUT_SHARE = 0.1
"""A component with at least this share of its voxels on each side of the midline is cut there, else it stays whole."""

TOLERANCE = 1e-3
"""Positions nearer to a limit than this part of the smallest spacing lie on it, whatever the rounding of an affine."""

_Mask = NDArray[np.bool_]

_HALVES = {
    SelectorKind.UPPER: (2, 1),
    SelectorKind.LOWER: (2, -1),
    SelectorKind.ANTERIOR: (1, 1),
    SelectorKind.POSTERIOR: (1, -1),
}
"""RAS axis and sign of the half that is kept."""

_ENDS = {
    SelectorKind.UPPERMOST: (2, 1),
    SelectorKind.LOWERMOST: (2, -1),
    SelectorKind.FOREMOST: (1, 1),
    SelectorKind.REARMOST: (1, -1),
    SelectorKind.LEFTMOST: (0, -1),
    SelectorKind.RIGHTMOST: (0, 1),
}
"""RAS axis and sign of the end whose components are kept."""


def compose(query: Query, masks: Mapping[str, _Mask], grid: Grid, *, midline: Midline | None = None) -> _Mask:
    """The mask of a query.

    Args:
        query: from ``resolve``.
        masks: bool [I, J, K] by concept id; what a model gave. A concept that is missing is made of its parts, or is
            one side of the mask for both, where those are there.
        grid: of the masks.
        midline: where left and right part; the middle of the volume if not given. An unsure one parts nothing: what is
            there may be either side.

    Returns:
        A new bool array [I, J, K].

    Raises:
        CapabilityError: a concept is neither there nor can be made.
        GeometryError: a mask has another shape than the grid.
    """
    middle = midline or Midline.middle_of(grid)
    result: _Mask = np.zeros(grid.shape, dtype=bool)
    for concept_id in query.include:
        result |= _concept(concept_id, masks, grid, middle)
    for concept_id in query.exclude:
        result &= ~_concept(concept_id, masks, grid, middle)
    for selector in query.selectors:
        region = None
        if selector.region is not None:
            region = compose(selector.region, masks, grid, midline=middle)
        result = select(result, grid, selector, region, midline=middle)
    return result


def select(
    mask: _Mask,
    grid: Grid,
    selector: Selector,
    region: _Mask | None = None,
    *,
    midline: Midline | None = None,
) -> _Mask:
    """The part of a mask that one selector keeps.

    Args:
        mask: bool [I, J, K].
        grid: of the mask.
        selector: what to keep; see ``SelectorKind``. Components are connected by faces, edges or corners.
        region: bool [I, J, K], for ``WITHIN``; holes in it count as part of it, as many an organ's mask leaves its
            lesions out.
        midline: see ``compose``.

    Returns:
        A new bool array [I, J, K].

    Raises:
        GeometryError: the mask or the region has another shape than the grid, or ``WITHIN`` has no region.
    """
    for array in (mask, region):
        if array is not None and array.shape != grid.shape:
            raise GeometryError(f"the mask has the shape {array.shape}, its grid {grid.shape}")
    result: _Mask = np.zeros(grid.shape, dtype=bool)
    block = _block(mask)
    if block is None:
        return result
    start = [part.start for part in block]
    inside = mask[block]
    part_grid = grid.cropped(start, inside.shape)
    kind = selector.kind
    if kind in _HALVES:
        axis, sign = _HALVES[kind]
        low, high = _extent_mm(inside, part_grid, axis)
        result[block] = _half(inside, part_grid, np.eye(3)[axis], sign, (low + high) / 2)
    elif kind in (SelectorKind.LEFT, SelectorKind.RIGHT):
        middle = midline or Midline.middle_of(grid)
        result[block] = _side(inside, part_grid, 1 if kind is SelectorKind.RIGHT else -1, middle)
    elif kind is SelectorKind.WITHIN:
        if region is None:
            raise GeometryError("a selector 'within' needs the mask of the region")
        result[block] = _within(inside, region, block)
    else:
        result[block] = _ranked(inside, part_grid, selector)
    return result


def parts_of(mask: _Mask, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels [N] and centre [N, 3] in RAS mm of each connected component of a mask."""
    block = _block(mask)
    if block is None:
        return np.zeros(0, np.int64), np.zeros((0, 3))
    inside = mask[block]
    return _measured(*_components(inside), grid.cropped([part.start for part in block], inside.shape))


def _concept(concept_id: str, masks: Mapping[str, _Mask], grid: Grid, middle: Midline) -> _Mask:
    way = recipe(concept_id, masks.keys())
    if way is None:
        known = ", ".join(sorted(masks)) or "nothing"
        raise CapabilityError(f"there is no mask of {concept_id}, nor of parts that make it up; there is: {known}")
    for part in way.parts:
        if masks[part].shape != grid.shape:
            raise GeometryError(f"the mask of {part} has the shape {masks[part].shape}, its grid {grid.shape}")
    union: _Mask = np.logical_or.reduce([masks[part] for part in way.parts])
    if way.side is Laterality.NONE:
        return union
    return select(union, grid, Selector(SelectorKind(way.side)), midline=middle)


def _ranked(mask: _Mask, grid: Grid, selector: Selector) -> _Mask:
    """The first ``count`` components by size or by position; equal ones in the order up, left, front."""
    labels, count = _components(mask)
    sizes, centres = _measured(labels, count, grid)
    if selector.kind is SelectorKind.LARGEST:
        first: NDArray[Any] = -sizes
    elif selector.kind is SelectorKind.SMALLEST:
        first = sizes
    else:
        axis, sign = _ENDS[selector.kind]
        first = -sign * centres[:, axis]
    order = np.lexsort((-centres[:, 1], centres[:, 0], -centres[:, 2], first))
    kept = np.zeros(count + 1, dtype=bool)
    kept[order[: selector.count] + 1] = True
    chosen: _Mask = kept[labels]
    return chosen


def _side(mask: _Mask, grid: Grid, sign: int, middle: Midline) -> _Mask:
    if not middle.sure:
        return mask
    labels, count = _components(mask)
    near = _half(mask, grid, middle.normal, sign, middle.offset_mm)
    far = _half(mask, grid, middle.normal, -sign, middle.offset_mm)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    on_near = np.bincount(labels[near], minlength=count + 1)[1:]
    on_far = np.bincount(labels[far], minlength=count + 1)[1:]
    whole = np.zeros(count + 1, dtype=bool)
    cut = np.zeros(count + 1, dtype=bool)
    crosses = (on_near >= CUT_SHARE * sizes) & (on_far >= CUT_SHARE * sizes)
    cut[1:] = crosses
    whole[1:] = ~crosses & (on_near >= on_far)
    chosen: _Mask = whole[labels] | (cut[labels] & near)
    return chosen


def _within(mask: _Mask, region: _Mask, block: tuple[slice, ...]) -> _Mask:
    from scipy.ndimage import binary_fill_holes

    labels, count = _components(mask)
    region_block = _block(region)
    filled = region
    if region_block is not None:
        filled = region.copy()
        filled[region_block] = binary_fill_holes(region[region_block])
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    inside = np.bincount(labels[filled[block]], minlength=count + 1)
    kept = 2 * inside > sizes
    kept[0] = False
    chosen: _Mask = kept[labels]
    return chosen


def _half(mask: _Mask, grid: Grid, direction: NDArray[np.float64], sign: int, limit_mm: float) -> _Mask:
    """The voxels on one side of a plane; those whose centre lies on it are on both sides."""
    slack = TOLERANCE * min(grid.spacing_mm)
    kept = np.empty_like(mask)
    for i, position_mm in enumerate(_planes(grid, direction)):
        np.logical_and(mask[i], sign * (position_mm - limit_mm) >= -slack, out=kept[i])
    return kept


def _extent_mm(mask: _Mask, grid: Grid, axis: int) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for i, position_mm in enumerate(_planes(grid, np.eye(3)[axis])):
        occupied = position_mm[mask[i]]
        if occupied.size:
            low, high = min(low, occupied.min()), max(high, occupied.max())
    return float(low), float(high)


def _planes(grid: Grid, direction: NDArray[np.float64]) -> Any:
    """Positions of the voxels' centres along a RAS direction, plane by plane along i: a volume would be large."""
    row = direction @ grid.affine_ras[:3]
    j, k = np.arange(grid.shape[1]), np.arange(grid.shape[2])
    plane = row[1] * j[:, None] + row[2] * k[None, :] + row[3]
    for i in range(grid.shape[0]):
        yield plane + row[0] * i


def _components(mask: _Mask) -> tuple[NDArray[Any], int]:
    from scipy.ndimage import generate_binary_structure, label

    labels, count = label(mask, structure=generate_binary_structure(3, 3))
    return labels, int(count)


def _measured(labels: NDArray[Any], count: int, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels and centre [N, 3] in RAS mm, rounded to a micrometre so that equal ones are equal, of each component."""
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    sums = np.zeros((count, 3))
    for axis in range(3):
        for place in range(labels.shape[axis]):
            counts = np.bincount(np.take(labels, place, axis=axis).ravel(), minlength=count + 1)[1:]
            sums[:, axis] += place * counts
    return sizes.astype(np.int64), grid.to_ras_mm(sums / np.maximum(sizes, 1)[:, None]).round(3) + 0.0


def _block(mask: _Mask) -> tuple[slice, slice, slice] | None:
    """The smallest block around a mask, None for an empty one."""
    slices = []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if occupied.size == 0:
            return None
        slices.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return slices[0], slices[1], slices[2]
