"""Another distance between voxels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from monai.networks.layers import AffineTransform

from volseg.errors import GeometryError
from volseg.geometry import MIN_SPACING_MM, POSITION_TOLERANCE, Grid
from volseg.prompts import PromptSet
from volseg.transforms.spatial import LABEL_MODE, SpatialWithPromptsd

SLAB_VOXELS = 1 << 21
"""Voxels that are computed at once; each needs about 50 bytes in between."""


class ResampleWithPromptsd(SpatialWithPromptsd):
    """Resamples to a spacing: images linearly (float32), label maps to the nearest voxel (same dtype and ids).

    The new grid covers the same block of space (``Grid.with_spacing``). There is no smoothing before sampling down, as
    with MONAI's ``Spacingd``. Memory beyond the result is bounded by slabs. A label position half-way between two
    voxels takes the one further right, anterior or superior, so that labels do not depend on the order on disk.

    The inverse returns exactly to the original grid; values are interpolated a second time (label maps: nearest).

    Args:
        keys: see ``SpatialWithPromptsd``.
        spacing_mm: distance between voxels along i, j, k as stored, or one number for all (reorient first where the
            three differ and files may have any orientation).
        label_keys: see ``SpatialWithPromptsd``.
        prompts_key: see ``SpatialWithPromptsd``.
        allow_missing_keys: see ``SpatialWithPromptsd``.

    Raises:
        GeometryError: ``spacing_mm`` is not one or three positive numbers.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        spacing_mm: float | Sequence[float],
        label_keys: Hashable | Iterable[Hashable] | None = None,
        prompts_key: Hashable | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_keys, prompts_key, allow_missing_keys)
        try:
            i, j, k = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (3,)).tolist()
        except (TypeError, ValueError) as error:
            raise GeometryError(f"a spacing is one or three positive numbers in mm, got {spacing_mm!r}") from error
        if not min(i, j, k) >= MIN_SPACING_MM or not np.isfinite([i, j, k]).all():
            raise GeometryError(f"a spacing is one or three positive numbers in mm, got {spacing_mm!r}")
        self.spacing_mm = (i, j, k)

    def target(self, grid: Grid, prompts: PromptSet | None) -> Grid:
        """See ``SpatialWithPromptsd.target``."""
        return grid.with_spacing(self.spacing_mm)

    @staticmethod
    def carry(values: torch.Tensor, source: Grid, target: Grid, mode: str) -> torch.Tensor:
        """See ``SpatialWithPromptsd.carry``."""
        dtype = values.dtype if mode == LABEL_MODE else torch.float32
        to_source = source.ijk_from(target)
        if source.shape == target.shape and np.allclose(to_source, np.eye(4), rtol=0, atol=1e-9):
            return values.to(dtype)
        if mode == LABEL_MODE:
            to_source[:3, 3] += POSITION_TOLERANCE * np.array(source.axis_signs)
        # MONAI's layer and not its SpatialResample, which takes affines within 0.001 mm for equal.
        layer = AffineTransform(
            normalized=False, mode=mode, padding_mode="border", align_corners=False, reverse_indexing=True
        )
        result = torch.empty((len(values), *target.shape), dtype=dtype, device=values.device)
        step, offset = to_source[0, 0], to_source[0, 3]
        plane = max(target.shape[1] * target.shape[2], int(step * source.shape[1] * source.shape[2]))
        thickness = max(1, SLAB_VOXELS // plane)
        for start in range(0, target.shape[0], thickness):
            stop = min(start + thickness, target.shape[0])
            # Neighbours on both sides, so that the slab's border is never taken for the volume's.
            first = int(np.clip(np.floor(step * start + offset) - 1, 0, source.shape[0] - 1))
            last = int(np.clip(np.ceil(step * (stop - 1) + offset) + 1, 0, source.shape[0] - 1))
            theta = to_source.copy()
            theta[0, 3] += step * start - first
            slab = values[None, :, first : last + 1].to(torch.float64)
            size = (stop - start, *target.shape[1:])
            result[:, start:stop] = layer(slab, torch.as_tensor(theta, device=values.device), size)[0].to(dtype)
        return result
