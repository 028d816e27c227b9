"""Intensities for a label map: generated tissue contrasts, and variations of real ones (after SynthSeg)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from volseg.training.synthetic import smooth_noise

CLASSES = 4
"""Unlabelled tissue is painted in so many classes of its real intensity, so that its texture stays."""

FIRST_CLASS = 210
"""Label id of the first of these classes."""


def split_background(labels: Tensor, image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gives unlabelled voxels ids by their intensity.

    Args:
        labels: [I, J, K] uint8.
        image: [I, J, K] real intensities in units of the default window.
        rng: the only source of chance.
    """
    borders = torch.from_numpy(np.sort(rng.uniform(-0.3, 1.0, CLASSES - 1)).astype(np.float32))
    classes = torch.bucketize(image, borders).to(torch.uint8) + FIRST_CLASS
    return torch.where(labels == 0, classes, labels)


def paint_labels(
    labels: Tensor, groups: Mapping[int, int], means: np.ndarray | None, rng: np.random.Generator
) -> Tensor:
    """An image from a label map.

    Args:
        labels: [I, J, K] uint8.
        groups: label ids that mostly get the same intensity, such as left and right, by a number.
        means: [256] real mean intensities to stay near; None draws them from nothing.
        rng: the only source of chance.

    Returns:
        [I, J, K] float32, roughly from 0 to 1.
    """
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    drawn = rng.uniform(0, 1, 256).astype(np.float32)
    if means is not None:
        contrast, shift = np.exp(rng.normal(0, 0.2)), rng.normal(0, 0.05)
        # From nearly the contrasts of the real image to only their order.
        each = rng.normal(0, rng.uniform(0.02, 0.15), 256)
        drawn = (means * contrast + shift + each).astype(np.float32)
    for one, group in groups.items():
        drawn[one] = drawn[group] + rng.normal(0, 0.02)
    spread = rng.uniform(0, 0.08 if means is not None else 0.12, 256).astype(np.float32)
    index = labels.long()
    texture = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    if rng.random() < 0.5:
        texture = 0.6 * texture + smooth_noise(rng, shape, tuple(max(2, n // 3) for n in shape))  # type: ignore[arg-type]
    image = torch.from_numpy(drawn)[index] + torch.from_numpy(spread)[index] * texture
    # Partial volume: borders between tissues are never sharp.
    return blurred(image, float(rng.uniform(0.3, 1.0)))


def blurred(image: Tensor, part: float) -> Tensor:
    """A mix of the image and its mean over 3 x 3 x 3 voxels."""
    mean = avg_pool3d(image[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    return image.lerp(mean, part)


def recast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """CT as MR might show it: intensities mapped by a random curve that need not rise; air stays dark.

    Args:
        image: [I, J, K] in units of CT's default window.
        rng: the only source of chance.

    Returns:
        [I, J, K] from 0 to 1.
    """
    inner = np.sort(rng.uniform(0.1, 0.9, int(rng.integers(2, 5))))
    knots = np.concatenate([[0.0, 0.05], inner, [1.0]])
    values = np.concatenate([[0.0], rng.uniform(0.0, 1.0, len(knots) - 1)])
    mapped = np.interp(image.numpy().ravel(), knots, values).astype(np.float32)
    return torch.from_numpy(mapped.reshape(tuple(image.shape)))


def vary(image: Tensor, rng: np.random.Generator, strong: bool) -> Tensor:
    """Scanner effects: bias field, contrast, gamma, blur or coarse sampling, noise.

    Args:
        image: [I, J, K] in units of the default window.
        rng: the only source of chance.
        strong: whether intensities have no absolute meaning (everything but CT).
    """
    shape = (image.shape[0], image.shape[1], image.shape[2])
    if strong and rng.random() < 0.6:
        image = image * (smooth_noise(rng, shape, (3, 3, 3)) * float(rng.uniform(0, 0.25))).exp()
    if rng.random() < 0.4:
        # An averaged template is as smooth as three passes leave an image.
        for _ in range(int(rng.integers(1, 4))):
            image = blurred(image, float(rng.uniform(0.2, 1.0)))
    if rng.random() < 0.15:
        axis = int(rng.integers(3))
        size = [max(2, round(n / float(rng.uniform(1.5, 3)))) if a == axis else n for a, n in enumerate(shape)]
        small = interpolate(image[None, None], size, mode="trilinear", align_corners=False)
        image = interpolate(small, shape, mode="trilinear", align_corners=False)[0, 0]
    wide = 0.15 if strong else 0.04
    image = image * float(np.exp(rng.normal(0, wide))) + float(rng.normal(0, wide / 2))
    if strong and rng.random() < 0.5:
        image = image.clamp(0, 2).pow(float(np.exp(rng.normal(0, 0.25))))
    if rng.random() < 0.5:
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        image = image + noise * float(rng.uniform(0, 0.06))
    return image


def within(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Where an image is that ends within a window, across one axis or two, as thin slabs do: bool [I, J, K].

    Args:
        shape: of the window.
        rng: the only source of chance.
    """
    inside = torch.ones(tuple(shape), dtype=torch.bool)
    for axis in rng.choice(3, int(rng.integers(1, 3)), replace=False, p=(0.25, 0.25, 0.5)).tolist():
        size = max(1, round(float(rng.uniform(0.3, 0.95)) * shape[axis]))
        # In use, what is smaller than a window lies at either end of it, or in the middle.
        first = (0, (shape[axis] - size) // 2, shape[axis] - size)[int(rng.integers(3))]
        outside = torch.ones(shape[axis], dtype=torch.bool)
        outside[first : first + size] = False
        inside.movedim(axis, 0)[outside] = False
    return inside
