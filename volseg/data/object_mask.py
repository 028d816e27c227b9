"""The voxels of one segmented object."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from volseg.errors import GeometryError
from volseg.geometry import Grid


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """A mask kept as the block around its voxels, so that many objects on a large image stay small (P5).

    Attributes:
        object_id: the object it belongs to; the label value in a label map.
        grid: the image's grid.
        start_ijk: index of the block's first voxel in ``grid``.
        block: bool [A, B, C], read-only; shape (0, 0, 0) for an object that is not there.
        presence: probability in [0, 1] that the object is in the image, or None where the model does not say.
    """

    object_id: int
    grid: Grid
    start_ijk: tuple[int, int, int]
    block: NDArray[np.bool_] = field(repr=False)
    presence: float | None = None

    def __post_init__(self) -> None:
        stop = np.array(self.start_ijk) + self.block.shape
        if self.block.ndim != 3 or min(self.start_ijk) < 0 or (stop > self.grid.shape).any():
            raise GeometryError(
                f"a block of shape {self.block.shape} at {self.start_ijk} does not lie in {self.grid.shape} voxels"
            )
        block = self.block.view()
        block.setflags(write=False)
        object.__setattr__(self, "block", block)

    @classmethod
    def of(
        cls,
        object_id: int,
        grid: Grid,
        mask: NDArray[np.bool_],
        presence: float | None = None,
        start_ijk: tuple[int, int, int] = (0, 0, 0),
        *,
        owned: bool = False,
    ) -> ObjectMask:
        """Cuts the block out of a mask.

        Args:
            object_id: the object it belongs to.
            grid: the image's grid.
            mask: bool array, of the grid's shape or a part of it that starts at ``start_ijk``; copied unless ``owned``.
            presence: see the class.
            start_ijk: index of the first voxel of ``mask`` in ``grid``.
            owned: nobody else writes to ``mask``, so a large block of it need not be copied.
        """
        start, stop = [], []
        for axis in range(3):
            occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            if occupied.size == 0:
                return cls(object_id, grid, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool), presence)
            start.append(int(occupied[0]))
            stop.append(int(occupied[-1]) + 1)
        cut = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        # A small block must not keep a large array alive.
        block = cut if owned and cut.size >= mask.size // 2 else np.array(cut, dtype=bool, order="C")
        first = (start[0] + start_ijk[0], start[1] + start_ijk[1], start[2] + start_ijk[2])
        return cls(object_id, grid, first, block, presence)

    @cached_property
    def voxels(self) -> int:
        """Number of voxels of the object."""
        return int(np.count_nonzero(self.block))

    @property
    def volume_ml(self) -> float:
        """Volume of the object in millilitres."""
        return self.voxels * self.grid.voxel_volume_ml

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the block lies in the grid."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.start_ijk, self.block.shape, strict=True))
        return i, j, k

    def centroid_ras_mm(self) -> NDArray[np.float64] | None:
        """Mean position of the voxels' centres, [3], or None for an empty mask."""
        if self.voxels == 0:
            return None
        return self.grid.to_ras_mm(np.argwhere(self.block).mean(axis=0) + self.start_ijk)

    def full(self) -> NDArray[np.bool_]:
        """The mask as a bool array of the grid's shape."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        mask[self.slices] = self.block
        return mask
