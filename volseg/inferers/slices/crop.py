"""The part of a slice that is shown to the network, and where its pixels lie there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Crop:
    """A rectangle of whole pixels, the same on every slice; it may reach beyond the slice, where it shows black.

    Attributes:
        row: first row.
        column: first column.
        rows: height in pixels.
        columns: width in pixels.
    """

    row: int
    column: int
    rows: int
    columns: int

    @classmethod
    def whole(cls, slice_shape: tuple[int, int]) -> Crop:
        """The whole slice, stretched to the network's square as SAM 2 does."""
        return cls(0, 0, *slice_shape)

    def step_pixels(self, spacing_mm: tuple[float, float, float], size: int) -> float:
        """The distance between neighbouring slices in pixels of a square frame of side ``size``.

        Args:
            spacing_mm: of slices, rows and columns.
            size: side of the frame that the crop is resized to.
        """
        side_mm = float(np.sqrt(self.rows * spacing_mm[1] * self.columns * spacing_mm[2]))
        return spacing_mm[0] * size / side_mm

    @classmethod
    def around(
        cls, centre_rc: ArrayLike, side_mm: float, spacing_mm: tuple[float, float], slice_shape: tuple[int, int]
    ) -> Crop:
        """A square in millimetres, so that tissue keeps its shape.

        Side and centre are rounded to steps that grow with the side, so that a slightly different prompt gives the
        same crop and encoded slices can be used again.

        Args:
            centre_rc: row and column of the centre.
            side_mm: the square's side.
            spacing_mm: of rows and columns.
            slice_shape: rows and columns of the slice; a square that would hold all of it is the whole slice's square.
        """
        spacing = np.array(spacing_mm)
        extent_mm = np.array(slice_shape) * spacing
        steps_per_octave = 5
        side_mm = float(2 ** (np.ceil(steps_per_octave * np.log2(side_mm) - 1e-6) / steps_per_octave))
        if side_mm >= extent_mm.max():
            side_mm = float(extent_mm.max())
            centre = (np.array(slice_shape) - 1) / 2
        else:
            step = np.maximum(1, np.round(side_mm / 16 / spacing))
            centre = np.round(np.asarray(centre_rc, dtype=np.float64) / step) * step
        size = np.maximum(2, np.round(side_mm / spacing)).astype(int)
        first = np.round(centre - (size - 1) / 2).astype(int)
        return cls(int(first[0]), int(first[1]), int(size[0]), int(size[1]))

    def covers(self, slice_shape: tuple[int, int]) -> bool:
        """Whether every pixel of the slice is shown."""
        return (
            self.row <= 0
            and self.column <= 0
            and self.row + self.rows >= slice_shape[0]
            and self.column + self.columns >= slice_shape[1]
        )

    def to_frame_xy(self, positions_rc: ArrayLike, size: int) -> NDArray[np.float64]:
        """Moves positions [..., 2] (row, column) to (x, y) in a frame of ``size`` x ``size`` pixels."""
        positions = np.asarray(positions_rc, dtype=np.float64)
        scaled = (positions - (self.row, self.column) + 0.5) * size / np.array([self.rows, self.columns]) - 0.5
        frame_xy: NDArray[np.float64] = scaled[..., ::-1]
        return frame_xy

    def inside(self, slice_shape: tuple[int, int]) -> tuple[slice, slice, slice, slice]:
        """Rows and columns of the slice that are shown, and the rows and columns of the crop where they are."""
        row0, row1 = max(0, self.row), min(slice_shape[0], self.row + self.rows)
        column0, column1 = max(0, self.column), min(slice_shape[1], self.column + self.columns)
        return (
            slice(row0, row1),
            slice(column0, column1),
            slice(row0 - self.row, row1 - self.row),
            slice(column0 - self.column, column1 - self.column),
        )
