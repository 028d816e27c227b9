"""The radiologist's view: which voxels stand where in a picture, whatever the file's orientation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import Grid, Plane

DISPLAY_AXCODES = "LPI"
"""Pictures run towards the patient's left, posterior and inferior: the patient's right is on the picture's left."""


@dataclass(frozen=True)
class Panel:
    """How one plane is drawn.

    Attributes:
        plane: the anatomical plane.
        normal: display axis (0 left, 1 posterior, 2 inferior) the slices are stacked along.
        across: display axis that runs to the right of the picture.
        down: display axis that runs down the picture.
        letters: what lies at the left, right, top and bottom edge.
    """

    plane: Plane
    normal: int
    across: int
    down: int
    letters: tuple[str, str, str, str]

    def slice_of(self, volume: NDArray[Any], index: int) -> NDArray[Any]:
        """Slice ``index`` of a volume in display order as a picture, [rows, columns]."""
        picture = np.take(volume, index, axis=self.normal)
        # The remaining axes are in ascending order and ``across`` is always the smaller one.
        result: NDArray[Any] = picture.T
        return result


PANELS = (
    Panel(Plane.AXIAL, normal=2, across=0, down=1, letters=("R", "L", "A", "P")),
    Panel(Plane.CORONAL, normal=1, across=0, down=2, letters=("R", "L", "S", "I")),
    Panel(Plane.SAGITTAL, normal=0, across=1, down=2, letters=("A", "P", "S", "I")),
)


def to_display(volume: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """A view of ``volume`` [I, J, K] with its axes in display order; nothing is copied."""
    matrix = grid.reorientation(DISPLAY_AXCODES)[:3, :3]
    order = np.abs(matrix).argmax(axis=0)
    view = volume.transpose(*order)
    flips = tuple(axis for axis in range(3) if matrix[order[axis], axis] < 0)
    return np.flip(view, flips)
