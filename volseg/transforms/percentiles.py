"""Percentiles of volumes, exact, in memory for one slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import WindowError


def percentiles(image: Any, percents: Sequence[float], *, skip_zeros: bool) -> tuple[float, ...] | None:
    """Percentiles with linear interpolation, as ``numpy.percentile`` of the values in float32.

    They come from counts of values and not from a sample, so the order of the voxels does not matter.

    Args:
        image: numpy array or torch tensor of one or more dimensions and real dtype.
        percents: from 0 to 100.
        skip_zeros: whether voxels that are exactly zero do not count.

    Returns:
        One value for each of ``percents``, or None where no voxel counts.

    Raises:
        WindowError: the image has no voxels.
    """
    if 0 in image.shape:
        raise WindowError(f"an image without voxels has no window, got shape {tuple(image.shape)}")
    select = _Select16 if _first(image).dtype.kind in "iub" and _first(image).dtype.itemsize <= 2 else _Select32
    voxels = select(image, skip_zeros)
    if voxels.count == 0:
        return None
    positions = [percent / 100 * (voxels.count - 1) for percent in percents]
    values = voxels.at(sorted({int(p) for p in positions} | {min(int(p) + 1, voxels.count - 1) for p in positions}))
    result = []
    for position in positions:
        below = values[int(position)]
        above = values[min(int(position) + 1, voxels.count - 1)]
        result.append(below + (above - below) * (position - int(position)))
    return tuple(result)


class _Select16:
    """Order statistics of integers of at most 16 bits, by counting each value."""

    def __init__(self, image: Any, skip_zeros: bool) -> None:
        self._offset = -32768 if _first(image).dtype.kind == "i" else 0
        self._counts = np.zeros(65536, dtype=np.int64)
        for values in _slices(image):
            self._counts += np.bincount(values.astype(np.int32) - self._offset, minlength=65536)
        if skip_zeros:
            self._counts[-self._offset] = 0
        self.count = int(self._counts.sum())

    def at(self, ranks: Sequence[int]) -> dict[int, float]:
        """The values at ``ranks`` (from 0) in ascending order."""
        found = np.searchsorted(np.cumsum(self._counts), ranks, side="right") + self._offset
        return {rank: float(value) for rank, value in zip(ranks, found, strict=True)}


class _Select32:
    """Order statistics of anything as float32, by counting the upper and then the lower half of its bits."""

    def __init__(self, image: Any, skip_zeros: bool) -> None:
        self._image, self._skip_zeros = image, skip_zeros
        self._counts = np.zeros(65536, dtype=np.int64)
        for keys in self._keys():
            self._counts += np.bincount(keys >> 16, minlength=65536)
        self.count = int(self._counts.sum())

    def _keys(self) -> Iterator[NDArray[np.uint32]]:
        """Float32 bits rearranged so that they sort as the numbers do."""
        for values in _slices(self._image):
            floats = values.astype(np.float32)
            floats = floats[floats != 0] if self._skip_zeros else floats + np.float32(0)  # -0.0 becomes 0.0
            bits = floats.view(np.uint32)
            yield np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))

    def at(self, ranks: Sequence[int]) -> dict[int, float]:
        """The values at ``ranks`` (from 0) in ascending order."""
        ends = np.cumsum(self._counts)
        upper = np.searchsorted(ends, ranks, side="right")
        lower_counts = {int(half): np.zeros(65536, dtype=np.int64) for half in upper}
        for keys in self._keys():
            for half, counts in lower_counts.items():
                counts += np.bincount(keys[keys >> 16 == half] & 0xFFFF, minlength=65536)
        found = {}
        for rank, half in zip(ranks, upper.tolist(), strict=True):
            before = int(ends[half] - self._counts[half])
            lower = int(np.searchsorted(np.cumsum(lower_counts[half]), rank - before, side="right"))
            key = np.uint32((half << 16) | lower)
            bits = key ^ np.uint32(1 << 31) if key >> 31 == 1 else ~key
            found[rank] = float(np.asarray(bits, dtype=np.uint32).view(np.float32))
        return found


def slowest_axis(values: Any) -> int:
    """The axis of an array or tensor along which slices lie one after the other in memory; axes of size 1 do not count.

    Files store i fastest, arrays made in Python k fastest; slices along another axis cost many times as much to read.
    """
    strides = values.stride() if callable(getattr(values, "stride", None)) else np.asarray(values).strides
    axes = [axis for axis, size in enumerate(values.shape) if size > 1]
    return max(axes, key=lambda axis: abs(int(strides[axis]))) if axes else 0


def _slices(image: Any) -> Iterator[NDArray[Any]]:
    """The voxels as flat arrays, one slice after the other along the axis that is slowest in memory."""
    tensor = image.as_tensor() if hasattr(image, "as_tensor") else image
    if not tensor.shape:
        yield _as_numpy(tensor).ravel()
        return
    slowest = slowest_axis(tensor)
    for index in range(tensor.shape[slowest]):
        yield _as_numpy(tensor[(slice(None),) * slowest + (index,)]).ravel()


def _first(image: Any) -> NDArray[Any]:
    return _as_numpy((image.as_tensor() if hasattr(image, "as_tensor") else image)[(slice(0, 1),) * len(image.shape)])


def _as_numpy(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
    return np.asarray(values)
