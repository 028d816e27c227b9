"""The tools a person draws prompts with, and which of them a model serves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.models.card import ModelCard
from volseg.prompts import Box, Lasso, Point, Prompt, PromptKind, Scribble


class Tool(StrEnum):
    """What the mouse does on the picture."""

    POINT = "point"
    BOX = "box"
    SCRIBBLE = "scribble"
    LASSO = "lasso"
    BRUSH = "brush"
    MOVE = "move"


@dataclass(frozen=True)
class ToolDescription:
    """Attributes: label, on the button; key, its shortcut; kind, of the prompt it makes; hint, how it is used."""

    label: str
    key: str
    kind: PromptKind | None
    hint: str


TOOLS: dict[Tool, ToolDescription] = {
    Tool.POINT: ToolDescription("Point", "P", PromptKind.POINT, "Click on the object; hold Ctrl to say the opposite."),
    Tool.BOX: ToolDescription("Box", "B", PromptKind.BOX_2D, "Drag a box around the object on this slice."),
    Tool.SCRIBBLE: ToolDescription("Scribble", "S", PromptKind.SCRIBBLE, "Drag a line through the object."),
    Tool.LASSO: ToolDescription("Lasso", "L", PromptKind.LASSO, "Drag around the object; the outline closes itself."),
    Tool.BRUSH: ToolDescription(
        "Brush", "W", PromptKind.MASK, "Paint on the result, or erase from it with the sign on negative."
    ),
    Tool.MOVE: ToolDescription("Move", "M", None, "Drag a prompt, or a corner of a box, to another place."),
}


def kind_name(kind: PromptKind) -> str:
    """As people read it, such as ``2D box``."""
    return {PromptKind.BOX_2D: "2D box", PromptKind.BOX_3D: "3D box"}.get(kind, str(kind))


def reason_against(tool: Tool, card: ModelCard, positive: bool) -> str | None:
    """Why a model does not serve a tool, None if it does."""
    kind = TOOLS[tool].kind
    if kind is None:
        return None
    if tool is Tool.BRUSH:
        return None if kind in card.positive else f"{card.name} takes no masks, so it cannot be corrected by brush"
    if kind in (card.positive if positive else card.negative):
        return None
    sign = "positive" if positive else "negative"
    served = ", ".join(sorted(map(kind_name, card.positive if positive else card.negative)))
    return f"{card.name} takes no {sign} {TOOLS[tool].label.lower()}; {sign} prompts it takes: {served or 'none'}"


def prompt_of_stroke(
    tool: Tool, stroke_ijk: NDArray[np.float64], grid: Grid, axis: int | None, positive: bool
) -> Prompt:
    """What a drawing means.

    Args:
        tool: it was drawn with.
        stroke_ijk: where the mouse was, [N, 3] in voxel index.
        grid: the image's.
        axis: the voxel axis that the slice on the screen is perpendicular to, None where it lies oblique.
        positive: the sign of the prompt.

    Raises:
        PromptError: the drawing is too small, or needs a slice of the image and the screen shows an oblique one.
    """
    first, last = stroke_ijk[0], stroke_ijk[-1]
    if tool is Tool.POINT:
        return Point((first[0], first[1], first[2]), Frame.IJK, positive)
    if axis is None and tool in (Tool.BOX, Tool.LASSO):
        raise PromptError(
            f"the screen shows a slice oblique to the image's voxels, where a {tool} cannot lie; "
            "use points or scribbles, or undo the layer's rotation"
        )
    points = stroke_ijk.copy()
    if axis is not None:
        points[:, axis] = grid.nearest_voxels(first)[axis]
    if tool is Tool.BOX:
        corners = np.clip(grid.nearest_voxels(points[[0, -1]]), 0, np.array(grid.shape) - 1)
        if (corners[0] == corners[1]).sum() > 1:
            raise PromptError("the box is too small; drag from one corner to the opposite one")
        return Box(tuple(corners[0].tolist()), tuple(corners[1].tolist()), Frame.IJK, positive)
    kept = points[np.concatenate([[True], (np.abs(np.diff(points, axis=0)) > 1e-6).any(axis=1)])]
    if tool is Tool.SCRIBBLE:
        if len(kept) < 2:
            return Point((last[0], last[1], last[2]), Frame.IJK, positive)
        return Scribble(tuple(map(tuple, kept.tolist())), Frame.IJK, positive)
    if len(kept) < 3:
        raise PromptError("the outline is too small; drag around the object")
    return Lasso(tuple(map(tuple, kept.tolist())), Frame.IJK, positive)


def extended_box(box: Box, axis: int, index: int) -> Box:
    """A box made to reach slice ``index`` along ``axis``.

    Raises:
        PromptError: the box is flat along another axis.
    """
    if box.flat_axis not in (None, axis):
        raise PromptError("the box lies in another plane; turn the view to that plane")
    low, high = list(box.low), list(box.high)
    low[axis], high[axis] = min(low[axis], index), max(high[axis], index)
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]), box.frame, box.positive)
