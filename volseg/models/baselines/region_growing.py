"""Connected voxels of like intensity, through SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.object_mask import ObjectMask
from volseg.errors import ModelError, PromptError
from volseg.geometry import Grid
from volseg.models.base import Encoding, Model, PartialCallback
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.models.windowed import WindowedEncoding
from volseg.progress import ProgressCallback, report
from volseg.prompts import Box, Prompt, PromptedObject, PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor


WALL = -10.0
"""Value of voxels that may not be entered; windowed intensities lie in [0, 1]."""


@dataclass(frozen=True)
class RegionGrowingSettings:
    """Numbers of the method.

    Attributes:
        deviations: the region's intensities lie within so many standard deviations of the seeds' mean.
        least_range: and within at least this part of the intensity window.
        seed_radius_mm: a click's neighbours within this distance are seeds for the statistics.
        core: part of a box's sides, around its centre, whose voxels are seeds.
        reach_mm: without a box or mask, the region ends within this distance of the prompts.
        block_radius_mm: nothing is entered within this distance of a negative prompt.
        closing: iterations of the closing that fills the region's holes.
    """

    deviations: float = 2.5
    least_range: float = 0.08
    seed_radius_mm: float = 3.0
    core: float = 0.4
    reach_mm: float = 40.0
    block_radius_mm: float = 4.0
    closing: int = 1


class RegionGrowingEncoding(WindowedEncoding):
    """The image, windowed and median-filtered when first needed."""

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """[I, J, K] in [0, 1], smoothed within a voxel's neighbours."""
        import SimpleITK

        windowed = np.asarray(self.window.apply(np.asarray(self.image[0])), dtype=np.float32)
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(windowed.T))
        smooth: NDArray[np.float32] = SimpleITK.GetArrayFromImage(SimpleITK.Median(image, [1, 1, 1])).T
        return smooth


class RegionGrowing(Model):
    """Connected voxels whose intensity is like that of the seeds (SimpleITK ``ConnectedThreshold``).

    Clicks, scribbles, the cores of boxes and masks are seeds. The region stays within boxes, within reach of clicks and
    away from negative prompts.
    """

    def __init__(self, settings: RegionGrowingSettings | None = None) -> None:
        self.settings = settings or RegionGrowingSettings()

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        kinds = frozenset(PromptKind) - {PromptKind.TEXT}
        return ModelCard(
            name="region-growing",
            version="1",
            summary="Baseline without weights: connected voxels of like intensity (SimpleITK).",
            positive=kinds,
            negative=kinds,
        )

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> RegionGrowingEncoding:
        """See ``Model.encode``."""
        return RegionGrowingEncoding(image, options or EncodeOptions())

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        if not isinstance(encoding, RegionGrowingEncoding):
            raise ModelError(f"the encoding is of another model ({type(encoding).__name__})")
        masks = []
        for number, item in enumerate(prompts.objects):
            report(progress, number / len(prompts.objects), f"growing {item.title}")
            masks.append(self._grow(encoding, item))
        return tuple(masks)

    def _grow(self, encoding: RegionGrowingEncoding, item: PromptedObject) -> ObjectMask:
        import SimpleITK

        positive = [prompt for prompt in item.prompts if prompt.positive]
        if not positive:
            raise PromptError(f"{item.title} has only negative prompts; say also what belongs to it")
        grid, settings = encoding.grid, self.settings
        free = np.ones(grid.shape, dtype=bool)
        for low, high in _limits(positive, grid, settings.reach_mm):
            along = [np.arange(size) for size in grid.shape]
            within = [(index >= a) & (index <= b) for index, a, b in zip(along, low, high, strict=True)]
            free &= within[0][:, None, None] & within[1][:, None] & within[2]
        for prompt in item.prompts:
            if not prompt.positive:
                free[tuple(_near(prompt.voxels_ijk(grid), settings.block_radius_mm, grid).T)] = False
        said = np.concatenate([_seeds(prompt, grid, settings.core) for prompt in positive])
        seeds = said[free[tuple(said.T)]]
        if not len(seeds):
            seeds = said
        samples = encoding.values[tuple(_near(seeds, settings.seed_radius_mm, grid).T if len(seeds) < 10 else seeds.T)]
        half = max(settings.deviations * float(samples.std()), settings.least_range)
        middle = float(np.median(samples))
        walled = np.where(free, encoding.values, np.float32(WALL))
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(walled.T))
        grown = SimpleITK.ConnectedThreshold(image, seeds.tolist(), middle - half, middle + half, 1)
        filled = SimpleITK.VotingBinaryHoleFilling(grown, [1, 1, 1], 1, 0, 1)
        closed = SimpleITK.BinaryMorphologicalClosing(filled, [settings.closing] * 3)
        mask = SimpleITK.GetArrayFromImage(closed).T.astype(bool) & free
        for prompt in item.prompts:
            # What was said of single voxels holds.
            if prompt.kind in (PromptKind.POINT, PromptKind.SCRIBBLE):
                mask[tuple(prompt.voxels_ijk(grid).T)] = prompt.positive
        return ObjectMask.of(item.object_id, grid, mask)


def _limits(prompts: list[Prompt], grid: Grid, reach_mm: float) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """First and last voxel of what may be entered: boxes, else a block around everything that was said."""
    spacing = np.array(grid.spacing_mm)
    limits = []
    for prompt in prompts:
        if isinstance(prompt, Box):
            start, stop = prompt.bounds_ijk(grid)
            low, high = np.array(start, dtype=np.float64), np.array(stop, dtype=np.float64) - 1
            if prompt.flat_axis is not None:
                # Off its slice an object is taken to reach about half its width within the slice.
                sides_mm = np.delete((high - low + 1) * spacing, prompt.flat_axis)
                depth = sides_mm.mean() / 2 / spacing[prompt.flat_axis]
                low[prompt.flat_axis] -= depth
                high[prompt.flat_axis] += depth
            limits.append((low, high))
    if limits:
        return limits
    voxels = np.concatenate([prompt.voxels_ijk(grid) for prompt in prompts])
    reach = reach_mm / spacing
    return [(voxels.min(axis=0) - reach, voxels.max(axis=0) + reach)]


def _seeds(prompt: Prompt, grid: Grid, core: float) -> NDArray[np.int64]:
    """The voxels that a positive prompt says are surely of the object, [N, 3]."""
    voxels = prompt.voxels_ijk(grid)
    if not isinstance(prompt, Box):
        return voxels
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    half = np.maximum((high - low) / 2 * core, 0.5)
    inside: NDArray[np.int64] = voxels[((np.abs(voxels - (low + high) / 2) / half) ** 2).sum(axis=1) <= 1]
    return inside if len(inside) else ((low + high) // 2)[None]


def _near(voxels: NDArray[np.int64], radius_mm: float, grid: Grid) -> NDArray[np.int64]:
    """The voxels within a distance of some voxels, [N, 3], each once; those themselves always."""
    spacing = np.array(grid.spacing_mm)
    reach = np.floor(radius_mm / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = offsets[((offsets * spacing) ** 2).sum(axis=1) <= radius_mm**2]
    every = (voxels[:, None] + offsets).reshape(-1, 3)
    inside = every[((every >= 0) & (every < np.array(grid.shape))).all(axis=1)]
    flat = np.unique(np.ravel_multi_index(tuple(inside.T), grid.shape))
    return np.stack(np.unravel_index(flat, grid.shape), axis=-1).astype(np.int64)
