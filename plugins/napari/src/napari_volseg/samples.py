"""Data to try the plugin with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import AFFINE_KEY, MODALITY_KEY

SPACING_MM = (3.0, 1.6, 1.6)
"""Between slices, rows and columns."""

SHAPE = (60, 200, 240)

Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float], int]

ORGANS: dict[str, Ellipsoid] = {
    # centre and half axes in mm from the middle, along superior, posterior, left; Hounsfield units
    "body": ((0, 0, 0), (400, 130, 175), 35),
    "right lung": ((95, -10, -75), (75, 85, 62), -820),
    "left lung": ((95, -10, 75), (75, 85, 60), -830),
    "spine": ((0, 75, 0), (400, 24, 22), 380),
    "liver": ((-20, -15, -75), (58, 80, 78), 105),
    "spleen": ((-5, 40, 95), (42, 38, 26), 115),
    "right kidney": ((-55, 50, -60), (38, 22, 22), 170),
    "left kidney": ((-50, 50, 62), (38, 22, 22), 170),
    "aorta": ((0, 40, 8), (400, 12, 12), 200),
    "tumour": ((-22, -20, -95), (17, 19, 18), 55),
}
"""Drawn in this order; later ones lie inside earlier ones."""


def phantom() -> list[tuple[Any, dict[str, Any], str]]:
    """A CT-like torso of ellipsoids in Hounsfield units, with noise; the patient's right is on the left."""
    array, _ = draw_phantom()
    affine = np.zeros((4, 4))
    # Slices run towards superior, rows towards posterior, columns towards left.
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = SPACING_MM[0], -SPACING_MM[1], -SPACING_MM[2], 1
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    attributes = {
        "name": "CT phantom",
        "scale": SPACING_MM,
        "units": ("mm",) * 3,
        "contrast_limits": (-160.0, 240.0),
        "metadata": {AFFINE_KEY: affine, MODALITY_KEY: "CT"},
    }
    return [(array, attributes, "image")]


def draw_phantom(seed: int = 0) -> tuple[NDArray[np.int16], dict[str, NDArray[np.bool_]]]:
    """The voxels, int16 [slices, rows, columns], and every organ's mask where nothing lies in it."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    superior, posterior, left = np.meshgrid(*axes, indexing="ij", sparse=True)
    array = np.full(SHAPE, -1000.0, dtype=np.float32)
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, (centre, half, hu) in ORGANS.items():
        inside = (
            ((superior - centre[0]) / half[0]) ** 2
            + ((posterior - centre[1]) / half[1]) ** 2
            + ((left - centre[2]) / half[2]) ** 2
        ) <= 1
        for other in masks:
            masks[other] &= ~inside
        masks[name] = inside
        array[inside] = hu
    array += rng.normal(0, 9, SHAPE).astype(np.float32)
    return array.astype(np.int16), masks
