"""What the refining network is shown: image, draft and prompts on a lattice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from volseg.data.object_mask import ObjectMask
from volseg.inferers.refine.lattice import Lattice
from volseg.networks.refine.network import Channel
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, Scribble
from volseg.transforms.windows import IntensityWindow

POINT_REACH = 4.0
"""Samples from a click at which its sign has faded to 1 / e; so wide that coarse levels of the network see it, too."""
POINT_PEAK = 2.0
"""Value at a click."""
IMAGE_RANGE = (-0.5, 1.5)
"""Intensities are cut off here, in units of the window."""
IMAGE_SCALE = (0.5, 0.25)
"""Subtracted from the intensities, and what they are divided by then."""
RELATIVE_LIMIT = 4.0
"""Relative intensities are cut off here, in standard deviations."""
LEAST_SPREAD = 0.02
"""Standard deviation of the intensities inside of the draft, in units of the window, at least."""
LIKENESS = 0.1
"""Difference of intensities, in units of the window, at which a place counts 1 / e as much like a clicked one."""
LIKENESS_REACH = 16.0
"""Samples from a click at which its likeness has faded to 1 / e."""
SETTLED_REACH = 16.0
"""Samples from a click at which the draft's own word has lost 1 / e of its weight."""
MAX_LIKENED = 48
"""Clicks, or places along scribbles, that others are compared with."""
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

    def read(where: tuple[slice, slice, slice]) -> Tensor:
        return torch.from_numpy(mask.region(where).astype(np.float32))

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

    A mask on several slices is a draft rather than something drawn, and is not shown here. What is drawn to be taken
    away is shown as many clicks.

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
        elif isinstance(prompt, Lasso | MaskPrompt) and prompt.positive:
            _add_drawn(drawn, lattice, prompt)
        elif isinstance(prompt, Lasso | MaskPrompt):
            add_bump(outside, _apart(lattice.positions(prompt.voxels_ijk(lattice.grid).astype(np.float64))))
    return result


def likeness_channels(image: Tensor, clicked: Tensor) -> Tensor:
    """`Channel.LIKE_INSIDE` and `Channel.LIKE_OUTSIDE`, [2, A, B, C]: where a click might hold, too.

    Args:
        image: [A, B, C] in units of the window.
        clicked: [2, A, B, C], the bumps of `Channel.INSIDE` and `Channel.OUTSIDE`; their peaks are the clicks.
    """
    result = torch.zeros_like(clicked)
    if not bool(clicked.any()):
        return result
    smooth = avg_pool3d(image[None], 3, 1, 1, count_include_pad=False)[0]
    axes = [torch.arange(n, dtype=torch.float32) for n in image.shape]
    peaks = clicked == max_pool3d(clicked[None], 3, 1, 1)[0]
    for channel, found in zip(result, peaks & (clicked > POINT_PEAK / 2), strict=True):
        places = torch.nonzero(found)
        step = -(-len(places) // MAX_LIKENED) or 1
        for x, y, z in places[::step].tolist():
            a, b, c = ((axis - n).square() for axis, n in zip(axes, (x, y, z), strict=True))
            far = (a[:, None, None] + b[None, :, None] + c[None, None, :]).sqrt() / LIKENESS_REACH
            unlike = (smooth - smooth[x, y, z]).abs() / LIKENESS
            torch.maximum(channel, torch.exp(-(far + unlike)), out=channel)
    return result


def add_bump(channel: Tensor, places: NDArray[np.float64]) -> None:
    """Raises a channel [A, B, C] around places [N, 3], in samples."""
    a, b, c = (torch.arange(n, dtype=torch.float32) for n in channel.shape)
    for x, y, z in places.tolist():
        flat = (a - x).square()[:, None, None] + (b - y).square()[None, :, None]
        distance = (flat + (c - z).square()[None, None, :]).sqrt()
        torch.maximum(channel, POINT_PEAK * torch.exp(-distance / POINT_REACH), out=channel)


def _apart(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """One place for each sample that has any."""
    _, index = np.unique(np.round(places).astype(int), axis=0, return_index=True)
    return places[np.sort(index)]


def _add_box(channel: Tensor, lattice: Lattice, box: Box) -> None:
    """1 in the box, -1 on the rest of what it speaks of; what an earlier box holds stays."""
    low, high = np.array(box.low) - 0.5, np.array(box.high) + 0.5
    inside = _product(lattice, low, high)
    ends = np.array([lattice.low, lattice.high])
    if box.flat_axis is not None:
        ends[:, box.flat_axis] = low[box.flat_axis], high[box.flat_axis]
    said = 2 * inside - _product(lattice, ends[0], ends[1])
    speaks = (said > 0) | ((said < 0) & (channel <= 0))
    channel.copy_(torch.where(speaks, said, channel))


def _product(lattice: Lattice, low: NDArray[np.float64], high: NDArray[np.float64]) -> Tensor:
    """How much of each sample lies in a box; thinner than a sample, it is shown as clearly as a thick one."""
    order, signs = lattice.grid.axis_order, lattice.grid.axis_signs
    spans = [torch.zeros(0)] * 3
    for axis in range(3):
        faces = lattice.low[axis] + np.arange(lattice.counts[axis] + 1) * lattice.steps[axis]
        covered = np.clip(np.minimum(faces[1:], high[axis]) - np.maximum(faces[:-1], low[axis]), 0, None)
        values = torch.from_numpy((covered / max(float(covered.max(initial=0.0)), 1e-6)).astype(np.float32))
        spans[order[axis]] = values.flip(0) if signs[axis] < 0 else values
    a, b, c = spans
    return a[:, None, None] * b[None, :, None] * c[None, None, :]


def _add_drawn(channel: Tensor, lattice: Lattice, prompt: Lasso | MaskPrompt) -> None:
    voxels = prompt.voxels_ijk(lattice.grid)
    if len(voxels) == 0 or (voxels.min(axis=0) < voxels.max(axis=0)).all():
        return
    start = voxels.min(axis=0)
    block = np.zeros(voxels.max(axis=0) - start + 1, dtype=bool)
    block[tuple((voxels - start).T)] = True
    mask = ObjectMask(1, lattice.grid, (int(start[0]), int(start[1]), int(start[2])), block)
    inside = show_mask(lattice, mask)
    torch.maximum(channel, inside / inside.max().clamp(min=1e-6), out=channel)


def all_channels(image: Tensor, draft: Tensor, prompts: Tensor) -> Tensor:
    """The network's input, [1, 9, A, B, C].

    Args:
        image: [A, B, C] in units of the window.
        draft: [A, B, C] from 0 to 1.
        prompts: [4, A, B, C] from ``prompt_channels``.
    """
    result = torch.empty((1, len(Channel), *image.shape))
    result[0, : Channel.DRAFT] = intensity_channels(image, draft)
    result[0, Channel.DRAFT] = 2 * draft - 1
    result[0, Channel.INSIDE : Channel.LIKE_INSIDE] = prompts
    result[0, Channel.LIKE_INSIDE :] = likeness_channels(image, prompts[:2])
    return result


def kept_logits(trust: float, draft: Tensor, prompts: Tensor) -> Tensor:
    """What the draft adds to the network's answer, [A, B, C]: nothing at clicks, ever more away from them.

    Args:
        trust: the most.
        draft: [A, B, C] from 0 to 1; one without a voxel says nothing.
        prompts: [4, A, B, C] from ``prompt_channels``.
    """
    if not bool(draft.any()):
        return torch.zeros_like(draft)
    near = (prompts[:2].amax(dim=0) / POINT_PEAK) ** (POINT_REACH / SETTLED_REACH)
    return trust * (1 - near) * (2 * draft - 1)
