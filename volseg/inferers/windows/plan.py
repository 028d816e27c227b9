"""Which windows cover a volume, in which order, and what they will take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from volseg.errors import ModelError

SIGMA_PART = 0.125
"""Standard deviation of Gaussian weights as a part of the window's side, as in nnU-Net and MONAI."""

LEAST_WEIGHT = 1e-3
"""Weights are no smaller, so that sums of them never vanish; as in MONAI."""

FLOAT_BYTES = 4
"""Windows are stitched in float32."""


class Blending(StrEnum):
    """How overlapping windows are weighted."""

    CONSTANT = "constant"
    """Alike."""
    GAUSSIAN = "gaussian"
    """More in a window's middle, where the network sees the surroundings on all sides."""


@dataclass(frozen=True)
class WindowSettings:
    """How a volume is covered.

    Attributes:
        window: voxels along i, j, k.
        overlap: part of a window that the next one repeats, from 0 to below 1.
        blending: weights of overlapping windows.
        batch: windows that the network computes together.
        query_batch: queries that are decoded together; 0 for all.
        mirror_axes: the answer is the mean over all flips along these axes (0 i, 1 j, 2 k). Not for networks that tell
            left from right along such an axis.
        stitch_on_device: whether sums are kept on the network's device; otherwise in main memory.

    Raises:
        ModelError: a number is out of range.
    """

    window: tuple[int, int, int]
    overlap: float = 0.25
    blending: Blending = Blending.GAUSSIAN
    batch: int = 1
    query_batch: int = 64
    mirror_axes: tuple[int, ...] = ()
    stitch_on_device: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", tuple(int(side) for side in self.window))
        object.__setattr__(self, "blending", Blending(self.blending))
        if len(self.window) != 3 or min(self.window) < 1:
            raise ModelError(f"a window has three sides of one voxel or more, got {self.window}")
        if not 0 <= self.overlap < 1:
            raise ModelError(f"the overlap is a part of the window from 0 to below 1, got {self.overlap}")
        if self.batch < 1 or self.query_batch < 0:
            raise ModelError(f"batches have one item or more, got {self.batch} windows, {self.query_batch} queries")
        if not set(self.mirror_axes) <= {0, 1, 2}:
            raise ModelError(f"the axes to mirror are among 0, 1, 2, got {self.mirror_axes}")


@dataclass(frozen=True)
class WindowPlan:
    """The windows over one volume, in the order they are computed.

    Attributes:
        shape: of the volume after padding.
        window: sides of every window.
        starts: first voxels of the windows along i, j and k, ascending. All their combinations are windows.
        padding: voxels that were put before the volume along i, j, k, where it is smaller than a window.
        volume: shape of the volume itself.
        order: axes (0 i, 1 j, 2 k) from the one along which windows advance slowest to the fastest. The sums that are
            alive are about a layer across the slowest.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    padding: tuple[int, int, int]
    volume: tuple[int, int, int]
    order: tuple[int, int, int] = (0, 1, 2)

    @classmethod
    def of(cls, volume: tuple[int, int, int], settings: WindowSettings) -> WindowPlan:
        """Windows at equal distances, but for the last one along an axis, which ends with the volume.

        They advance in the order that keeps the fewest sums alive; MONAI's, i slowest and k fastest, where others are
        no better.
        """
        shape = tuple(max(n, w) for n, w in zip(volume, settings.window, strict=True))
        starts = []
        for n, w in zip(shape, settings.window, strict=True):
            step = max(1, int(w * (1 - settings.overlap)))
            count = math.ceil((n - w) / step) + 1
            starts.append(tuple(min(step * index, n - w) for index in range(count)))
        padding = tuple((n - v) // 2 for n, v in zip(shape, volume, strict=True))
        first = cls(_triple(shape), settings.window, (starts[0], starts[1], starts[2]), _triple(padding), volume)
        orders = (replace(first, order=_triple(order)) for order in itertools.permutations((0, 1, 2)))
        return min(orders, key=lambda plan: plan.live_bytes(1))

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(map(len, self.starts))

    def windows(self) -> Iterator[tuple[int, int, int]]:
        """Positions in ``starts`` of every window, in order."""
        where = [self.order.index(axis) for axis in range(3)]
        for at in itertools.product(*(range(len(self.starts[axis])) for axis in self.order)):
            yield at[where[0]], at[where[1]], at[where[2]]

    def start(self, at: tuple[int, int, int]) -> tuple[int, int, int]:
        """First voxel of the window at positions ``at``."""
        return self.starts[0][at[0]], self.starts[1][at[1]], self.starts[2][at[2]]

    def kept(self, axis: int, position: int) -> int:
        """Voxels at the front of a window that no later window along ``axis`` covers."""
        axis_starts = self.starts[axis]
        if position + 1 == len(axis_starts):
            return self.window[axis]
        return axis_starts[position + 1] - axis_starts[position]

    def kept_shape(self, at: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of the part of a window that is finished with it."""
        return self.kept(0, at[0]), self.kept(1, at[1]), self.kept(2, at[2])

    def within_volume(self, at: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[int, int, int]]:
        """Which voxels of that part lie in the volume, and where the first of them is there."""
        inner, starts = [], []
        for first, kept, before, n in zip(self.start(at), self.kept_shape(at), self.padding, self.volume, strict=True):
            start = max(first, before)
            inner.append(slice(start - first, max(start, min(first + kept, before + n)) - first))
            starts.append(start - before)
        return tuple(inner), (starts[0], starts[1], starts[2])

    def faster(self, axis: int) -> tuple[int, ...]:
        """Axes along which windows advance faster than along ``axis``."""
        return self.order[self.order.index(axis) + 1 :]

    def carry_shape(self, axis: int) -> tuple[int, int, int]:
        """Shape of the sums that wait for the next window along ``axis``: the live overlap zone."""
        longest = max(self.window[axis] - self.kept(axis, position) for position in range(len(self.starts[axis])))
        faster = self.faster(axis)
        sides = [self.shape[other] if other in faster else self.window[other] for other in range(3)]
        sides[axis] = longest
        return sides[0], sides[1], sides[2]

    def live_bytes(self, classes: int) -> int:
        """Bytes of the sums that are kept between windows, weights included."""
        return sum(math.prod(self.carry_shape(axis)) for axis in range(3)) * (classes + 1) * FLOAT_BYTES

    def peak_bytes(self, classes: int, settings: WindowSettings) -> int:
        """Estimate of what stitching takes at its worst: live sums, and the answers to the windows at hand.

        The image, its labels and the network's own memory come on top.
        """
        at_once = min(classes, settings.query_batch or classes)
        answers = 2 * at_once * math.prod(self.window) * FLOAT_BYTES * settings.batch
        return self.live_bytes(classes) + answers


def importance(window: tuple[int, int, int], blending: Blending) -> Tensor:
    """Weights [I, J, K] of a window's voxels, float32; the same numbers as MONAI's ``compute_importance_map``."""
    if blending is Blending.CONSTANT:
        return torch.ones(window)
    weights = torch.ones(())
    for axis, side in enumerate(window):
        distance = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        line = torch.exp(distance**2 / (-2 * (SIGMA_PART * side) ** 2))
        weights = weights[..., None] * line if axis else line
    return weights.clamp_(min=max(float(weights.min()), LEAST_WEIGHT))


def _triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    return values[0], values[1], values[2]
