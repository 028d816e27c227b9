"""Another order and direction of the voxel axes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
import torch

from volseg.geometry import Grid, parse_axcodes
from volseg.prompts import PromptSet
from volseg.transforms.spatial import SpatialWithPromptsd


class ReorientWithPromptsd(SpatialWithPromptsd):
    """Permutes and flips the voxel axes so that they run towards ``axcodes``; every voxel keeps its place and value.

    The inverse restores tensors bit for bit. Axes of oblique images count as the anatomical axis they lie closest to,
    each taken once.

    Args:
        keys: see ``SpatialWithPromptsd``.
        axcodes: the directions i, j and k shall run towards, such as ``"RAS"``.
        label_keys: see ``SpatialWithPromptsd``.
        prompts_key: see ``SpatialWithPromptsd``.
        allow_missing_keys: see ``SpatialWithPromptsd``.

    Raises:
        GeometryError: ``axcodes`` does not name each of the three directions once.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        axcodes: str = "RAS",
        label_keys: Hashable | Iterable[Hashable] | None = None,
        prompts_key: Hashable | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_keys, prompts_key, allow_missing_keys)
        parse_axcodes(axcodes)
        self.axcodes = axcodes

    def target(self, grid: Grid, prompts: PromptSet | None) -> Grid:
        """See ``SpatialWithPromptsd.target``."""
        return grid.reoriented(self.axcodes)

    @staticmethod
    def carry(values: torch.Tensor, source: Grid, target: Grid, mode: str) -> torch.Tensor:
        """See ``SpatialWithPromptsd.carry``."""
        matrix = np.round(source.ijk_from(target)[:3, :3])
        axes = np.abs(matrix).argmax(axis=0)
        flipped = [new + 1 for new, old in enumerate(axes) if matrix[old, new] < 0]
        return values.permute(0, *(axes + 1).tolist()).flip(flipped).contiguous()
