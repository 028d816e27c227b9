"""Prompts drawn on a panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid
from volseg.overlay.display import Panel
from volseg.prompts import Box, Lasso, MaskPrompt, Point, PromptedObject, Scribble

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE_COLOR = "#35ff5d"
NEGATIVE_COLOR = "#ff4040"
OFF_SLICE_ALPHA = 0.4
"""Prompts on other slices are drawn faint."""


def draw_prompts(axes: Axes, panel: Panel, item: PromptedObject, display: Grid, index: int) -> None:
    """Draws an object's prompts, projected on one slice.

    Args:
        axes: the panel, in mm from the first voxel's centre.
        panel: which plane it shows.
        item: prompts in voxel index of ``display``.
        display: the image's grid in display order.
        index: the slice that is shown.
    """
    spacing = np.array(display.spacing_mm)
    plane = [panel.across, panel.down]
    for prompt in item.prompts:
        color = POSITIVE_COLOR if prompt.positive else NEGATIVE_COLOR
        match prompt:
            case Point():
                position = np.array(prompt.position)
                alpha = _alpha(position[None], panel, index)
                x, y = (position * spacing)[plane]
                marker = "+" if prompt.positive else "x"
                axes.plot(x, y, marker, color="black", markersize=9, markeredgewidth=3.5, alpha=alpha)
                axes.plot(x, y, marker, color=color, markersize=8, markeredgewidth=1.8, alpha=alpha)
            case Box():
                corners = np.array([prompt.low, prompt.high])
                # To the outer faces of the voxels, as both corners are inclusive.
                faces = (corners + np.array([[-0.5], [0.5]])) * spacing
                (x0, y0), (x1, y1) = faces[:, plane]
                _line(axes, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]), color,
                      _alpha(corners, panel, index), "--")  # fmt: skip
            case Scribble():
                points = np.array(prompt.points)
                _line(axes, (points * spacing)[:, plane], color, _alpha(points, panel, index), "-")
            case Lasso():
                points = np.array([*prompt.points, prompt.points[0]])
                _line(axes, (points * spacing)[:, plane], color, _alpha(points, panel, index), "-")
            case MaskPrompt():
                _mask_outline(axes, panel, prompt, display, index, color)
            case _:
                continue  # words have no place


def _line(axes: Axes, points_mm: NDArray[np.float64], color: str, alpha: float, style: str) -> None:
    axes.plot(points_mm[:, 0], points_mm[:, 1], "-", color="black", linewidth=2.2, alpha=0.5 * alpha)
    axes.plot(points_mm[:, 0], points_mm[:, 1], style, color=color, linewidth=1.1, alpha=alpha)


def _alpha(points_ijk: NDArray[np.float64], panel: Panel, index: int) -> float:
    along = points_ijk[:, panel.normal]
    return 1.0 if along.min() - 0.5 <= index <= along.max() + 0.5 else OFF_SLICE_ALPHA


def _mask_outline(axes: Axes, panel: Panel, prompt: MaskPrompt, display: Grid, index: int, color: str) -> None:
    start = prompt.start_ijk(display)
    inside = index - start[panel.normal]
    if not 0 <= inside < prompt.mask.shape[panel.normal]:
        return
    spacing = np.array(display.spacing_mm)
    picture = np.pad(panel.slice_of(prompt.mask, int(inside)), 1)
    x = (np.arange(picture.shape[1]) - 1 + start[panel.across]) * spacing[panel.across]
    y = (np.arange(picture.shape[0]) - 1 + start[panel.down]) * spacing[panel.down]
    if picture.any():
        axes.contour(x, y, picture.astype(float), [0.5], colors=[color], linewidths=1.0, linestyles="dotted")
