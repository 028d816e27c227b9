"""An array that is filled piece by piece and widens when a value asks for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import ImageReadError

_SIGNED_ABOVE = {2: np.int32, 4: np.int64, 8: np.int64}


def tensor_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """The type numbers have in a tensor.

    Torch cannot compute with uint16, uint32 and uint64: they become int32, int64 and int64. Floats become float32.
    """
    if stored.kind == "f":
        return np.dtype(np.float32)
    if stored.kind == "b":
        return np.dtype(np.uint8)
    if stored.kind == "u" and stored.itemsize > 1:
        return np.dtype(_SIGNED_ABOVE[stored.itemsize])
    return stored.newbyteorder("=")


class VoxelArray:
    """Voxels [I, J, K] in Fortran order, filled in the order of a file.

    Integers that do not fit widen the whole array (int16 to int32 to int64), which costs a copy once; floats are
    checked to be finite as they come.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        """Args: path, named in errors; shape, along i, j, k; dtype, to begin with."""
        self._path = path
        self._shape = shape
        try:
            self.flat: NDArray[Any] = np.empty(math.prod(shape), dtype=dtype)
        except (MemoryError, ValueError) as error:
            raise ImageReadError(f"{path}: {shape} voxels of {dtype} do not fit into memory") from error

    def put(self, start: int, values: NDArray[Any]) -> None:
        """Stores ``values`` [N] from flat index ``start`` on.

        Raises:
            ImageReadError: a value is NaN, infinite, or fits no type.
        """
        self.check(start, values)
        if self.flat.dtype.kind in "iu" and not np.can_cast(values.dtype, self.flat.dtype) and values.size:
            self._widen(int(values.min()), int(values.max()))
        with np.errstate(over="ignore"):
            self.flat[start : start + values.size] = values
        if values.dtype.kind == "f" and values.dtype.itemsize > self.flat.dtype.itemsize:
            self.check(start, self.flat[start : start + values.size])

    def check(self, start: int, values: NDArray[Any]) -> None:
        """Raises ``ImageReadError`` for the first of ``values`` that is not finite; ``start`` is its flat index."""
        if values.dtype.kind != "f":
            return
        finite = np.isfinite(values)
        if finite.all():
            return
        first = int(np.argmin(finite))
        i, j, k = (int(n) for n in np.unravel_index(start + first, self._shape, order="F"))
        raise ImageReadError(
            f"{self._path}: voxel ({i}, {j}, {k}) is {values[first]}, expected finite numbers only; "
            "replace such voxels first, for example with numpy.nan_to_num"
        )

    def finished(self) -> NDArray[Any]:
        """The array, [I, J, K] in Fortran order."""
        return self.flat.reshape(self._shape, order="F")

    def _widen(self, low: int, high: int) -> None:
        for dtype in (self.flat.dtype, np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)):
            info = np.iinfo(dtype)
            if np.can_cast(self.flat.dtype, dtype) and info.min <= low and high <= info.max:
                if dtype != self.flat.dtype:
                    self.flat = self.flat.astype(dtype)
                return
        raise ImageReadError(f"{self._path}: holds {high}, which fits no signed 64 bit integer")
