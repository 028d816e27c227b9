"""Any model as a MONAI inferer, so that a bundle's ``SupervisedEvaluator`` runs the same code as everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from volseg.data.object_mask import ObjectMask
from volseg.inferers.batch import segment_batch
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

    def __call__(
        self, inputs: Tensor, network: Any, *args: Any, prompts: Sequence[str] | str | None = None, **kwargs: Any
    ) -> Tensor:
        """Segments a batch.

        Args:
            inputs: [B, 1, I, J, K] ``MetaTensor`` in the image's units.
            network: not used; the model has its own.
            args: not used; part of MONAI's signature.
            prompts: for each image its prompts as JSON (``PromptSet.dumps``), or None for those in its ``meta``.
            kwargs: not used; part of MONAI's signature.

        Returns:
            [B, 1, I, J, K] label values as floats, 0 is background; later objects win where objects overlap.

        Raises:
            PromptError: not one prompt string for each image, or a prompt that does not fit.
        """

        def segment(image: MetaTensor, said: PromptSet) -> Sequence[ObjectMask]:
            with self.model.encode(image) as encoding:
                return self.model.segment(encoding, said).masks

        return segment_batch(inputs, prompts, segment)
