"""The picture of all objects that a viewer shows, kept up to date block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.labelmap import OverlapPolicy, smallest_dtype
from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid


class LabelCanvas:
    """An array of label values [I, J, K] that follows the objects' masks.

    Only the blocks of objects that changed are painted again, so an update costs what the object costs and not what
    the image does. Where objects overlap and each keeps its voxels (``OverlapPolicy.LAYERS``), the last one is seen.

    Attributes:
        grid: the image's.
        array: [I, J, K] unsigned; another array takes its place when an id does not fit the type.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.array: NDArray[Any] = np.zeros(grid.shape, dtype=np.uint8)
        self._shown: dict[int, ObjectMask] = {}
        self._policy = OverlapPolicy.LAST_WINS

    @property
    def shown(self) -> Mapping[int, ObjectMask]:
        """The masks that are seen, by object, in their order."""
        return self._shown

    def show(self, masks: Mapping[int, ObjectMask], policy: OverlapPolicy) -> bool:
        """Shows these masks and nothing else.

        Args:
            masks: by object, in their order for ``policy``; a mask that is the same Python object as before is not
                painted again.
            policy: what is seen where objects overlap.

        Returns:
            Whether anything was painted.
        """
        self._make_room(max(masks, default=1))
        old = self._shown
        self._shown, old_policy, self._policy = dict(masks), self._policy, policy
        if list(masks) != [number for number in old if number in masks] or policy is not old_policy:
            touched = [*old.values(), *masks.values()]  # another order or rule: all may change
        else:
            changed = {number for number in {*old, *masks} if old.get(number) is not masks.get(number)}
            touched = [mask for source in (old, masks) for number, mask in source.items() if number in changed]
        blocks = [mask.slices for mask in touched if mask.size]
        if blocks:
            self.repaint(
                tuple(
                    slice(min(block[axis].start for block in blocks), max(block[axis].stop for block in blocks))
                    for axis in range(3)
                )
            )
        return bool(blocks)

    def repaint(self, region: tuple[slice, ...]) -> None:
        """Paints a block again, as after somebody else wrote into the array."""
        self._paint(region, self.array[region])

    def take_stroke(self, region: tuple[slice, ...], object_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What somebody else, such as a brush, wrote into the array of one object; the rest is put back.

        Args:
            region: the block to look at.
            object_id: the object.

        Returns:
            The voxels that became the object's, [N, 3], and those that were its own and are not any more, [N, 3].
        """
        now = self.array[region]
        before = np.empty_like(now)
        self._paint(region, before)
        start = [part.start for part in region]
        became, ceased = (now == object_id) & (before != object_id), (now != object_id) & (before == object_id)
        np.copyto(now, before, where=~(became | ceased))
        became, ceased = np.argwhere(became) + start, np.argwhere(ceased) + start
        return became.astype(np.int64), ceased.astype(np.int64)

    def _paint(self, region: tuple[slice, ...], part: NDArray[Any]) -> None:
        part[...] = 0
        order = list(self._shown.items())
        if self._policy is OverlapPolicy.FIRST_WINS:
            order.reverse()
        for number, mask in order:
            here, inside = _overlap(region, mask)
            if here is not None:
                np.copyto(part[here], part.dtype.type(number), where=mask.part(inside))

    def _make_room(self, largest: int) -> None:
        dtype = smallest_dtype(largest)
        if dtype.itemsize > self.array.dtype.itemsize:
            self.array = self.array.astype(dtype)


def _overlap(region: tuple[slice, ...], mask: ObjectMask) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """The common voxels of a region and a mask's block: where they are in the region, and where in the block."""
    here, inside = [], []
    for part, block in zip(region, mask.slices, strict=True):
        start, stop = max(part.start, block.start), min(part.stop, block.stop)
        if start >= stop:
            return None, ()
        here.append(slice(start - part.start, stop - part.start))
        inside.append(slice(start - block.start, stop - block.start))
    return tuple(here), tuple(inside)


def merge_preview(known: ObjectMask | None, growing: ObjectMask, axis: int | None) -> ObjectMask:
    """A mask that grows slice by slice, over the one it is going to replace.

    Args:
        known: the mask before the correction.
        growing: the new mask so far.
        axis: along which it grows; None shows the new mask alone.

    Returns:
        The new mask on the slices it has reached, the known one on the others.
    """
    if known is None or axis is None or not known.size or not growing.size:
        return growing
    start = np.minimum(known.start_ijk, growing.start_ijk)
    stop = np.maximum(np.add(known.start_ijk, known.shape), np.add(growing.start_ijk, growing.shape))
    block = np.zeros(stop - start, dtype=bool)
    block[_within(known, start)] = known.block
    reached = [slice(None)] * 3
    reached[axis] = _within(growing, start)[axis]
    block[tuple(reached)] = False
    block[_within(growing, start)] = growing.block
    first = (int(start[0]), int(start[1]), int(start[2]))
    return ObjectMask(growing.object_id, growing.grid, first, block, growing.presence)


def _within(mask: ObjectMask, start: NDArray[np.int64]) -> tuple[slice, ...]:
    offsets = start.tolist()
    return tuple(slice(p.start - first, p.stop - first) for p, first in zip(mask.slices, offsets, strict=True))
