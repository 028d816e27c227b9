"""Remembered results, small enough to keep one for every step of a session."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from math import prod

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid

LEVEL = 1
"""zlib's fastest: masks shrink a hundredfold at any level, and a person waits."""


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """One object's mask as the model gave it, one bit a voxel, compressed.

    Attributes:
        object_id: the object it belongs to.
        grid: the image's grid.
        start_ijk: see ``ObjectMask``.
        shape: of the block around the object.
        bits: the block in C order, packed and compressed.
        presence: see ``ObjectMask``.
        seconds: wall time of the computation.
        exact: whether approximate updates were forgone.
        settings: (name, value) pairs for the provenance.
    """

    object_id: int
    grid: Grid = field(repr=False)
    start_ijk: tuple[int, int, int]
    shape: tuple[int, int, int]
    bits: bytes = field(repr=False)
    presence: float | None
    seconds: float
    exact: bool
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, mask: ObjectMask, seconds: float, *, exact: bool, settings: tuple[tuple[str, str], ...] = ()
    ) -> ObjectResult:
        """Packs a mask."""
        bits = zlib.compress(np.packbits(mask.block).tobytes(), level=LEVEL)
        return cls(mask.object_id, mask.grid, mask.start_ijk, mask.shape, bits, mask.presence, seconds, exact, settings)

    def mask(self) -> ObjectMask:
        """The mask again, bit for bit."""
        raw = np.frombuffer(zlib.decompress(self.bits), dtype=np.uint8)
        block = np.unpackbits(raw, count=prod(self.shape)).astype(bool).reshape(self.shape)
        return ObjectMask(self.object_id, self.grid, self.start_ijk, block, self.presence)
