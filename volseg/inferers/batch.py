"""From a MONAI batch of images and prompts to a batch of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.errors import GeometryError, PromptError
from volseg.geometry import Grid
from volseg.prompts import PromptSet
from volseg.transforms.cases import PROMPTS_KEY

if TYPE_CHECKING:
    from monai.data import MetaTensor


def segment_batch(
    inputs: Tensor,
    prompts: Sequence[str] | str | None,
    segment: Callable[[MetaTensor, PromptSet], Iterable[ObjectMask]],
) -> Tensor:
    """Segments each image of a batch with its own prompts.

    Args:
        inputs: [B, 1, I, J, K] ``MetaTensor`` in the images' units; also where it was made by hand from one image.
        prompts: for each image its prompts as JSON (``PromptSet.dumps``); None takes those in the images' ``meta``,
            where ``ReadPromptsd`` notes them.
        segment: given an image [1, I, J, K] and its prompts on the image's grid.

    Returns:
        [B, 1, I, J, K] label values as floats, 0 is background; later objects win where objects overlap.

    Raises:
        PromptError: not one prompt string for each image, or a prompt that does not fit.
        GeometryError: the images have no affine.
    """
    from monai.data import MetaTensor

    images = _images(inputs)
    if prompts is None:
        prompts = [str(image.meta[PROMPTS_KEY]) for image in images if PROMPTS_KEY in image.meta]
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(images):
        raise PromptError(f"{len(images)} images came with {len(texts)} prompt strings; give one for each")
    labels = []
    for image, text in zip(images, texts, strict=True):
        grid = Grid.of(image)
        values = torch.zeros(tuple(image.shape), dtype=torch.float32)
        for mask in segment(image, PromptSet.loads(text, grid).on_grid(grid)):
            mask.write(values[0].numpy(), mask.object_id)
        labels.append(MetaTensor(values, affine=image.affine, meta=image.meta))
    return torch.stack(labels)


def _images(inputs: Tensor) -> list[MetaTensor]:
    from monai.data import MetaTensor, decollate_batch

    if getattr(inputs, "is_batch", False):
        images: list[MetaTensor] = decollate_batch(inputs)
        return images
    affine = getattr(inputs, "affine", None)
    if affine is None:
        raise GeometryError("the batch has no affine; give a MetaTensor, as MONAI's LoadImaged makes it")
    return [MetaTensor(image.as_tensor(), affine=affine, meta=image.meta) for image in inputs]
