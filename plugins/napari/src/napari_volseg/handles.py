"""Where a prompt can be seen and grabbed."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, Scribble, Text


@dataclass(frozen=True, eq=False)
class PromptShape:
    """A prompt as it is drawn.

    Attributes:
        point_ijk: [3], for a point.
        lines_ijk: [N, 2, 3], start and end of lines.
    """

    point_ijk: NDArray[np.float64] | None
    lines_ijk: NDArray[np.float64]


NO_LINES = np.zeros((0, 2, 3))


def on_grid(prompt: Prompt, grid: Grid) -> Prompt:
    """The prompt in voxel indices of the image."""
    # What is drawn here is in voxel indices already, and there may be hundreds.
    here = isinstance(prompt, Text) or getattr(prompt, "frame", None) is Frame.IJK
    return prompt if here else prompt.moved(grid, grid)


def shape_of(prompt: Prompt, grid: Grid, axis: int | None) -> PromptShape:
    """How a prompt is drawn.

    Args:
        prompt: in any frame.
        grid: the image's.
        axis: the voxel axis the slices on the screen are stacked along; a 3D box is drawn on each of its slices.
    """
    moved = on_grid(prompt, grid)
    match moved:
        case Point():
            return PromptShape(np.array(moved.position), NO_LINES)
        case Scribble():
            points = np.array(moved.points)
            return PromptShape(None, np.stack([points[:-1], points[1:]], axis=1))
        case Lasso():
            return PromptShape(None, closed(np.array(moved.points)))
        case Box():
            return PromptShape(None, _box_lines(moved, axis))
        case MaskPrompt():
            return PromptShape(None, _mask_lines(moved, grid))
        case _:
            return PromptShape(None, NO_LINES)


def closed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lines of a polygon, [N, 2, 3]."""
    return np.stack([points, np.roll(points, -1, axis=0)], axis=1)


def centre_of(prompt: Prompt, grid: Grid) -> NDArray[np.float64] | None:
    """A voxel index to look at to see the prompt, [3]; None for words."""
    moved = on_grid(prompt, grid)
    match moved:
        case Point():
            return np.array(moved.position)
        case Box():
            return (np.array(moved.low) + np.array(moved.high)) / 2
        case Scribble() | Lasso():
            return np.array(moved.points[len(moved.points) // 2])
        case MaskPrompt():
            first = moved.start_ijk(grid)
            return np.asarray(first + np.argwhere(moved.mask).mean(axis=0).round(), dtype=np.float64)
        case _:
            return None


@dataclass(frozen=True, eq=False)
class Grip:
    """A part of a prompt that can be dragged.

    Attributes:
        at_ijk: where it is, [3].
        corner: for the corner of a box: which end of each axis, 0 low, 1 high; None moves the whole prompt.
    """

    at_ijk: NDArray[np.float64]
    corner: tuple[int, int, int] | None = None


def grips_of(prompt: Prompt, grid: Grid, here_ijk: NDArray[np.float64], axis: int | None) -> list[Grip]:
    """What of a prompt can be grabbed on the slice through ``here_ijk``."""
    moved = on_grid(prompt, grid)
    match moved:
        case Point():
            grips = [Grip(np.array(moved.position))]
        case Scribble() | Lasso():
            grips = [Grip(np.array(point)) for point in moved.points]
        case Box():
            ends = (np.array(moved.low), np.array(moved.high))
            grips = []
            for corner in itertools.product((0, 1), repeat=3):
                at = np.array([ends[end][place] for place, end in enumerate(corner)])
                if axis is not None and ends[0][axis] - 0.5 <= here_ijk[axis] <= ends[1][axis] + 0.5:
                    at[axis] = here_ijk[axis]
                grips.append(Grip(at, (corner[0], corner[1], corner[2])))
        case _:
            grips = []
    if axis is None:
        return grips
    return [grip for grip in grips if abs(grip.at_ijk[axis] - here_ijk[axis]) <= 0.75]


def dragged(prompt: Prompt, grip: Grip, by_ijk: NDArray[np.float64], grid: Grid) -> Prompt:
    """The prompt after a grip was dragged.

    Raises:
        PromptError: a mask or words cannot be dragged, or a box would have no size.
    """
    moved = on_grid(prompt, grid)
    match moved:
        case Point():
            return dataclasses.replace(moved, position=tuple(np.array(moved.position) + by_ijk))
        case Scribble() | Lasso():
            return dataclasses.replace(moved, points=tuple(map(tuple, (np.array(moved.points) + by_ijk).tolist())))
        case Box():
            step = np.round(by_ijk)
            ends = [np.array(moved.low), np.array(moved.high)]
            if grip.corner is None:
                ends = [end + step for end in ends]
            else:
                for place, end in enumerate(grip.corner):
                    if place != moved.flat_axis:
                        ends[end][place] += step[place]
            return Box(tuple(ends[0].tolist()), tuple(ends[1].tolist()), Frame.IJK, moved.positive)
        case _:
            raise PromptError(f"a {moved.kind} cannot be dragged; delete it and give another")


def _box_lines(box: Box, axis: int | None) -> NDArray[np.float64]:
    low, high = np.array(box.low) - 0.5, np.array(box.high) + 0.5
    flat = box.flat_axis
    normal = flat if flat is not None else (axis if axis is not None else 0)
    a, b = (other for other in range(3) if other != normal)
    lines = []
    for index in np.arange(box.low[normal], box.high[normal] + 0.5):
        corners = np.empty((4, 3))
        corners[:, normal] = index
        corners[:, a] = low[a], high[a], high[a], low[a]
        corners[:, b] = low[b], low[b], high[b], high[b]
        lines.append(closed(corners))
    return np.concatenate(lines)


def _mask_lines(prompt: MaskPrompt, grid: Grid) -> NDArray[np.float64]:
    """The outline of a flat mask; none of a thick one, which would cover the picture."""
    if 1 not in prompt.mask.shape:
        return NO_LINES
    normal = prompt.mask.shape.index(1)
    start = prompt.start_ijk(grid).astype(float)
    plane = np.pad(prompt.mask.squeeze(normal) if prompt.mask.ndim == 3 else prompt.mask, 1)
    lines = []
    for along in (0, 1):
        edges = np.argwhere(np.diff(plane.astype(np.int8), axis=along) != 0).astype(float)
        ends = np.stack([edges, edges], axis=1) - 1
        ends[:, :, along] += 0.5
        ends[:, 0, 1 - along] -= 0.5
        ends[:, 1, 1 - along] += 0.5
        lines.append(ends)
    flat = np.concatenate(lines)
    a, b = (other for other in range(3) if other != normal)
    full = np.zeros((len(flat), 2, 3))
    full[..., a], full[..., b] = flat[..., 0], flat[..., 1]
    return full + start
