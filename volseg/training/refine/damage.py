"""Truths damaged as answers of slice-wise models are: cut short, run on, shifted, swollen, with parts lost or added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool3d

from volseg.training.synthetic import smooth_noise

EMPTY = 0.08
"""Part of the drafts that are empty."""
SLIGHT = 0.3
"""Part of the drafts that are nearly right: corrections of good answers are learnt from these."""


def damaged(rng: np.random.Generator, truth: Tensor) -> Tensor:
    """A draft of an object.

    Args:
        rng: the only source of chance.
        truth: [A, B, C] from 0 to 1.

    Returns:
        [A, B, C], 0 and 1.
    """
    mask = truth > 0.5
    if not mask.any() or rng.random() < EMPTY:
        return torch.zeros_like(truth)
    draft = mask
    if rng.random() < SLIGHT:
        way = SLIGHT_WAYS[int(rng.integers(len(SLIGHT_WAYS)))]
        return way(rng, draft).float()
    if rng.random() < 0.2:
        draft = _ellipsoid(rng, mask)
    for _ in range(int(rng.integers(1, 4))):
        way = WAYS[int(rng.integers(len(WAYS)))]
        draft = way(rng, draft)
    return draft.float()


def _extent(mask: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    places = torch.nonzero(mask)
    if len(places) == 0:
        return np.zeros(3), np.array(mask.shape, dtype=float)
    return places.amin(dim=0).numpy().astype(float), places.amax(dim=0).numpy() + 1.0


def _axes(mask: Tensor) -> list[Tensor]:
    shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    return [torch.arange(n, dtype=torch.float32).reshape(s) for n, s in zip(mask.shape, shapes, strict=True)]


def _ellipsoid(rng: np.random.Generator, mask: Tensor) -> Tensor:
    low, high = _extent(mask)
    middle = (low + high) / 2 + rng.normal(0, 0.05, 3) * (high - low)
    radii = np.maximum((high - low) / 2 * np.exp(rng.normal(0, 0.15, 3)), 1.0)
    parts = [((axis + 0.5 - m) / r).square() for axis, m, r in zip(_axes(mask), middle, radii, strict=True)]
    inside: Tensor = parts[0] + parts[1] + parts[2] < 1
    return inside


def _cut(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """Loses an end."""
    low, high = _extent(mask)
    axis = int(rng.integers(3))
    part = rng.uniform(0.1, 0.7)
    place = low[axis] + part * (high[axis] - low[axis])
    where = _axes(mask)[axis]
    rest: Tensor = mask & (where > place if part < 0.4 else where < place)
    return rest


def _run_on(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """Goes on beyond an end with a cross-section from near it."""
    low, high = _extent(mask)
    axis = int(rng.integers(3))
    if high[axis] - low[axis] < 4:
        return mask
    up = rng.random() < 0.5
    depth = int(rng.uniform(0.05, 0.4) * (high[axis] - low[axis]))
    place = int(high[axis]) - 1 - depth if up else int(low[axis]) + depth
    length = int(rng.uniform(0.1, 0.5) * (high[axis] - low[axis])) + 1
    section = mask.select(axis, place).unsqueeze(axis)
    where = _axes(mask)[axis]
    reach = (where >= place) & (where < high[axis] + length) if up else (where <= place) & (where >= low[axis] - length)
    longer: Tensor = mask | (section & reach)
    return longer


def _shift(rng: np.random.Generator, mask: Tensor) -> Tensor:
    low, high = _extent(mask)
    steps = np.round(rng.normal(0, 0.08, 3) * (high - low)).astype(int)
    result = mask
    for axis, step in enumerate(steps.tolist()):
        if step:
            result = result.roll(step, dims=axis)
            where = _axes(mask)[axis]
            result = result & (where >= step if step > 0 else where < mask.shape[axis] + step)
    return result


def _grow(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """Swells or shrinks."""
    size = [2 * int(rng.integers(0, 3)) + 1 for _ in range(3)]
    padding = [n // 2 for n in size]
    values = mask.float()[None, None]
    if rng.random() < 0.5:
        return max_pool3d(values, size, 1, padding)[0, 0] > 0.5
    shrunk = -max_pool3d(-values, size, 1, padding)[0, 0] > 0.5
    return shrunk if shrunk.any() else mask


def _wave(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """Moves the border in and out, smoothly."""
    values = torch.nn.functional.avg_pool3d(mask.float()[None, None], 7, 1, 3, count_include_pad=False)[0, 0]
    cells = (6, 6, 6) if rng.random() < 0.5 else (3, 3, 3)
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    moved: Tensor = values + 0.25 * smooth_noise(rng, shape, cells) * (values > 0.02) * (values < 0.98) > 0.5
    return moved


def _blob(rng: np.random.Generator, mask: Tensor) -> Tensor:
    """Loses or gains a ball at the border."""
    edge = torch.nonzero(mask & ~(-max_pool3d(-mask.float()[None, None], 3, 1, 1)[0, 0] > 0.5))
    if len(edge) == 0:
        return mask
    low, high = _extent(mask)
    centre = edge[int(rng.integers(len(edge)))].tolist()
    radii = np.maximum(2.0, rng.uniform(0.1, 0.35) * float((high - low).mean()) * np.exp(rng.normal(0, 0.3, 3)))
    parts = [((axis - c) / r).square() for axis, c, r in zip(_axes(mask), centre, radii, strict=True)]
    ball = parts[0] + parts[1] + parts[2] < 1
    changed: Tensor = mask & ~ball if rng.random() < 0.5 else mask | ball
    return changed


WAYS: tuple[Callable[[np.random.Generator, Tensor], Tensor], ...] = (_cut, _cut, _run_on, _shift, _grow, _wave, _blob)
SLIGHT_WAYS: tuple[Callable[[np.random.Generator, Tensor], Tensor], ...] = (_wave, _blob, _blob)
