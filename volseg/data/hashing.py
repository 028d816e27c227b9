"""The identity of an image."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from volseg.geometry import Grid

if TYPE_CHECKING:
    from monai.data import MetaTensor


def image_sha256(image: MetaTensor) -> str:
    """Hash of an image's voxels, their type and their grid; the same for the same image in any memory layout.

    The grid counts to float32, which is what NIfTI keeps, so a copy in another format has the same hash.

    Args:
        image: [C, I, J, K]; read slice by slice, no copy of the whole is made.

    Returns:
        64 hexadecimal digits.
    """
    array = image.detach().cpu().as_tensor().numpy()
    little = array.dtype.newbyteorder("<")
    affine = Grid.of(image).affine_ras.astype("<f4") + np.float32(0.0)  # + 0.0 turns -0.0 into 0.0
    digest = hashlib.sha256(f"{tuple(array.shape)} {little.str} {affine.tolist()}".encode())
    for channel in array:
        for k in range(array.shape[3]):
            plane = np.asfortranarray(channel[..., k], dtype=little)
            digest.update(plane.T.data.cast("B"))
    return digest.hexdigest()
