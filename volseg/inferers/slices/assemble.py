"""From the logits of frames to the voxels of an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid
from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.view import SliceView

FRAMES_AT_ONCE = 8
"""Frames that are brought to full size together; more would only take memory (P5)."""


@dataclass(frozen=True, eq=False)
class PlaneLogits:
    """What one plane says about an object.

    Attributes:
        view: the plane's slices.
        crop: the part of the slices that the frames show.
        logits: [s, s] by slice index, for slices with any logit above zero.
        score: object score by slice index, for every slice that was looked at.
        prompted: the slices with prompts.
    """

    view: SliceView
    crop: Crop
    logits: Mapping[int, Tensor]
    score: Mapping[int, float]
    prompted: Sequence[int]

    @property
    def presence(self) -> float:
        """Probability that the object is on any slice: that of the slice where it is surest."""
        return float(torch.sigmoid(torch.tensor(max(self.score.values(), default=-10.0))))


def assemble(object_id: int, grid: Grid, planes: Sequence[PlaneLogits]) -> ObjectMask:
    """Puts slices together on the image's own grid.

    Where several planes have a say, their probabilities are averaged, each weighted by 1 / (1 + d) with d the distance
    in mm to the plane's nearest prompted slice, so that every prompt rules where it was given.

    Args:
        object_id: of the result.
        grid: the image's grid.
        planes: what each plane says.
    """
    presence = max(plane.presence for plane in planes)
    seen = [plane for plane in planes if plane.logits]
    if not seen:
        return ObjectMask.of(object_id, grid, np.zeros((1, 1, 1), dtype=bool), presence)
    if len(planes) == 1:
        block, start = _thresholded(seen[0])
    else:
        block, start = _fused(planes, grid)
    return ObjectMask.of(object_id, grid, block, presence, start)


def _thresholded(plane: PlaneLogits) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    start, shape = _extent(plane)
    in_view, block, first = plane.view.new_block(start, shape, np.bool_)
    for index, logits in _full_size(plane):
        in_view[index - start[0]] = logits > 0
    return block, first


def _fused(planes: Sequence[PlaneLogits], grid: Grid) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    parts = []
    for plane in planes:
        if plane.logits:
            start, shape = _extent(plane)
            in_view, block, first = plane.view.new_block(start, shape, np.float32)
            for index, logits in _full_size(plane):
                in_view[index - start[0]] = 1 / (1 + np.exp(-np.clip(logits, -10, 10)))
            parts.append((plane, block, first))
    low = np.min([first for _, _, first in parts], axis=0)
    high = np.max([np.add(first, block.shape) for _, block, first in parts], axis=0)
    probability = np.zeros(high - low, dtype=np.float32)
    total = np.zeros(high - low, dtype=np.float32)
    for plane in planes:
        axis = grid.axis_of(plane.view.plane)
        weight = _weights(plane, axis)[low[axis] : high[axis]]
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        total += weight
        for other, block, first in parts:
            if other is plane:
                where = tuple(slice(a, a + n) for a, n in zip(np.subtract(first, low), block.shape, strict=True))
                probability[where] += np.broadcast_to(weight, total.shape)[where] * block
    start = (int(low[0]), int(low[1]), int(low[2]))
    return probability > 0.5 * total, start


def _weights(plane: PlaneLogits, axis: int) -> NDArray[np.float32]:
    """The plane's weight for each index along the image axis on which its slices are stacked."""
    indices = np.arange(plane.view.count)
    distance = np.abs(indices[:, None] - np.array(plane.prompted)[None]).min(axis=1) * plane.view.grid.spacing_mm[0]
    weights: NDArray[np.float32] = (1 / (1 + distance)).astype(np.float32)
    runs_other_way = plane.view.source.ijk_from(plane.view.grid)[axis, 0] < 0
    return weights[::-1] if runs_other_way else weights


def _extent(plane: PlaneLogits) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    rows, columns, _, _ = plane.crop.inside(plane.view.slice_shape)
    first, last = min(plane.logits), max(plane.logits)
    return (first, rows.start, columns.start), (last - first + 1, rows.stop - rows.start, columns.stop - columns.start)


def _full_size(plane: PlaneLogits) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Slice index and logits on the part of the slice that the crop shows."""
    _, _, rows, columns = plane.crop.inside(plane.view.slice_shape)
    indices = sorted(plane.logits)
    for begin in range(0, len(indices), FRAMES_AT_ONCE):
        chunk = indices[begin : begin + FRAMES_AT_ONCE]
        small = torch.stack([plane.logits[index].float() for index in chunk])[:, None]
        size = (plane.crop.rows, plane.crop.columns)
        full = interpolate(small, size, mode="bilinear", align_corners=False)[:, 0].numpy()
        for index, logits in zip(chunk, full, strict=True):
            yield index, logits[rows, columns]
