"""Only what lies around the prompts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from volseg.errors import GeometryError, PromptError
from volseg.geometry import Grid
from volseg.prompts import Box, MaskPrompt, Prompt, PromptSet
from volseg.transforms.spatial import SpatialWithPromptsd


class CropAroundPromptsd(SpatialWithPromptsd):
    """Cuts out the block around all prompts, positive and negative, with a margin; never beyond the image.

    The inverse puts the block back in its place. Outside of it everything is 0, in images and label maps: the trace
    does not keep what was cut off.

    Args:
        keys: see ``SpatialWithPromptsd``.
        prompts_key: see ``SpatialWithPromptsd``.
        margin_mm: distance from the outermost prompted voxels' centres to those of the block, at least.
        min_size: the block's smallest number of voxels along i, j, k, or one number for all; it grows on both sides,
            and stops at the image's size.
        label_keys: see ``SpatialWithPromptsd``.
        allow_missing_keys: see ``SpatialWithPromptsd``.

    Raises:
        GeometryError: the margin is negative, or a size below 1.
        PromptError: (when called) a prompt lies outside the image, or none has a place (only words).
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        prompts_key: Hashable,
        margin_mm: float = 20.0,
        min_size: int | Sequence[int] = 1,
        label_keys: Hashable | Iterable[Hashable] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_keys, prompts_key, allow_missing_keys)
        if not np.isfinite(margin_mm) or margin_mm < 0:
            raise GeometryError(f"a margin is 0 mm or more, got {margin_mm}")
        try:
            i, j, k = np.broadcast_to(np.asarray(min_size, dtype=np.int64), (3,)).tolist()
        except (TypeError, ValueError) as error:
            raise GeometryError(f"a smallest size is one or three whole numbers, got {min_size!r}") from error
        if min(i, j, k) < 1:
            raise GeometryError(f"a smallest size is 1 voxel or more, got {min_size!r}")
        self.margin_mm = float(margin_mm)
        self.min_size = (i, j, k)

    def target(self, grid: Grid, prompts: PromptSet | None) -> Grid:
        """See ``SpatialWithPromptsd.target``."""
        if prompts is None:
            return grid
        placed = prompts.on_grid(grid)
        bounds = [_bounds_ijk(prompt, grid) for item in placed.objects for prompt in item.prompts]
        corners = [corner for pair in bounds if pair is not None for corner in pair]
        if not corners:
            raise PromptError("no prompt has a place in the image to crop around; add a point, box, line or mask")
        margin = self.margin_mm / np.array(grid.spacing_mm)
        # A rounding error in the spacing must not cost a whole slice.
        first = np.floor(np.min(corners, axis=0) - margin + 1e-6).astype(int)
        last = np.ceil(np.max(corners, axis=0) + margin - 1e-6).astype(int)
        first, last = np.maximum(first, 0), np.minimum(last, np.array(grid.shape) - 1)
        start, shape = _grown(first, last, self.min_size, grid)
        return grid.cropped(start, shape)

    @staticmethod
    def carry(values: torch.Tensor, source: Grid, target: Grid, mode: str) -> torch.Tensor:
        """See ``SpatialWithPromptsd.carry``."""
        offset = np.round(source.to_ijk(target.affine_ras[:3, 3])).astype(int)
        low = np.maximum(offset, 0)
        high = np.minimum(offset + target.shape, source.shape)
        block = values[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        if block.shape[1:] == target.shape:
            # A copy, so that a small block does not keep the whole volume in memory.
            return block.clone()
        result = torch.zeros((len(values), *target.shape), dtype=values.dtype, device=values.device)
        to, end = low - offset, high - offset
        result[:, to[0] : end[0], to[1] : end[1], to[2] : end[2]] = block
        return result


def _bounds_ijk(prompt: Prompt, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The first and last voxel that a prompt covers; None if it has no place."""
    if isinstance(prompt, Box):
        # Without listing the voxels: a box may be as large as the image.
        start, stop = prompt.bounds_ijk(grid)
        return np.array(start), np.array(stop) - 1
    if isinstance(prompt, MaskPrompt):
        first = prompt.start_ijk(grid)
        last = first + prompt.mask.shape - 1
        return np.maximum(first, 0), np.minimum(last, np.array(grid.shape) - 1)
    voxels = prompt.voxels_ijk(grid)
    return (voxels.min(axis=0), voxels.max(axis=0)) if len(voxels) else None


def _grown(
    first: NDArray[np.int64], last: NDArray[np.int64], min_size: Sequence[int], grid: Grid
) -> tuple[list[int], list[int]]:
    """Start and shape of the block, grown to the smallest size on both sides and kept inside the grid."""
    starts, shape = [], []
    for axis, sign in enumerate(grid.axis_signs):
        size = int(last[axis] - first[axis] + 1)
        missing = max(0, min(min_size[axis], grid.shape[axis]) - size)
        # An odd voxel goes to the right, anterior or superior side, whatever the order on disk.
        before = missing // 2 if sign > 0 else missing - missing // 2
        starts.append(int(np.clip(first[axis] - before, 0, grid.shape[axis] - size - missing)))
        shape.append(size + missing)
    return starts, shape
