"""Which prompt is shown on which slice of which plane."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Grid, Plane
from volseg.inferers.slices.view import SliceView
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, PromptedObject, PromptSet, Scribble

MAX_PROMPTED_SLICES = 7
"""A scribble or mask that runs through more slices prompts this many of them, evenly spread; SAM 2 reads no more."""

MAX_POINTS_PER_SLICE = 8
"""Points that are sampled from a scribble on one slice."""

LASSO_POINTS = 3
"""Points that stand for a negative lasso."""


@dataclass(frozen=True, eq=False)
class SlicePrompts:
    """What was said on one slice, in (row, column) of the view.

    Attributes:
        points_rc: [P, 2].
        labels: [P], 1 inside, 0 outside.
        box_rc: outer faces (row0, column0, row1, column1), half a pixel beyond the centres, or None.
        mask: bool [rows, columns] of the whole slice, or None.
    """

    points_rc: NDArray[np.float64]
    labels: NDArray[np.int64]
    box_rc: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class PlanePrompts:
    """What was said about one object, as seen in one plane.

    Attributes:
        view: the plane's slices.
        slices: prompts by slice index, ascending.
        anchors: the slices that say by themselves what the object is: those with a box or a mask, or, where there is
            none, that of the first positive click or scribble.
        corrections: the other slices, in the order in which they were first clicked on; those of one prompt together.
            They correct what the anchors and the corrections before them give.
        first: the first slice the object may reach.
        last: the last one.
    """

    view: SliceView
    slices: dict[int, SlicePrompts]
    anchors: frozenset[int]
    corrections: tuple[tuple[int, ...], ...]
    first: int
    last: int


@dataclass
class _Draft:
    points: defaultdict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    labels: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    masks: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    limits: tuple[int, int] | None = None
    order: list[tuple[int, ...]] = field(default_factory=list)

    def add_points(self, index: int, positions_rc: NDArray[np.float64], positive: bool) -> None:
        self.points[index] += [(float(row), float(column)) for row, column in positions_rc]
        self.labels[index] += [int(positive)] * len(positions_rc)

    def add_box(self, index: int, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        box = (float(low[0]) - 0.5, float(low[1]) - 0.5, float(high[0]) + 0.5, float(high[1]) + 0.5)
        if index in self.boxes:
            # SAM 2 takes one box a slice: the object lies in all of them, so in the one around them.
            old = self.boxes[index]
            box = (min(old[0], box[0]), min(old[1], box[1]), max(old[2], box[2]), max(old[3], box[3]))
        self.boxes[index] = box

    def add_mask(self, index: int, mask: NDArray[np.bool_]) -> None:
        self.masks[index] = self.masks[index] | mask if index in self.masks else mask

    def widen_limits(self, first: int, last: int) -> None:
        old = self.limits or (first, last)
        self.limits = (min(old[0], first), max(old[1], last))


def plan_object(item: PromptedObject, grid: Grid, plane: Plane | None = None) -> tuple[PlanePrompts, ...]:
    """Decides on planes and translates an object's prompts to their slices.

    2D boxes, lassos and flat masks lie in their own plane. Everything else is plane-free and goes to the chosen plane,
    or to the plane of the first 2D prompt, or to the acquisition plane. Points and scribbles go to every plane in use,
    so that a correction counts in all of them.

    Args:
        item: the object, in voxel indices of ``grid``.
        grid: the image's grid.
        plane: the plane chosen by the person, or None.

    Returns:
        One entry a plane, the main plane first.

    Raises:
        PromptError: nothing says where the object is.
    """
    if not any(prompt.positive for prompt in item.prompts):
        raise PromptError(f"{item.title} has only negative prompts; say also what belongs to it")
    planes = [own for prompt in item.prompts if (own := _own_plane(prompt, grid)) is not None]
    main = plane or (planes[0] if planes else grid.acquisition_plane())
    result = []
    for used in dict.fromkeys([main, *planes]):
        view = SliceView.of(grid, used)
        moved = PromptSet(grid, (item,)).moved(view.grid).objects[0]
        draft = _Draft()
        for original, prompt in zip(item.prompts, moved.prompts, strict=True):
            own = _own_plane(original, grid)
            flat_elsewhere = own is not None and own is not used
            solid_elsewhere = own is None and used is not main and isinstance(prompt, Box | MaskPrompt)
            if not flat_elsewhere and not solid_elsewhere:
                before = set(draft.points)
                _add(draft, prompt, view.grid)
                draft.order.append(tuple(sorted(set(draft.points) - before)))
        slices = _slices(draft)
        if any(p.box_rc is not None or p.mask is not None or (p.labels == 1).any() for p in slices.values()):
            first, last = draft.limits or (0, view.count - 1)
            # A prompted slice outside a 3D box is a correction of the box.
            anchors = _anchors(draft)
            corrections = _corrections(draft, anchors)
            ends = (min(first, *slices), max(last, *slices))
            result.append(PlanePrompts(view, slices, anchors, corrections, *ends))
    return tuple(result)


def _own_plane(prompt: Prompt, grid: Grid) -> Plane | None:
    """The plane a flat prompt lies in; None for what has no plane."""
    if isinstance(prompt, Box) and prompt.flat_axis is not None:
        return grid.plane_of(prompt.flat_axis)
    if isinstance(prompt, Lasso):
        return grid.plane_of(prompt.slice_ijk()[0])
    if isinstance(prompt, MaskPrompt) and sum(n == 1 for n in prompt.mask.shape) == 1:
        return grid.plane_of(prompt.mask.shape.index(1))
    return None


def _add(draft: _Draft, prompt: Prompt, grid: Grid) -> None:
    if isinstance(prompt, Point):
        index = int(prompt.voxels_ijk(grid)[0, 0])
        draft.add_points(index, np.array([prompt.position[1:]]), prompt.positive)
    elif isinstance(prompt, Scribble):
        _add_scribble(draft, prompt, grid)
    elif isinstance(prompt, Box):
        start, stop = prompt.bounds_ijk(grid)
        draft.add_box((start[0] + stop[0] - 1) // 2, np.array(prompt.low[1:]), np.array(prompt.high[1:]))
        if prompt.flat_axis is None:
            draft.widen_limits(start[0], stop[0] - 1)
    elif isinstance(prompt, Lasso | MaskPrompt):
        _add_region(draft, prompt, grid)
    else:
        raise PromptError(f"a slice-wise model cannot use a {prompt.kind}")


def _add_scribble(draft: _Draft, prompt: Scribble, grid: Grid) -> None:
    samples = prompt.sampled_ijk(step_voxels=0.5)
    samples = samples[grid.contains_ijk(samples)]
    on_slice = np.clip(np.round(samples[:, 0]), 0, grid.shape[0] - 1).astype(int)
    for index in _spread(np.unique(on_slice), MAX_PROMPTED_SLICES):
        on_this = samples[on_slice == index][:, 1:]
        draft.add_points(int(index), _spread(on_this, MAX_POINTS_PER_SLICE), prompt.positive)


def _add_region(draft: _Draft, prompt: Lasso | MaskPrompt, grid: Grid) -> None:
    voxels = prompt.voxels_ijk(grid)
    for index in _spread(np.unique(voxels[:, 0]), MAX_PROMPTED_SLICES):
        on_this = voxels[voxels[:, 0] == index][:, 1:]
        mask = np.zeros(grid.shape[1:], dtype=bool)
        mask[tuple(on_this.T)] = True
        if prompt.positive:
            draft.add_mask(int(index), mask)
        else:
            draft.add_points(int(index), _inner_points(mask, LASSO_POINTS), positive=False)


def _inner_points(mask: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """Positions deep inside a region and far from each other, [N, 2]."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    chosen: list[NDArray[np.int64]] = []
    while len(chosen) < count and depth.max() > 0:
        best = np.array(np.unravel_index(depth.argmax(), depth.shape))
        chosen.append(best)
        rows, columns = np.indices(mask.shape)
        depth[np.hypot(rows - best[0], columns - best[1]) <= 2 * depth.max()] = 0
    return np.array(chosen, dtype=np.float64)


def _spread(items: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """At most ``count`` of the items, evenly spread, first and last included."""
    if len(items) <= count:
        return items
    spread: NDArray[np.float64] = items[np.round(np.linspace(0, len(items) - 1, count)).astype(int)]
    return spread


def _anchors(draft: _Draft) -> frozenset[int]:
    if draft.boxes or draft.masks:
        return frozenset({*draft.boxes, *draft.masks})
    return frozenset([next(index for index, labels in draft.labels.items() if 1 in labels)])


def _corrections(draft: _Draft, anchors: frozenset[int]) -> tuple[tuple[int, ...], ...]:
    groups = (tuple(index for index in group if index not in anchors) for group in draft.order)
    return tuple(group for group in groups if group)


def _slices(draft: _Draft) -> dict[int, SlicePrompts]:
    indices = sorted({*draft.points, *draft.boxes, *draft.masks})
    return {
        index: SlicePrompts(
            np.array(draft.points.get(index, []), dtype=np.float64).reshape(-1, 2),
            np.array(draft.labels.get(index, []), dtype=np.int64),
            draft.boxes.get(index),
            draft.masks.get(index),
        )
        for index in indices
    }
