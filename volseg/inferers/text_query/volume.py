"""An image as the text-query network sees it: axes towards right, anterior, superior, one spacing, default window."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from volseg.geometry import Grid
from volseg.networks.text_query.channels import RANGE
from volseg.transforms.midline import Midline, find_midline
from volseg.transforms.resample import ResampleWithPromptsd
from volseg.transforms.windows import IntensityWindow

if TYPE_CHECKING:
    from monai.data import MetaTensor

LINEAR = "bilinear"


def network_grid(grid: Grid, spacing_mm: float) -> Grid:
    """The grid over the same block of space with axes near right, anterior, superior and one spacing."""
    return grid.reoriented("RAS").with_spacing((spacing_mm,) * 3)


def to_network(image: Tensor, grid: Grid, target: Grid, window: IntensityWindow) -> Tensor:
    """Carries an image to the network's grid.

    Where the image's voxels are much smaller, several samples are averaged for each of the network's, so that noise and
    thin structures are not picked at random.

    Args:
        image: [1, I, J, K] in the file's units, on ``grid``.
        grid: where its voxels are.
        target: from ``network_grid``.
        window: what becomes 0 and 1.

    Returns:
        [1, I, J, K] float32 on ``target``, in units of the window.
    """
    turned = grid.reoriented("RAS")
    values = as_ras(image, grid)
    factors = [max(1, round(t / s)) for t, s in zip(target.spacing_mm, turned.spacing_mm, strict=True)]
    finer = _subdivided(target, factors)
    values = torch.nan_to_num(values) if values.dtype.is_floating_point else values
    result = ResampleWithPromptsd.carry(values, turned, finer, LINEAR).float()
    result = result.sub_(window.low).div_(window.high - window.low).clamp_(*RANGE)
    if max(factors) > 1:
        pooled = torch.zeros((1, *target.shape), dtype=torch.float32)
        for offset in itertools.product(*(range(f) for f in factors)):
            pooled += result[(slice(None), *(slice(o, None, f) for o, f in zip(offset, factors, strict=True)))]
        result = pooled.div_(float(np.prod(factors)))
    return result


def midline_of(image: MetaTensor, window: IntensityWindow) -> Midline:
    """Where left and right part in an image [1, I, J, K] of any orientation; see ``find_midline``."""
    grid = Grid.of(image)
    return find_midline(as_ras(image, grid), grid.reoriented("RAS"), window)


def as_ras(image: Tensor, grid: Grid) -> Tensor:
    """The same voxels, on ``grid.reoriented("RAS")``.

    Args:
        image: [C, I, J, K] on ``grid``.
        grid: where its voxels are.
    """
    values = image.as_tensor() if hasattr(image, "as_tensor") else image
    order = [grid.axis_order.index(ras) for ras in range(3)]
    turned = values.permute(0, *(axis + 1 for axis in order))
    flipped = [ras + 1 for ras, axis in enumerate(order) if grid.axis_signs[axis] < 0]
    return turned.flip(flipped) if flipped else turned


def _subdivided(grid: Grid, factors: list[int]) -> Grid:
    """Every voxel of ``grid`` cut into ``factors`` parts along i, j, k."""
    i, j, k = (n * f for n, f in zip(grid.shape, factors, strict=True))
    step = np.eye(4)
    step[:3, :3] = np.diag([1 / f for f in factors])
    step[:3, 3] = [0.5 / f - 0.5 for f in factors]
    return Grid((i, j, k), grid.affine_ras @ step)
