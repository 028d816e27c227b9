"""Three planes through each object, as a PNG."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import LabelMap
from volseg.data.modality import Modality
from volseg.errors import GeometryError
from volseg.geometry import Grid
from volseg.overlay.display import DISPLAY_AXCODES, PANELS, Panel, to_display
from volseg.overlay.prompt_marks import draw_prompts
from volseg.overlay.rows import Row, plan_row
from volseg.prompts import PromptSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

MAX_ROWS = 12
"""Objects beyond these are not drawn, only counted."""

PANEL_INCHES = 3.2
ROW_TITLE_INCHES = 0.3
DPI = 110
FILL_ALPHA = 0.30
OTHERS_ALPHA = 0.16
"""Objects of other rows are drawn without outline and fainter."""

SCALE_BARS_MM = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw_overlay(
    image: MetaTensor,
    labelmap: LabelMap,
    prompts: PromptSet | None = None,
    *,
    window: str | None = None,
    modality: Modality | None = None,
) -> bytes:
    """Draws three planes through the middle of each object.

    The view is the radiologist's (the patient's right on the left) whatever the orientation on disk. Each panel has
    letters at its edges and a scale bar; the object is outlined and filled in its colour, prompts are green (positive)
    and red (negative), faint where they lie on other slices.

    Args:
        image: [1, I, J, K].
        labelmap: on the image's grid.
        prompts: on any grid; drawn with the object of the same id.
        window: see ``EncodeOptions.window``.
        modality: see ``EncodeOptions.modality``.

    Returns:
        A PNG, the same bytes for the same input.

    Raises:
        GeometryError: the label map lies on another grid than the image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from volseg.transforms.windows import choose_window

    grid = Grid.of(image)
    if not labelmap.grid.same_as(grid):
        raise GeometryError(f"the label map has {labelmap.grid!r}, the image {grid!r}; they must lie on one grid")
    display = grid.reoriented(DISPLAY_AXCODES)
    chosen = choose_window(image, window, modality)
    volume = to_display(np.asarray(image[0]), grid)
    layers = [to_display(layer, grid) for layer in labelmap.layers]
    said = {item.object_id: item for item in prompts.moved(display).objects} if prompts is not None else {}
    shown = labelmap.labels[:MAX_ROWS]
    rows = [plan_row(labelmap, label, display, said.get(label.value)) for label in shown]

    count = max(1, len(rows))
    width, row_height = 3 * PANEL_INCHES, PANEL_INCHES + ROW_TITLE_INCHES
    height = count * row_height + ROW_TITLE_INCHES
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    for number, row in enumerate(rows):
        top = 1.0 - number * row_height / height
        color = _color(row.label.color_rgb)
        figure.text(0.012, top - 0.22 / height, row.title, color=color, fontsize=11, va="baseline")
        for column, panel in enumerate(PANELS):
            bottom = top - row_height / height
            axes = figure.add_axes((column / 3 + 0.004, bottom, 1 / 3 - 0.008, PANEL_INCHES / height))
            _draw_panel(axes, panel, row, display, volume, layers, labelmap, (chosen.low, chosen.high))
    left_out = len(labelmap.labels) - len(shown)
    footer = f"window {chosen.low:g} to {chosen.high:g}"
    if not rows:
        footer = "no object;   " + footer
    if left_out:
        footer += f";   {left_out} more objects are not drawn"
        logger.warning("the overlay shows %d objects, %d more are not drawn", MAX_ROWS, left_out)
    figure.text(0.012, 0.1 / height, footer, color="0.7", fontsize=8, va="baseline")
    buffer = io.BytesIO()
    # Without the library's version the bytes depend on the input alone.
    figure.savefig(buffer, format="png", facecolor="black", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(
    axes: Axes,
    panel: Panel,
    row: Row,
    display: Grid,
    volume: NDArray[Any],
    layers: list[NDArray[Any]],
    labelmap: LabelMap,
    window: tuple[float, float],
) -> None:
    """One plane of one object; coordinates are mm from the first voxel's centre."""
    index = row.centre[panel.normal]
    dx, dy = display.spacing_mm[panel.across], display.spacing_mm[panel.down]
    picture = panel.slice_of(volume, index).astype(np.float32)
    height, width = picture.shape
    extent = (-0.5 * dx, (width - 0.5) * dx, (height - 0.5) * dy, -0.5 * dy)
    axes.set_facecolor("black")
    axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="nearest")
    for label in labelmap.labels:
        mask = panel.slice_of(layers[label.layer], index) == label.value
        if not mask.any():
            continue
        is_rows = label.value == row.label.value
        fill = np.zeros((height, width, 4), dtype=np.float32)
        fill[mask] = (*_color(label.color_rgb), FILL_ALPHA if is_rows else OTHERS_ALPHA)
        axes.imshow(fill, extent=extent, interpolation="nearest")
        if is_rows:
            x, y = (np.arange(-1, width + 1) * dx), (np.arange(-1, height + 1) * dy)
            padded = np.pad(mask, 1).astype(float)
            axes.contour(x, y, padded, [0.5], colors=[_color(label.color_rgb)], linewidths=1.2)
    if row.prompts is not None:
        draw_prompts(axes, panel, row.prompts, display, index)
    middle_x, middle_y = row.centre[panel.across] * dx, row.centre[panel.down] * dy
    half = row.view_mm / 2
    x0 = _shifted_inside(middle_x - half, row.view_mm, extent[0], extent[1])
    y0 = _shifted_inside(middle_y - half, row.view_mm, extent[3], extent[2])
    axes.set_xlim(x0, x0 + row.view_mm)
    axes.set_ylim(y0 + row.view_mm, y0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.35")
    _draw_letters(axes, panel)
    _draw_scale_bar(axes, row.view_mm)


def _shifted_inside(start: float, length: float, low: float, high: float) -> float:
    """Start of a section that shows no empty border where the image is large enough, else is centred on it."""
    if high - low <= length:
        return (low + high - length) / 2
    return min(max(start, low), high - length)


def _draw_letters(axes: Axes, panel: Panel) -> None:
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"),
              (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))  # fmt: skip
    for letter, (x, y, across, along) in zip(panel.letters, places, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=across, va=along, color="#ffe66d", fontsize=11,
                  fontweight="bold", path_effects=_outline())  # fmt: skip
    axes.text(0.98, 0.985, str(panel.plane), transform=axes.transAxes, ha="right", va="top", color="0.85",
              fontsize=8, path_effects=_outline())  # fmt: skip


def _draw_scale_bar(axes: Axes, view_mm: float) -> None:
    length_mm = max((bar for bar in SCALE_BARS_MM if bar <= 0.3 * view_mm), default=SCALE_BARS_MM[0])
    part = length_mm / view_mm
    axes.plot([0.04, 0.04 + part], [0.035, 0.035], color="white", linewidth=2.5, transform=axes.transAxes,
              solid_capstyle="butt", path_effects=_outline(), scalex=False, scaley=False)  # fmt: skip
    axes.text(0.04, 0.05, f"{length_mm} mm", transform=axes.transAxes, color="white", fontsize=8, va="bottom",
              path_effects=_outline())  # fmt: skip


def _outline() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.0, foreground="black")]


def _color(color_rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in color_rgb)
    return red, green, blue
