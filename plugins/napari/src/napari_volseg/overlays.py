"""The layers that the plugin adds: the result, and what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Points, Vectors
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_volseg.bridge import by_napari
from napari_volseg.geometry import AFFINE_KEY, LayerVolume, overlay_affine, world_from_data
from napari_volseg.handles import NO_LINES, PromptShape, shape_of
from volseg.sessions import HistoryEntry, SessionState

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

OWNER_KEY = "volseg_owner"
"""In the metadata of our layers, so that they are not taken for images or masks of the person."""

POSITIVE_RGBA = np.array([0.25, 0.95, 0.35, 1.0])
NEGATIVE_RGBA = np.array([1.0, 0.25, 0.25, 1.0])
DRAFT_RGBA = np.array([1.0, 0.9, 0.2, 1.0])
POINT_PIXELS = 9
"""Diameter of a point on the screen when it is drawn."""


def is_ours(layer: Layer) -> bool:
    """Whether the plugin made the layer."""
    return OWNER_KEY in layer.metadata


@dataclass(frozen=True, eq=False)
class Marks:
    """What was said, as it is drawn.

    Attributes:
        points_ijk: [N, 3].
        point_colors: [N, 4].
        sizes: of the points, [N] in voxels.
        lines_ijk: [M, 2, 3].
        line_colors: [M, 4].
    """

    points_ijk: NDArray[np.float64]
    point_colors: NDArray[np.float64]
    sizes: NDArray[np.float64]
    lines_ijk: NDArray[np.float64]
    line_colors: NDArray[np.float64]

    def same_lines(self, other: Marks) -> bool:
        """Whether both have the same lines."""
        return np.array_equal(self.lines_ijk, other.lines_ijk) and np.array_equal(self.line_colors, other.line_colors)


class Overlays:
    """Three layers over an image layer, with its transforms: result, points, lines.

    Args:
        viewer: they come into, one at a time (``add_next``).
        layer: the image; only read.
        volume: of the image.
        array: label values [I, J, K], shown as they are; not copied.
    """

    def __init__(self, viewer: ViewerModel, layer: Layer, volume: LayerVolume, array: NDArray[Any]) -> None:
        self._viewer = viewer
        self._volume = volume
        self._selected: set[Layer] | None = None
        self._hidden: frozenset[int] = frozenset()
        self._colors: dict[int, tuple[int, int, int]] = {}
        self._has_draft = False
        self._shapes: dict[tuple[HistoryEntry, int | None], PromptShape] = {}
        self._marks = Marks(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 2, 3)), np.zeros((0, 4)))
        affine = overlay_affine(world_from_data(layer), volume.fixed)
        common = {"affine": affine, "units": layer.units, "axis_labels": layer.axis_labels}
        ndim = volume.ndim
        self.labels = Labels(
            volume.in_layer(array),
            name=f"{layer.name}: objects",
            opacity=0.55,
            metadata={OWNER_KEY: "objects", AFFINE_KEY: volume.grid.affine_ras},
            **common,
        )
        self.lines = Vectors(
            np.zeros((0, 2, ndim)),
            ndim=ndim,
            name=f"{layer.name}: strokes",
            edge_width=self._pixel(1.2),
            vector_style="line",
            metadata={OWNER_KEY: "strokes"},
            **common,
        )
        self.points = Points(
            np.zeros((0, ndim)),
            ndim=ndim,
            name=f"{layer.name}: points",
            size=self._pixel(POINT_PIXELS),
            border_color="black",
            border_width=0.12,
            metadata={OWNER_KEY: "points"},
            **common,
        )

    def add_next(self) -> bool:
        """Puts one layer more into the viewer; napari needs a tenth of a second for each, so they come one by one.

        Returns:
            Whether more are to come.
        """
        layers = self._viewer.layers
        missing = [layer for layer in self.layers if layer not in layers]
        if missing:
            if self._selected is None:
                self._selected = set(layers.selection)
            with by_napari("adds a layer"):
                self._viewer.add_layer(missing[0])
        if len(missing) > 1:
            return True
        if self._selected is not None:
            # Adding a layer selects it; the person's choice comes back.
            layers.selection = {layer for layer in self._selected if layer in layers}
            self._selected = None
        return False

    @property
    def layers(self) -> tuple[Labels, Vectors, Points]:
        """The three layers."""
        return self.labels, self.lines, self.points

    def _pixel(self, count: float) -> float:
        """Voxels that are ``count`` pixels on a screen that shows the image about 700 pixels high."""
        return max(1e-3, count * max(self._volume.grid.shape) / 700)

    def follow(self, layer: Layer) -> None:
        """Takes over the image's transforms, as they are now."""
        affine = overlay_affine(world_from_data(layer), self._volume.fixed)
        for ours in self.layers:
            ours.affine = affine

    def show_array(self, array: NDArray[Any]) -> None:
        """Shows another array."""
        self.labels.data = self._volume.in_layer(array)

    def refresh(self) -> None:
        """Shows what was written into the array."""
        self.labels.refresh(thumbnail=False, highlight=False, extent=False)

    def show_colors(self, state: SessionState, hidden: frozenset[int]) -> None:
        """Gives every object its colour; hidden ones are transparent."""
        colors = {item.object_id: item.color_rgb for item in state.objects}
        if (colors, hidden) == (self._colors, self._hidden):
            return
        self._colors, self._hidden = colors, hidden
        table: dict[int | None, NDArray[np.float32]] = {None: np.zeros(4, np.float32), 0: np.zeros(4, np.float32)}
        for number, rgb in colors.items():
            alpha = 0.0 if number in hidden else 1.0
            table[number] = np.array([*(part / 255 for part in rgb), alpha], np.float32)
        self.labels.colormap = DirectLabelColormap(color_dict=table)

    def show_prompts(self, state: SessionState, active: int | None, entry_id: int | None, axis: int | None) -> None:
        """Draws what was said; the active object's prompts strongly, the others' faintly."""
        points, point_colors, lines, line_colors, sizes = [], [], [NO_LINES], [np.zeros((0, 4))], []
        keys = [(entry, axis) for entry in state.history]
        self._shapes = {key: self._shapes.get(key) or shape_of(key[0].prompt, self._volume.grid, axis) for key in keys}
        for entry in state.history:
            shape = self._shapes[entry, axis]
            rgba = (POSITIVE_RGBA if entry.prompt.positive else NEGATIVE_RGBA).copy()
            rgba[3] = 1.0 if entry.object_id == active else 0.35
            if shape.point_ijk is not None:
                points.append(shape.point_ijk)
                point_colors.append(rgba)
                sizes.append(self._pixel(POINT_PIXELS * (1.6 if entry.entry_id == entry_id else 1.0)))
            lines.append(shape.lines_ijk)
            line_colors.append(np.tile(rgba, (len(shape.lines_ijk), 1)))
        old, self._marks = (
            self._marks,
            Marks(
                np.array(points).reshape(-1, 3),
                np.array(point_colors).reshape(-1, 4),
                np.array(sizes),
                np.concatenate(lines),
                np.concatenate(line_colors),
            ),
        )
        self._set_points(old, self._marks)
        if self._has_draft or not old.same_lines(self._marks):
            self._has_draft = False
            self._set_lines(self._marks.lines_ijk, self._marks.line_colors)

    def show_draft(self, lines_ijk: NDArray[np.float64]) -> None:
        """Draws what is being drawn, [N, 2, 3], besides the rest."""
        if not len(lines_ijk) and not self._has_draft:
            return
        draft = np.tile(DRAFT_RGBA, (len(lines_ijk), 1))
        self._has_draft = len(lines_ijk) > 0
        self._set_lines(
            np.concatenate([self._marks.lines_ijk, lines_ijk]), np.concatenate([self._marks.line_colors, draft])
        )

    def _set_points(self, old: Marks, new: Marks) -> None:
        """Tells napari what changed; each of the three takes it some milliseconds."""
        moved = not np.array_equal(old.points_ijk, new.points_ijk)
        if moved:
            self.points.data = self._in_slice(new.points_ijk)
        if not len(new.points_ijk):
            return
        if moved or not np.array_equal(old.point_colors, new.point_colors):
            self.points.face_color = new.point_colors
        if moved or not np.array_equal(old.sizes, new.sizes):
            self.points.size = new.sizes

    def _set_lines(self, lines_ijk: NDArray[np.float64], colors: NDArray[np.float64]) -> None:
        ends = self._in_slice(lines_ijk)
        # A vector is a start and a direction.
        self.lines.data = np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)
        if len(ends):
            self.lines.edge_color = colors

    def _in_slice(self, points_ijk: NDArray[np.float64]) -> NDArray[np.float64]:
        """Data coordinates in our layers, whose fixed axes have the one index 0."""
        data = self._volume.data_of(points_ijk)
        for axis in self._volume.fixed:
            data[..., axis] = 0
        return data

    def remove(self) -> None:
        """Takes the layers out of the viewer."""
        for layer in self.layers:
            if layer in self._viewer.layers:
                with by_napari("removes a layer"):
                    self._viewer.layers.remove(layer)


def user_layers(viewer: ViewerModel, kind: type) -> list[Layer]:
    """The person's layers of a kind."""
    return [layer for layer in viewer.layers if isinstance(layer, kind) and not is_ours(layer)]


def presence_text(presence: float | None) -> str:
    """For a table: percent, or a dash where the model does not say."""
    return "–" if presence is None else f"{presence:.0%}"


def volume_text(volume_ml: float) -> str:
    """For a table, with as many digits as tell something."""
    return f"{volume_ml:.1f}" if volume_ml >= 10 else f"{volume_ml:.3g}"
