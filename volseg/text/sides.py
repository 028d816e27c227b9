"""Left and right of structures that lie on both sides: what their own masks say of the plane between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid
from volseg.text.query import Query, SelectorKind, recipe
from volseg.text.selectors import parts_of
from volseg.text.vocabulary import Laterality
from volseg.transforms.midline import Midline

EITHER_SIDE = 0.5
"""Factor of the presence where a side was asked for and nothing says which one was found."""

ALIKE = 0.5
"""The smaller of a pair has at least this part of the larger one's voxels."""

THIRD = 0.2
"""A third component that is larger than this part of the largest makes it unclear which two are the pair."""

ACROSS = 0.9
"""The cosine between the line from one to the other and the axis to the right: 26 degrees."""


def settle(midline: Midline, masks: Iterable[NDArray[np.bool_]], grid: Grid) -> Midline:
    """The plane between left and right, from the image and from the structures that were found.

    Args:
        midline: what the image says.
        masks: [I, J, K] of structures that occur on both sides.
        grid: of the masks.

    Returns:
        The image's plane where it is sure and lies between the components of every pair; else the plane in the middle
        of the pairs; else the image's, which may be unsure.
    """
    pairs = [pair for mask in masks if (pair := _pair(mask, grid)) is not None]
    if not pairs:
        return midline
    if midline.sure and all(midline.right_of(pair).prod() < 0 for pair in pairs):
        return midline
    left, right = np.mean(pairs, axis=0)
    normal = (right - left) / np.linalg.norm(right - left)
    reason = "between the two sides of what was found"
    x, y, z = (float(value) for value in normal)
    return Midline((x, y, z), float((left + right) @ normal / 2), True, reason)


def midline_for(
    queries: Iterable[Query], masks: Mapping[str, NDArray[np.bool_]], grid: Grid, seen: Callable[[], Midline]
) -> Midline | None:
    """Where left and right part, for queries whose answers depend on it; None where none does.

    Args:
        queries: what was asked.
        masks: [I, J, K] by concept id, for every concept that the queries are made of.
        grid: of the masks.
        seen: finds the plane in the image; called only where it is needed.
    """
    asked = tuple(queries)
    ways = (recipe(concept, masks) for query in asked for concept in query.concept_ids)
    halved = dict.fromkeys(
        part for way in ways if way is not None and way.side is not Laterality.NONE for part in way.parts
    )
    if not halved and not any(_selects_side(query) for query in asked):
        return None
    return settle(seen(), (masks[part] for part in halved), grid)


def _selects_side(query: Query) -> bool:
    kinds = {item.kind for item in query.selectors}
    regions = (item.region for item in query.selectors if item.region is not None)
    return bool(kinds & {SelectorKind.LEFT, SelectorKind.RIGHT}) or any(_selects_side(region) for region in regions)


def _pair(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64] | None:
    """Centres [2, 3] in RAS mm of the left and the right component of a mask; None where it is not such a pair."""
    sizes, centres = parts_of(mask, grid)
    if len(sizes) < 2:
        return None
    order = np.argsort(-sizes, kind="stable")
    largest = sizes[order[0]]
    if sizes[order[1]] < ALIKE * largest or (len(sizes) > 2 and sizes[order[2]] > THIRD * largest):
        return None
    pair = centres[order[:2]]
    pair = pair[np.argsort(pair[:, 0])]
    way = pair[1] - pair[0]
    return pair if way[0] >= ACROSS * np.linalg.norm(way) else None
