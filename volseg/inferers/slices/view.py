"""A volume as a stack of slices in one display orientation, whatever the file's axis order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid, Plane

if TYPE_CHECKING:
    from monai.data import MetaTensor

DISPLAY_AXCODES: dict[Plane, str] = {Plane.AXIAL: "SPL", Plane.CORONAL: "PIL", Plane.SAGITTAL: "LIP"}
"""Directions of (slice, row, column): the radiological display. The patient's right is at the left of axial and coronal
slices, anterior at the top of axial and at the left of sagittal ones, superior at the top of the others."""


@dataclass(frozen=True)
class SliceView:
    """The slices of one plane.

    Indices in a view are (slice, row, column), floats with whole numbers at voxel centres.

    Attributes:
        source: the image's grid.
        plane: the plane of the slices.
        grid: the same voxels with axes (slice, row, column).
    """

    source: Grid
    plane: Plane
    grid: Grid

    @classmethod
    def of(cls, source: Grid, plane: Plane) -> SliceView:
        """The view of an image's grid in ``plane``."""
        return cls(source, plane, source.reoriented(DISPLAY_AXCODES[plane]))

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.grid.shape[0]

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.grid.shape[1], self.grid.shape[2]

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Distance between rows, and between columns."""
        return self.grid.spacing_mm[1], self.grid.spacing_mm[2]

    def array(self, image: MetaTensor) -> NDArray[Any]:
        """The image's voxels [slice, row, column], without a copy."""
        return self._to_view(np.asarray(image[0].detach().cpu()))

    def _to_view(self, voxels: NDArray[Any]) -> NDArray[Any]:
        axes, flips = self._axes()
        view = voxels.transpose(axes)
        return view[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]

    def new_block(
        self, start: tuple[int, int, int], shape: tuple[int, int, int], dtype: type[np.generic]
    ) -> tuple[NDArray[Any], NDArray[Any], tuple[int, int, int]]:
        """Zeros for a part of the volume, to be filled in the view and used in the image's own axes.

        Args:
            start: index of the part's first voxel in the view.
            shape: slices, rows and columns of the part.
            dtype: of the voxels.

        Returns:
            The block with axes slice, row, column; the same memory with axes i, j, k, contiguous; and the index of the
            latter's first voxel in the image's grid.
        """
        axes, flips = self._axes()
        source_shape, first = [0, 0, 0], [0, 0, 0]
        for view_axis, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
            end = start[view_axis] + shape[view_axis]
            source_shape[axis] = shape[view_axis]
            first[axis] = self.source.shape[axis] - end if flip else start[view_axis]
        block = np.zeros(source_shape, dtype=dtype)
        return self._to_view(block), block, (first[0], first[1], first[2])

    def _axes(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """For slice, row, column: the image's axis, and whether it runs the other way."""
        matrix = self.source.reorientation(DISPLAY_AXCODES[self.plane])[:3, :3]
        axes = np.abs(matrix).argmax(axis=0)
        flips = matrix.sum(axis=0) < 0
        return (int(axes[0]), int(axes[1]), int(axes[2])), (bool(flips[0]), bool(flips[1]), bool(flips[2]))
