"""What a person would say about a target: simulated boxes, clicks, scribbles and rough masks, in frame pixels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

BOX_LABELS = (2, 3)
EDT_STEP = 2
"""Clicks are placed on every second pixel; the distance transforms of whole frames would cost a tenth of a step."""
EXACT_BOXES = 0.25
"""Part of the boxes that are drawn exactly around the object."""
BOX_SPREAD = (0.02, 0.13)
"""How far off the sides of the other boxes are: standard deviation as a part of the side, lowest and highest. Boxes
that always fit teach a network to fill them without looking at the image."""


def solid(targets: Tensor) -> NDArray[np.bool_]:
    """Targets [R, S, S] as bool; a target thinner than a pixel keeps its strongest pixels."""
    peak = targets.flatten(1).amax(dim=1).clamp(max=1.0)
    threshold = torch.minimum(torch.full_like(peak, 0.5), 0.5 * peak)[:, None, None]
    result: NDArray[np.bool_] = ((targets >= threshold) & (targets > 0)).cpu().numpy()
    return result


def boxes(rng: np.random.Generator, masks: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """A box around each mask, most of them drawn a little off.

    Args:
        rng: the only source of chance.
        masks: [R, S, S], none empty.

    Returns:
        Corners [R, 2, 2] as (x, y), on the outer faces of the pixels; labels [R, 2].
    """
    side = masks.shape[-1]
    corners = np.stack([tight_box(mask) for mask in masks])
    size = corners[:, 1] - corners[:, 0]
    spread = rng.uniform(*BOX_SPREAD, (len(masks), 1, 1))
    off = rng.normal(0, spread, (len(masks), 2, 2)) * size[:, None] + rng.normal(0, 0.7, (len(masks), 2, 2))
    off = np.clip(off, -0.25 * size[:, None] - 1, 0.25 * size[:, None] + 1)
    # People rather draw too large than too small.
    off[:, 0] -= 0.02 * size
    off[:, 1] += 0.02 * size
    off[rng.random(len(masks)) < EXACT_BOXES] = 0
    corners = np.clip(corners + off, -0.5, side - 0.5)
    corners[:, 0] = np.minimum(corners[:, 0], side - 1.5)
    corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 1)
    return corners.astype(np.float32), np.tile(np.array(BOX_LABELS, np.int32), (len(masks), 1))


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """First and last corner (x, y) of a mask [S, S], on the outer faces of its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([[columns[0] - 0.5, rows[0] - 0.5], [columns[-1] + 0.5, rows[-1] + 0.5]])


def click(rng: np.random.Generator, mask: NDArray[np.bool_], sharpness: float = 2.0) -> tuple[float, float]:
    """A position (x, y) in a mask [S, S] that is not empty, drawn with probability distance-to-border ** sharpness."""
    from scipy.ndimage import distance_transform_edt

    coarse = mask[::EDT_STEP, ::EDT_STEP]
    if not coarse.any():
        rows, columns = np.nonzero(mask)
        place = int(rng.integers(len(rows)))
        return float(columns[place]), float(rows[place])
    depth = distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1].ravel()
    weight = (depth / depth.max()) ** sharpness
    place = int(np.searchsorted(np.cumsum(weight), rng.random() * weight.sum()))
    row, column = divmod(min(place, len(depth) - 1), coarse.shape[1])
    return float(column * EDT_STEP), float(row * EDT_STEP)


def first_clicks(rng: np.random.Generator, masks: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """One click in each mask [R, S, S]: mostly near the middle. Points [R, 1, 2], labels [R, 1]."""
    points = [click(rng, mask, float(rng.choice([1.0, 3.0, 8.0]))) for mask in masks]
    return np.array(points, np.float32)[:, None], np.ones((len(masks), 1), np.int32)


def correction_clicks(
    rng: np.random.Generator, masks: NDArray[np.bool_], found: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Clicks where an answer is wrong, in the largest or a random wrong part; where it is right, inside or outside.

    Args:
        rng: the only source of chance.
        masks: [R, S, S] what is wanted.
        found: [R, S, S] the answer.
        count: clicks a row.

    Returns:
        Points [R, count, 2] as (x, y) and labels [R, count], 1 inside and 0 outside.
    """
    from scipy.ndimage import label

    points = np.zeros((len(masks), count, 2), np.float32)
    labels = np.zeros((len(masks), count), np.int32)
    for row, (mask, answer) in enumerate(zip(masks, found, strict=True)):
        parts, number = label(mask != answer)
        sizes = np.bincount(parts.ravel(), minlength=number + 1)
        sizes[0] = 0
        for place in range(count):
            if sizes.sum() == 0:
                region = mask if mask.all() or (mask.any() and rng.random() < 0.5) else ~mask
            else:
                largest = place == 0 or rng.random() < 0.5
                chosen = int(sizes.argmax()) if largest else int(rng.choice(len(sizes), p=sizes / sizes.sum()))
                region = parts == chosen
                sizes[chosen] = 0
            x, y = click(rng, region)
            points[row, place] = x, y
            labels[row, place] = mask[int(y), int(x)]
    return points, labels


def scribbles(
    rng: np.random.Generator, masks: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points along a line through each mask [R, S, S]: points [R, count, 2], labels [R, count]."""
    points = np.zeros((len(masks), count, 2), np.float32)
    for row, mask in enumerate(masks):
        ends = np.array([click(rng, mask, 0.5), click(rng, mask, 0.5)])
        along = ends[0] + np.linspace(0, 1, count)[:, None] * (ends[1] - ends[0])
        inside = mask[along[:, 1].round().astype(int), along[:, 0].round().astype(int)]
        points[row] = np.where(inside[:, None], along, ends[0])
    return points, np.ones((len(masks), count), np.int32)


def rough_masks(rng: np.random.Generator, targets: Tensor, strength: float = 1.0) -> Tensor:
    """Targets drawn badly: grown or shrunk, shifted and wavy, as lassos and other programs' masks are.

    Args:
        rng: the only source of chance.
        targets: [R, S, S], from 0 to 1.
        strength: how badly.

    Returns:
        [R, S, S], 0 and 1; never empty where the target is not.
    """
    rows, side, _ = targets.shape
    noise = torch.from_numpy(rng.standard_normal((rows, 1, 10, 10), dtype=np.float32)).to(targets.device)
    waves = interpolate(noise, (side, side), mode="bicubic", align_corners=False)[:, 0]
    radius = int(rng.integers(1, 5))
    window = 2 * radius + 1
    soft = avg_pool2d(targets[:, None], window, 1, radius, count_include_pad=False)[:, 0]
    lift = torch.from_numpy(rng.normal(0, 0.12, (rows, 1, 1)).astype(np.float32)).to(targets.device)
    drawn = soft + strength * (0.15 * waves * (soft > 0.02) + lift * (soft > 0.02)) > 0.5
    empty = ~drawn.flatten(1).any(dim=1)
    if empty.any():
        drawn[empty] = torch.from_numpy(solid(targets[empty])).to(targets.device)
    return drawn.float()
