"""A coarse, nearly isotropic lattice over the block around an object, and the ways there and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.geometry import Grid
from volseg.inferers.refine.settings import RefineSettings

VOXELS_AT_ONCE = 1 << 20
"""Voxels that are brought to the lattice or back together, about; more would only take memory (P5)."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """Samples at even distances between two faces along each axis of an image.

    Arrays on a lattice have axes towards right, anterior and superior, however the image is stored.

    Attributes:
        grid: the image's.
        low: [3] faces in voxel index along the stored axes; voxel 0 reaches from -0.5 to 0.5.
        high: [3] the opposite faces.
        counts: samples along the stored axes.
    """

    grid: Grid
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    counts: tuple[int, int, int]

    @property
    def steps(self) -> NDArray[np.float64]:
        """Distance of samples along the stored axes, in voxels, [3]."""
        steps: NDArray[np.float64] = (np.array(self.high) - self.low) / self.counts
        return steps

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of arrays on the lattice."""
        a, b, c = (self.counts[axis] for axis in self._order)
        return a, b, c

    @cached_property
    def block(self) -> tuple[slice, slice, slice]:
        """The voxels of the image that lie between the faces."""
        i, j, k = (
            slice(max(0, int(np.ceil(a - 1e-6))), min(n, int(np.floor(b + 1e-6)) + 1))
            for a, b, n in zip(self.low, self.high, self.grid.shape, strict=True)
        )
        return i, j, k

    def positions(self, points_ijk: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel indices as places on the lattice, where 0 is the first sample; [N, 3] both."""
        on_stored = (points_ijk - self.low) / self.steps - 0.5
        turned = on_stored[:, self._order]
        for ras, axis in enumerate(self._order):
            if self.grid.axis_signs[axis] < 0:
                turned[:, ras] = self.counts[axis] - 1 - turned[:, ras]
        return turned

    def weights(self, axis: int) -> Tensor:
        """[samples, voxels of the block] along a stored axis: what each sample takes from each voxel."""
        step = float(self.steps[axis])
        centres = self.low[axis] + (np.arange(self.counts[axis]) + 0.5) * step
        voxels = np.arange(self.block[axis].start, self.block[axis].stop)
        return _tents(centres[:, None] - voxels[None], max(1.0, step))

    def sample(self, read: Callable[[tuple[slice, slice, slice]], Tensor]) -> Tensor:
        """Brings a part of the image to the lattice: linear between voxels, averaged where samples are coarser.

        Args:
            read: gives the values of a part of the image, [A, B, C].

        Returns:
            float32 of ``shape``.
        """
        first, second, third = (self.weights(axis) for axis in range(3))
        whole = self.block
        result = torch.zeros(self.counts)
        at_once = self._slices_at_once
        for begin in range(whole[0].start, whole[0].stop, at_once):
            end = min(begin + at_once, whole[0].stop)
            values = read((slice(begin, end), whole[1], whole[2])).float()
            flat = torch.einsum("abc,jb,kc->ajk", values, second, third)
            result += torch.einsum("ia,ajk->ijk", first[:, begin - whole[0].start : end - whole[0].start], flat)
        return self._turned(result)

    def above_zero(self, values: Tensor) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
        """Where values on the lattice are above zero between its samples.

        Args:
            values: of ``shape``.

        Returns:
            Bool, one a voxel, for the part of ``block`` within which the samples above zero have a say, and that part's
            first voxel in the grid.
        """
        stored = self._turned_back(values)
        backward, start = [], []
        for axis in range(3):
            step = float(self.steps[axis])
            voxels = np.arange(self.block[axis].start, self.block[axis].stop)
            places = (voxels - self.low[axis]) / step - 0.5
            places = np.clip(places, 0, self.counts[axis] - 1)
            samples = np.arange(self.counts[axis])
            weights = _tents(places[:, None] - samples[None], max(1.0, 1 / step))
            above = (stored > 0).movedim(axis, 0).flatten(1)
            heard = torch.nonzero(weights[:, above.any(dim=1)].sum(dim=1))[:, 0].tolist() or [0, -1]
            backward.append(weights[heard[0] : heard[-1] + 1])
            start.append(int(voxels[0]) + heard[0])
        result = np.empty([one.shape[0] for one in backward], dtype=bool)
        at_once = self._slices_at_once
        for begin in range(0, len(result), at_once):
            rows = backward[0][begin : begin + at_once]
            part = torch.einsum("ai,ijk->ajk", rows, stored)
            part = torch.einsum("ajk,bj->abk", part, backward[1])
            result[begin : begin + at_once] = (torch.einsum("abk,ck->abc", part, backward[2]) > 0).numpy()
        return result, (start[0], start[1], start[2])

    @property
    def _slices_at_once(self) -> int:
        """Slices across the first stored axis that hold about ``VOXELS_AT_ONCE``."""
        _, second, third = self.block
        in_slice = int(second.stop - second.start) * int(third.stop - third.start)
        return max(1, VOXELS_AT_ONCE // max(1, in_slice))

    @property
    def _order(self) -> list[int]:
        """The stored axis that runs along each of x, y and z."""
        return [self.grid.axis_order.index(ras) for ras in range(3)]

    @property
    def _flipped(self) -> list[int]:
        return [ras for ras, axis in enumerate(self._order) if self.grid.axis_signs[axis] < 0]

    def _turned(self, stored: Tensor) -> Tensor:
        return stored.permute(self._order).flip(self._flipped)

    def _turned_back(self, turned: Tensor) -> Tensor:
        inverse = [self._order.index(axis) for axis in range(3)]
        return turned.flip(self._flipped).permute(inverse)


def choose_lattice(
    grid: Grid, first: NDArray[np.int64], last: NDArray[np.int64], settings: RefineSettings, multiple: int
) -> Lattice:
    """The lattice around an object.

    Args:
        grid: the image's.
        first: [3] lowest voxel of what is known of the object.
        last: [3] highest voxel of it, inclusive.
        settings: how much space, how many samples.
        multiple: of which the numbers of samples are.
    """
    spacing = np.array(grid.spacing_mm)
    low, high = first - 0.5, last + 0.5
    sides_mm = (high - low) * spacing
    # Flat things are given space across, too; around long thin ones it would take the samples from them.
    margin_mm = np.maximum(settings.margin * np.maximum(sides_mm, np.median(sides_mm)), settings.min_margin_mm)
    low = np.maximum(low - margin_mm / spacing, -0.5)
    high = np.minimum(high + margin_mm / spacing, np.array(grid.shape) - 0.5)
    size_mm = (high - low) * spacing
    step_mm = (float(np.prod(size_mm)) / settings.samples) ** (1 / 3)
    step_mm = max(step_mm, settings.finest * float(np.prod(spacing) ** (1 / 3)))
    # The coarsest level of the network has two samples a side or more.
    counts = np.maximum(2, np.round(size_mm / step_mm / multiple)).astype(int) * multiple
    a, b, c = (float(one) for one in low)
    d, e, f = (float(one) for one in high)
    return Lattice(grid, (a, b, c), (d, e, f), (int(counts[0]), int(counts[1]), int(counts[2])))


def _tents(distance: NDArray[np.floating[Any]], width: float) -> Tensor:
    """Triangular weights, [M, N], that add up to one for each of the M."""
    weights = np.maximum(0.0, 1 - np.abs(distance) / width)
    total = weights.sum(axis=1, keepdims=True)
    # A sample beyond the last voxel's centre takes that voxel's value.
    nearest = np.abs(distance) == np.abs(distance).min(axis=1, keepdims=True)
    weights = np.where(total > 1e-9, weights, nearest)
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
