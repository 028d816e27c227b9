"""Bones in CT, found by their density: labels to learn from where nobody has drawn any, and never to be scored by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DENSE_HU = 180.0
"""Cortical bone is denser, even where thick slices average it with its surroundings; other tissue without contrast
medium is not."""
SMOOTH = 0.5
"""Standard deviation, in voxels of the two axes with the finest spacing, by which noise is smoothed before."""
MOST = 12
LEAST_ML = 3.0


def bone_labels(image_hu: NDArray[Any], spacing_mm: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Bones with their marrow, the largest first.

    What is dense is closed and its holes are filled plane by plane. Bones that touch may be one.

    Args:
        image_hu: [I, J, K] in Hounsfield units.
        spacing_mm: of its axes.

    Returns:
        [I, J, K] ids from 1 to 12, of bones of 3 ml or more; 0 elsewhere.
    """
    from scipy import ndimage

    finest = np.argsort(spacing_mm)[:2]
    sigma = [SMOOTH if axis in finest else 0.0 for axis in range(3)]
    dense = ndimage.gaussian_filter(np.nan_to_num(image_hu.astype(np.float32)), sigma) > DENSE_HU
    cross = ndimage.generate_binary_structure(3, 1)
    closed = ndimage.binary_closing(np.pad(dense, 3), cross, iterations=2)[3:-3, 3:-3, 3:-3]
    filled = closed.copy()
    for axis in range(3):
        for plane, hollow in zip(np.moveaxis(filled, axis, 0), np.moveaxis(closed, axis, 0), strict=True):
            plane |= ndimage.binary_fill_holes(hollow)
    parts, count = ndimage.label(ndimage.binary_opening(filled, cross))
    sizes_ml = np.bincount(parts.ravel(), minlength=count + 1) * (float(np.prod(spacing_mm)) / 1000)
    sizes_ml[0] = 0
    order = [one for one in np.argsort(-sizes_ml)[:MOST] if sizes_ml[one] >= LEAST_ML]
    number = np.zeros(count + 1, dtype=np.uint8)
    number[order] = np.arange(1, len(order) + 1)
    labels = number[parts]
    # What the opening took from their surface comes back.
    around = ndimage.grey_dilation(labels, footprint=cross)
    result: NDArray[np.uint8] = np.where((labels == 0) & filled, around, labels)
    return result
