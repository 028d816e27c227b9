"""The voxels of one segmented object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from volseg.errors import GeometryError
from volseg.geometry import Grid

SLAB_VOXELS = 16 << 20
"""Voxels that are unpacked together where a whole mask is gone through; more would only take memory (P5)."""


@dataclass(frozen=True, eq=False, init=False)
class ObjectMask:
    """A mask kept as the block around its voxels, one bit a voxel: many objects on a large image stay small (P5).

    Attributes:
        object_id: the object it belongs to; the label value in a label map.
        grid: the image's grid.
        start_ijk: index of the block's first voxel in ``grid``.
        shape: voxels of the block along each axis; (0, 0, 0) for an object that is not there.
        bits: uint8 [A, B, C / 8 rounded up], the block as ``numpy.packbits`` along its last axis; read-only.
        presence: probability in [0, 1] that the object is in the image, or None where the model does not say.
    """

    object_id: int
    grid: Grid
    start_ijk: tuple[int, int, int]
    shape: tuple[int, int, int]
    bits: NDArray[np.uint8] = field(repr=False)
    presence: float | None = None

    def __init__(
        self,
        object_id: int,
        grid: Grid,
        start_ijk: tuple[int, int, int],
        block: NDArray[np.bool_],
        presence: float | None = None,
    ) -> None:
        """Packs a block of voxels, bool [A, B, C]; see the class for the rest."""
        stop = np.array(start_ijk) + block.shape
        if block.ndim != 3 or min(start_ijk) < 0 or (stop > grid.shape).any():
            raise GeometryError(f"a block of shape {block.shape} at {start_ijk} does not lie in {grid.shape} voxels")
        self._set(object_id, grid, start_ijk, block.shape, _packed(block), presence)

    def _set(
        self,
        object_id: int,
        grid: Grid,
        start_ijk: tuple[int, int, int],
        shape: tuple[int, ...],
        bits: NDArray[np.uint8],
        presence: float | None,
    ) -> None:
        bits.setflags(write=False)
        values = {"object_id": object_id, "grid": grid, "start_ijk": start_ijk, "shape": shape, "bits": bits}
        for name, value in {**values, "presence": presence}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        object_id: int,
        grid: Grid,
        mask: NDArray[np.bool_],
        presence: float | None = None,
        start_ijk: tuple[int, int, int] = (0, 0, 0),
    ) -> Self:
        """Cuts the block out of a mask.

        Args:
            object_id: the object it belongs to.
            grid: the image's grid.
            mask: bool array, of the grid's shape or a part of it that starts at ``start_ijk``.
            presence: see the class.
            start_ijk: index of the first voxel of ``mask`` in ``grid``.
        """
        start, stop = [], []
        for axis in range(3):
            occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            if occupied.size == 0:
                return cls(object_id, grid, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool), presence)
            start.append(int(occupied[0]))
            stop.append(int(occupied[-1]) + 1)
        cut = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        first = (start[0] + start_ijk[0], start[1] + start_ijk[1], start[2] + start_ijk[2])
        return cls(object_id, grid, first, cut, presence)

    def numbered(self, object_id: int) -> ObjectMask:
        """The same voxels under another number."""
        other = object.__new__(ObjectMask)
        other._set(object_id, self.grid, self.start_ijk, self.shape, self.bits, self.presence)
        return other

    def union(self, other: ObjectMask) -> ObjectMask:
        """The voxels of either, with this mask's number and presence; ``other`` is on the same grid."""
        if 0 in (self.size, other.size):
            larger = other if self.size == 0 else self
            return ObjectMask(self.object_id, self.grid, larger.start_ijk, larger.block, self.presence)
        start = np.minimum(self.start_ijk, other.start_ijk)
        stop = np.maximum(np.add(self.start_ijk, self.shape), np.add(other.start_ijk, other.shape))
        block = np.zeros(stop - start, dtype=bool)
        for mask in (self, other):
            first = (np.array(mask.start_ijk) - start).tolist()
            inside = block[tuple(slice(a, a + n) for a, n in zip(first, mask.shape, strict=True))]
            for where, slab in mask.slabs():
                inside[where] |= slab
        i, j, k = start.tolist()
        return ObjectMask(self.object_id, self.grid, (i, j, k), block, self.presence)

    @property
    def size(self) -> int:
        """Number of voxels of the block, those of the object and the others."""
        return prod(self.shape)

    @cached_property
    def voxels(self) -> int:
        """Number of voxels of the object."""
        return sum(int(np.count_nonzero(slab)) for _, slab in self.slabs())

    @property
    def volume_ml(self) -> float:
        """Volume of the object in millilitres."""
        return self.voxels * self.grid.voxel_volume_ml

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the block lies in the grid."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.start_ijk, self.shape, strict=True))
        return i, j, k

    @property
    def block(self) -> NDArray[np.bool_]:
        """All voxels, bool [A, B, C], read-only. They are unpacked each time: ask a large mask for parts or slabs."""
        block = self.part((slice(None), slice(None), slice(None)))
        block.setflags(write=False)
        return block

    def part(self, where: tuple[slice, ...]) -> NDArray[np.bool_]:
        """A part of the block, given by slices without steps: a bool array of its own."""
        i, j, k = where
        first, stop, _ = k.indices(self.shape[2])
        bits = self.bits[i, j, first // 8 : -(-stop // 8)]
        voxels = np.unpackbits(bits, axis=-1)[..., first % 8 : first % 8 + max(0, stop - first)]
        return voxels.view(np.bool_)

    def region(self, where: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
        """A part of the grid, given by its first and last voxels: a bool array of its own."""
        voxels = np.zeros([one.stop - one.start for one in where], dtype=bool)
        low = [max(one.start, first) for one, first in zip(where, self.start_ijk, strict=True)]
        high = [min(one.stop, a + n) for one, a, n in zip(where, self.start_ijk, self.shape, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            there = tuple(slice(a - w.start, b - w.start) for a, b, w in zip(low, high, where, strict=True))
            here = tuple(slice(a - n, b - n) for a, b, n in zip(low, high, self.start_ijk, strict=True))
            voxels[there] = self.part(here)
        return voxels

    def slabs(self) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """The block in parts along its first axis: where in the block, and the voxels."""
        depth = max(1, SLAB_VOXELS // max(1, self.shape[1] * self.shape[2]))
        for begin in range(0, self.shape[0], depth):
            where = slice(begin, min(begin + depth, self.shape[0]))
            yield where, self.part((where, slice(None), slice(None)))

    def centroid_ras_mm(self) -> NDArray[np.float64] | None:
        """Mean position of the voxels' centres, [3], or None for an empty mask."""
        if self.voxels == 0:
            return None
        return self.grid.to_ras_mm(np.argwhere(self.block).mean(axis=0) + self.start_ijk)

    def full(self) -> NDArray[np.bool_]:
        """The mask as a bool array of the grid's shape."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        self.write(mask, True)
        return mask

    def write(self, target: NDArray[Any], value: Any, *, only_free: bool = False) -> None:
        """Gives the object's voxels a value in an array of the grid's shape.

        Args:
            target: written to.
            value: what the voxels get.
            only_free: leave voxels that are not zero.
        """
        inside = target[self.slices]
        for where, slab in self.slabs():
            there = inside[where]
            np.copyto(there, there.dtype.type(value), where=slab & (there == 0) if only_free else slab)

    def overlaps(self, other: NDArray[Any]) -> bool:
        """Whether any of the object's voxels is not zero in an array of the grid's shape."""
        inside = other[self.slices]
        return any(bool((slab & (inside[where] != 0)).any()) for where, slab in self.slabs())


def _packed(block: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """``numpy.packbits`` along the last axis, plane by plane, so that no copy of a large block is made."""
    bits = np.empty((*block.shape[:2], -(-block.shape[2] // 8)), dtype=np.uint8)
    for plane, voxels in zip(bits, block, strict=True):
        plane[...] = np.packbits(voxels, axis=-1)
    return bits
