"""Varies blocks: geometry of all channels together, intensities alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool3d, grid_sample, interpolate

from volseg.training.rotation import rotation
from volseg.training.synthetic import smooth_noise

TURNED = 0.5
"""Part of the blocks that are turned and stretched, half of them bent as well."""
MOST_NOISE = 0.2
"""Standard deviation of added noise, at most, in units of the window; thin slices of a CT have so much."""
BEND = 0.06
"""Standard deviation of the largest bends, as a part of half a side."""


def vary_geometry(rng: np.random.Generator, block: Tensor) -> Tensor:
    """Mirrors, exchanges axes, turns, stretches and bends.

    Args:
        rng: the only source of chance.
        block: [C, A, B, C'].

    Returns:
        The channels alike; axes may have changed places.
    """
    flips = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
    if flips:
        block = block.flip(flips)
    if rng.random() < 0.3:
        block = block.permute(0, *(1 + int(axis) for axis in rng.permutation(3)))
    if rng.random() < TURNED:
        turn = rotation(rng.normal(0, 0.2, 3)) @ np.diag(np.exp(rng.normal(0, 0.1, 3)))
        # affine_grid works on sides from -1 to 1, x last: lengths of the sides come in to keep angles.
        sides = np.array(block.shape[:0:-1], dtype=float)
        matrix = turn * sides[None, :] / sides[:, None]
        theta = torch.from_numpy(np.concatenate([matrix, np.zeros((3, 1))], axis=1)[None]).float()
        grid = affine_grid(theta, [1, *block.shape], align_corners=False)
        if rng.random() < 0.5:
            shape, cells = (block.shape[1], block.shape[2], block.shape[3]), (int(rng.integers(3, 6)),) * 3
            bend = torch.stack([smooth_noise(rng, shape, cells) for _ in range(3)], dim=-1)
            grid = grid + float(rng.uniform(0.01, BEND)) * bend
        block = grid_sample(block[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return block.contiguous()


def vary_intensities(rng: np.random.Generator, image: Tensor, *, free: bool) -> Tensor:
    """Changes contrast, brightness, shading, sharpness and noise.

    Args:
        rng: the only source of chance.
        image: [A, B, C] in units of the window.
        free: whether the unit means little, as in MR, so that more is changed.
    """
    shape = (image.shape[0], image.shape[1], image.shape[2])
    strength = 1.0 if free else 0.5
    if rng.random() < 0.5:
        contrast, shift = float(np.exp(rng.normal(0, 0.3 * strength))), float(rng.normal(0, 0.12 * strength))
        image = (image - 0.5) * contrast + 0.5 + shift
    if free and rng.random() < 0.3:
        image = _other_contrast(rng, image)
    if free and rng.random() < 0.3:
        image = image.clamp(min=0).pow(float(np.exp(rng.normal(0, 0.3))))
    if free and rng.random() < 0.2:
        image = 1 - image
    if free and rng.random() < 0.3:
        image = image * (smooth_noise(rng, shape, (3, 3, 3)) * float(rng.uniform(0, 0.2))).exp()
    if rng.random() < 0.25:
        size = [3 if rng.random() < 0.6 else 1 for _ in range(3)]
        padding = [n // 2 for n in size]
        image = avg_pool3d(image[None, None], size, 1, padding, count_include_pad=False)[0, 0]
    elif rng.random() < 0.15:
        axis = int(rng.integers(3))
        coarse = list(shape)
        coarse[axis] = max(2, coarse[axis] // int(rng.integers(2, 4)))
        image = interpolate(interpolate(image[None, None], coarse, mode="nearest"), shape, mode="trilinear")[0, 0]
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        image = image + noise * (MOST_NOISE * float(rng.random()) ** 2)
    return image


def vary_inside(rng: np.random.Generator, image: Tensor, truth: Tensor) -> Tensor:
    """Gives a part of the object other intensities, as necrosis, blood or fluid do in a tumour.

    Args:
        rng: the only source of chance.
        image: [A, B, C] in units of the window.
        truth: [A, B, C] from 0 to 1.
    """
    shape = (image.shape[0], image.shape[1], image.shape[2])
    cells = (int(rng.integers(3, 7)), int(rng.integers(3, 7)), int(rng.integers(3, 7)))
    noise = smooth_noise(rng, shape, cells)
    part = ((noise - float(rng.uniform(-0.5, 1.0))) / float(rng.uniform(0.05, 0.5))).clamp(0, 1) * truth
    # Inside of it, the tissue's own texture fades more or less.
    other = float(rng.uniform(-0.1, 1.2)) + float(rng.uniform(0, 0.6)) * (image - image.mean())
    return image + part * (other - image)


def _other_contrast(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Maps intensities by a random curve that need not rise, as another sequence would show the same tissues.

    The idea is that of Models Genesis (Zhou et al., Medical Image Analysis 2021); here the curve is linear between
    knots.
    """
    knots = np.linspace(-0.1, 1.1, int(rng.integers(4, 8)))
    values = knots + rng.normal(0, 0.3, len(knots))
    mapped = np.interp(image.numpy().ravel(), knots, values).astype(np.float32).reshape(tuple(image.shape))
    return torch.from_numpy(mapped)
