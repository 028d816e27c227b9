"""What the refining network is shown: image, draft and prompts on a lattice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.inferers.refine.lattice import Lattice
from volseg.networks.refine.network import Channel
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, Scribble
from volseg.transforms.windows import IntensityWindow

POINT_WIDTH = 1.5
"""Standard deviation of a click's bump, in samples."""
IMAGE_RANGE = (-0.5, 1.5)
"""Intensities are cut off here, in units of the window."""
IMAGE_SCALE = (0.5, 0.25)
"""Subtracted from the intensities, and what they are divided by then."""
RELATIVE_LIMIT = 4.0
"""Relative intensities are cut off here, in standard deviations."""
LEAST_SPREAD = 0.02
"""Standard deviation of the intensities inside of the draft, in units of the window, at least."""
LEAST_INSIDE = 4.0
"""With fewer samples inside of the draft, all of the block tells the intensities to compare with."""


def show_image(lattice: Lattice, image: Tensor, window: IntensityWindow) -> Tensor:
    """Intensities on the lattice in units of the window, float32 of the lattice's shape.

    Args:
        lattice: where.
        image: [I, J, K] in the file's units.
        window: what becomes 0 and 1.
    """

    def read(where: tuple[slice, slice, slice]) -> Tensor:
        values = torch.nan_to_num(image[where].float(), posinf=window.high, neginf=window.low)
        return ((values - window.low) / (window.high - window.low)).clamp_(*IMAGE_RANGE)

    return lattice.sample(read)


def show_mask(lattice: Lattice, mask: ObjectMask) -> Tensor:
    """The part of each sample that a mask covers, float32 of the lattice's shape."""
    start = np.array(mask.start_ijk)
    stop = start + mask.block.shape

    def read(where: tuple[slice, slice, slice]) -> Tensor:
        values = np.zeros([one.stop - one.start for one in where], dtype=np.float32)
        low = np.maximum(start, [one.start for one in where])
        high = np.minimum(stop, [one.stop for one in where])
        if (low < high).all():
            target = tuple(slice(a - w.start, b - w.start) for a, b, w in zip(low, high, where, strict=True))
            source = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
            values[target] = mask.block[source]
        return torch.from_numpy(values)

    return lattice.sample(read)


def intensity_channels(image: Tensor, draft: Tensor) -> Tensor:
    """`Channel.IMAGE` and `Channel.RELATIVE`, [2, A, B, C].

    Args:
        image: [A, B, C] in units of the window.
        draft: [A, B, C] from 0 to 1.
    """
    weight = draft if float(draft.sum()) >= LEAST_INSIDE else torch.ones_like(draft)
    mean = (weight * image).sum() / weight.sum()
    spread = ((weight * (image - mean).square()).sum() / weight.sum()).sqrt().clamp(min=LEAST_SPREAD)
    relative = ((image - mean) / spread).clamp(-RELATIVE_LIMIT, RELATIVE_LIMIT) / 2
    return torch.stack([(image - IMAGE_SCALE[0]) / IMAGE_SCALE[1], relative])


def prompt_channels(lattice: Lattice, prompts: Sequence[Prompt]) -> Tensor:
    """`Channel.INSIDE` to `Channel.DRAWN`, [4, A, B, C].

    A mask on several slices is a draft rather than something drawn, and is not shown here.

    Args:
        lattice: where.
        prompts: about one object, in voxel indices of the lattice's grid.
    """
    result = torch.zeros((4, *lattice.shape))
    inside, outside, box, drawn = result
    for prompt in prompts:
        if isinstance(prompt, Point):
            add_bump(inside if prompt.positive else outside, lattice.positions(np.array([prompt.position])))
        elif isinstance(prompt, Scribble):
            places = lattice.positions(prompt.sampled_ijk(0.5 * float(lattice.steps.min())))
            add_bump(inside if prompt.positive else outside, _apart(places))
        elif isinstance(prompt, Box):
            _add_box(box, lattice, prompt)
        elif isinstance(prompt, Lasso | MaskPrompt):
            _add_drawn(drawn, lattice, prompt)
    return result


def add_bump(channel: Tensor, places: NDArray[np.float64]) -> None:
    """Raises a channel [A, B, C] around places [N, 3], in samples."""
    axes = [torch.arange(n, dtype=torch.float32) for n in channel.shape]
    for place in places:
        a, b, c = (
            torch.exp(-(axis - float(x)).square() / (2 * POINT_WIDTH**2)) for axis, x in zip(axes, place, strict=True)
        )
        torch.maximum(channel, a[:, None, None] * b[None, :, None] * c[None, None, :], out=channel)


def _apart(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """One place of each sample that a line runs through."""
    _, index = np.unique(np.round(places).astype(int), axis=0, return_index=True)
    return places[np.sort(index)]


def _spans(lattice: Lattice, low: NDArray[np.float64], high: NDArray[np.float64]) -> list[Tensor]:
    """How much of each sample lies between two faces along x, y and z; at its most 1, however thin."""
    order, signs = lattice.grid.axis_order, lattice.grid.axis_signs
    spans = [torch.zeros(0)] * 3
    for axis in range(3):
        faces = lattice.low[axis] + np.arange(lattice.counts[axis] + 1) * lattice.steps[axis]
        covered = np.clip(np.minimum(faces[1:], high[axis]) - np.maximum(faces[:-1], low[axis]), 0, None)
        covered = covered / max(float(covered.max(initial=0.0)), 1e-6)
        values = torch.from_numpy(covered.astype(np.float32))
        spans[order[axis]] = values.flip(0) if signs[axis] < 0 else values
    return spans


def _add_box(channel: Tensor, lattice: Lattice, box: Box) -> None:
    low, high = np.array(box.low) - 0.5, np.array(box.high) + 0.5
    a, b, c = _spans(lattice, low, high)
    inside = a[:, None, None] * b[None, :, None] * c[None, None, :]
    if box.flat_axis is None:
        speaks = torch.ones_like(channel)
    else:
        everywhere_low, everywhere_high = np.array(lattice.low), np.array(lattice.high)
        everywhere_low[box.flat_axis], everywhere_high[box.flat_axis] = low[box.flat_axis], high[box.flat_axis]
        a, b, c = _spans(lattice, everywhere_low, everywhere_high)
        speaks = a[:, None, None] * b[None, :, None] * c[None, None, :]
    _say(channel, inside, speaks)


def _add_drawn(channel: Tensor, lattice: Lattice, prompt: Lasso | MaskPrompt) -> None:
    voxels = prompt.voxels_ijk(lattice.grid)
    if len(voxels) == 0:
        return
    flat = np.flatnonzero(voxels.min(axis=0) == voxels.max(axis=0))
    if len(flat) == 0:
        return
    axis, index = int(flat[0]), int(voxels[0, flat[0]])
    start = voxels.min(axis=0)
    block = np.zeros(voxels.max(axis=0) - start + 1, dtype=bool)
    block[tuple((voxels - start).T)] = True
    mask = ObjectMask(1, lattice.grid, (int(start[0]), int(start[1]), int(start[2])), block)
    inside = show_mask(lattice, mask)
    inside = inside / inside.max().clamp(min=1e-6)
    if prompt.positive:
        low, high = np.array(lattice.low), np.array(lattice.high)
        low[axis], high[axis] = index - 0.5, index + 0.5
        a, b, c = _spans(lattice, low, high)
        _say(channel, inside, a[:, None, None] * b[None, :, None] * c[None, None, :])
    else:
        _say(channel, torch.zeros_like(inside), inside)


def _say(channel: Tensor, inside: Tensor, speaks: Tensor) -> None:
    """Adds what one prompt says; where another one said "inside", that stays."""
    said = 2 * torch.minimum(inside, speaks) - speaks
    channel.copy_(torch.where(said.abs() >= channel.abs(), torch.maximum(said, channel * (channel > 0)), channel))


def all_channels(image: Tensor, draft: Tensor, prompts: Tensor) -> Tensor:
    """The network's input, [1, 7, A, B, C].

    Args:
        image: [A, B, C] in units of the window.
        draft: [A, B, C] from 0 to 1.
        prompts: [4, A, B, C] from ``prompt_channels``.
    """
    result = torch.empty((1, len(Channel), *image.shape))
    result[0, : Channel.DRAFT] = intensity_channels(image, draft)
    result[0, Channel.DRAFT] = 2 * draft - 1
    result[0, Channel.INSIDE :] = prompts
    return result
