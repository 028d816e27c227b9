"""Any model as a MONAI inferer, so that a bundle's ``SupervisedEvaluator`` runs the same code as everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from volseg.errors import PromptError
from volseg.geometry import Grid
from volseg.models.base import Model
from volseg.prompts import PromptSet


class PromptedInferer(Inferer):  # type: ignore[misc]
    """Takes images on their own grid with prompts as JSON, and gives labels there.

    Args:
        model: segments.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def __call__(self, inputs: Tensor, network: Any, *args: Any, prompts: Sequence[str] | str, **kwargs: Any) -> Tensor:
        """Segments a batch.

        Args:
            inputs: [B, 1, I, J, K] ``MetaTensor`` in the image's units.
            network: not used; the model has its own.
            args: not used; part of MONAI's signature.
            prompts: for each image its prompts as JSON (``PromptSet.dumps``).
            kwargs: not used; part of MONAI's signature.

        Returns:
            [B, 1, I, J, K] label values as floats, 0 is background; later objects win where objects overlap.

        Raises:
            PromptError: not one prompt string for each image, or a prompt that does not fit.
        """
        from volseg.inferers.batch import images_of

        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if len(texts) != len(inputs):
            raise PromptError(f"{len(inputs)} images came with {len(texts)} prompt strings; give one for each")
        labels = []
        for image, text in zip(images_of(inputs), texts, strict=True):
            values = torch.zeros(tuple(image.shape), dtype=torch.float32)
            with self.model.encode(image) as encoding:
                result = self.model.segment(encoding, PromptSet.loads(text, Grid.of(image)))
            for mask in result.masks:
                values[0][mask.slices][torch.tensor(mask.block)] = float(mask.object_id)
            labels.append(MetaTensor(values, affine=image.affine, meta=image.meta))
        return torch.stack(labels)
