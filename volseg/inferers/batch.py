"""The images of a MONAI batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from volseg.errors import GeometryError

if TYPE_CHECKING:
    from monai.data import MetaTensor


def images_of(inputs: Tensor) -> list[MetaTensor]:
    """The images of a batch, each with its own affine; also where the batch was made by hand from one image.

    Args:
        inputs: [B, C, I, J, K] ``MetaTensor``.

    Raises:
        GeometryError: the batch has no affine.
    """
    from monai.data import MetaTensor, decollate_batch

    if getattr(inputs, "is_batch", False):
        images: list[MetaTensor] = decollate_batch(inputs)
        return images
    affine = getattr(inputs, "affine", None)
    if affine is None:
        raise GeometryError("the batch has no affine; give a MetaTensor, as MONAI's LoadImaged makes it")
    return [MetaTensor(image.as_tensor(), affine=affine, meta=image.meta) for image in inputs]
