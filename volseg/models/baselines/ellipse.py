"""The filled ellipse of a box: what one gets without looking at the image at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.progress import ProgressCallback
from volseg.prompts import Box, PromptedObject, PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor


class EllipseInBox(Model):
    """Fills boxes. A model that does no better has not used the image.

    Args:
        as_body: False copies the ellipse of the box's slice unchanged to all slices of the image, or of the 3D box.
            True fills the ellipsoid of a 3D box; a 2D box is taken to be the middle of an object that is as deep as
            its box is wide on average.
    """

    def __init__(self, *, as_body: bool = False) -> None:
        self.as_body = as_body

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        how = "as an ellipsoid" if self.as_body else "copied over all slices"
        return ModelCard(
            name="ellipsoid" if self.as_body else "ellipse",
            version="1",
            summary=f"Trivial baseline: the filled ellipse of the box, {how}; does not look at the image.",
            positive=frozenset({PromptKind.BOX_2D, PromptKind.BOX_3D}),
            volumetric=self.as_body,
        )

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> Encoding:
        """See ``Model.encode``; nothing is computed."""
        return Encoding(image, options or EncodeOptions())

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        return tuple(self._fill(item, encoding.grid) for item in prompts.objects)

    def _fill(self, item: PromptedObject, grid: Grid) -> ObjectMask:
        mask = np.zeros(grid.shape, dtype=bool)
        for box in item.prompts:
            if isinstance(box, Box):
                mask |= self._filled(box, grid)
        return ObjectMask.of(item.object_id, grid, mask)

    def _filled(self, box: Box, grid: Grid) -> NDArray[np.bool_]:
        low, high = (np.array(end, dtype=np.float64) for end in box.bounds_ijk(grid))  # high is one past the last
        centre, half = (low + high - 1) / 2, (high - low) / 2
        axis = box.flat_axis
        stacked = grid.axis_of(grid.acquisition_plane()) if axis is None else axis
        if axis is not None:
            sides_mm = np.delete((high - low) * np.array(grid.spacing_mm), axis)
            half[axis] = sides_mm.mean() / 2 / grid.spacing_mm[axis] if self.as_body else np.inf
        distance = np.zeros((1, 1, 1))
        inside = np.ones((1, 1, 1), dtype=bool)
        for one in range(3):
            along = np.arange(grid.shape[one]).reshape([-1 if other == one else 1 for other in range(3)]) - centre[one]
            if one == stacked and not self.as_body:
                inside = np.abs(along) < half[one]
            else:
                distance = distance + (along / half[one]) ** 2
        filled: NDArray[np.bool_] = np.broadcast_to((distance <= 1) & inside, grid.shape)
        return filled
