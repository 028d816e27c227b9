"""Masks as what changed since one that the other side has."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import ServerRefusedError
from volseg.geometry import Grid

LEVEL = 1
"""zlib's fastest: masks shrink a hundredfold at any level, and a person waits."""


def change_to_json(base: ObjectMask | None, mask: ObjectMask) -> dict[str, Any]:
    """The voxels in which ``mask`` differs from ``base``: the block around them, one bit each, zlib, base64."""
    change = mask if base is None else ObjectMask.of(mask.object_id, mask.grid, *_joined(base, mask))
    bits = zlib.compress(np.packbits(change.block).tobytes(), level=LEVEL)
    return {
        "start": [int(n) for n in change.start_ijk],
        "shape": list(change.shape),
        "bits": base64.b64encode(bits).decode("ascii"),
    }


def change_from_json(
    base: ObjectMask | None, data: Mapping[str, Any], object_id: int, grid: Grid, presence: float | None
) -> ObjectMask:
    """The mask that ``change_to_json`` was given.

    Raises:
        ServerRefusedError: the data is none of that, or lies outside the grid.
    """
    try:
        start, shape = ([int(n) for n in data[key]] for key in ("start", "shape"))
        inside = all(a >= 0 and n >= 0 and a + n <= size for a, n, size in zip(start, shape, grid.shape, strict=True))
        if not inside:
            raise ValueError(f"a block of shape {shape} at {start} does not lie in {grid.shape}")
        count = math.prod(shape)
        needed = -(-count // 8)
        raw = zlib.decompressobj().decompress(base64.b64decode(data["bits"], validate=True), needed + 1)
        if len(raw) != needed:
            raise ValueError(f"{needed} bytes of bits were expected, got {len(raw)}")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ServerRefusedError(f"the server sent a mask that cannot be understood: {error}") from error
    block = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count).astype(bool).reshape(shape)
    change = ObjectMask(object_id, grid, (start[0], start[1], start[2]), block, presence)
    if base is None:
        return change
    joined, _, first = _joined(base, change)
    return ObjectMask.of(object_id, grid, joined, presence, first)


def _joined(one: ObjectMask, other: ObjectMask) -> tuple[NDArray[np.bool_], float | None, tuple[int, int, int]]:
    """Voxels that are in one of the two only: the block around both, a presence, and the block's first voxel."""
    parts = [mask for mask in (one, other) if mask.size]
    if not parts:
        return np.zeros((0, 0, 0), dtype=bool), None, (0, 0, 0)
    start = np.min([mask.start_ijk for mask in parts], axis=0)
    stop = np.max([np.add(mask.start_ijk, mask.shape) for mask in parts], axis=0)
    block = np.zeros(stop - start, dtype=bool)
    for mask in parts:
        first = np.subtract(mask.start_ijk, start)
        block[tuple(slice(a, a + n) for a, n in zip(first, mask.shape, strict=True))] ^= mask.block
    return block, None, (int(start[0]), int(start[1]), int(start[2]))
