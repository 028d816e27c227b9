"""What transforms keep of an image when they make another."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from volseg.geometry import Grid


def rewrapped(values: torch.Tensor, like: MetaTensor, grid: Grid | None = None) -> MetaTensor:
    """A new image with the history and ``meta`` of another, whose own are left alone.

    Args:
        values: plain tensor [C, I, J, K].
        like: where ``meta`` and the applied operations come from.
        grid: the new image's grid; None keeps the affine.
    """
    image = MetaTensor(values)
    image.copy_meta_from(like)
    if grid is not None:
        image.affine = torch.tensor(grid.affine_ras, dtype=torch.float64)
        if "pixdim" in image.meta:
            # MONAI's readers put NIfTI's spacing here; the array belongs to the other image.
            pixdim = image.meta["pixdim"].copy()
            pixdim[1:4] = grid.spacing_mm
            image.meta["pixdim"] = pixdim
    return image
