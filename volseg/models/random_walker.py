"""The baseline without weights: Grady's random walker on a block around the prompts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
from volseg.prompts import Box, Lasso, MaskPrompt, PromptedObject, PromptKind, PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor


logger = logging.getLogger(__name__)

CANONICAL = "RAS"
"""Work is done with axes in this order, so that the file's orientation cannot change the answer."""

LEVELS = np.geomspace(0.9, 0.01, 30)
"""Probabilities that are tried for the object's surface."""

SMALL_SURFACE = 60
"""Voxels; the sharpness of a surface this small counts half."""

HALF_PREFERENCE = 0.25
"""How strongly levels near one half are preferred: at 0.01 the surface must be about twice as sharp."""

FLAT_PART = 0.34
"""A box, lasso or mask that is thinner than this part of its other sides says how wide the object is, not how deep."""


@dataclass(frozen=True)
class RandomWalkerSettings:
    """Numbers of the method.

    Attributes:
        step: a change of intensity between neighbours of this many times the typical one (the median over the block)
            makes the walker take that way 0.6 times as often (a Gaussian's one sigma).
        reach_mm: without a box or mask, the object is taken to end within this distance of the prompts.
        margin_mm: width of the block beyond a box or mask.
        max_voxels: the block is made coarser, with equal spacing on all axes, until it has at most this many voxels.
        core: part of a box's sides, around its centre, that is taken for the object when nothing else says what is.
        seed_radius_mm: what a positive point marks reaches at most this far. A walker rarely hits a small seed,
            whatever the intensities, so a point marks the tissue around it and not only its voxel.
        seed_tolerance: the tissue a point marks differs from it by at most this part of the intensity window.
    """

    step: float = 1.5
    reach_mm: float = 40.0
    margin_mm: float = 8.0
    max_voxels: int = 150_000
    core: float = 0.4
    seed_radius_mm: float = 12.0
    seed_tolerance: float = 0.25


class RandomWalkerEncoding(WindowedEncoding):
    """Nothing else can be computed before the prompts."""


class RandomWalker(Model):
    """Random walker segmentation (L. Grady, IEEE TPAMI 28(11), 2006) through scikit-image.

    Positive prompts are seeds of the object, negative ones and what lies outside the boxes, or out of reach, seeds of
    the background. Every voxel goes to the seed that a walker, who avoids steps in intensity, reaches first.
    """

    _KINDS: ClassVar[frozenset[PromptKind]] = frozenset(PromptKind) - {PromptKind.TEXT}

    def __init__(self, settings: RandomWalkerSettings | None = None) -> None:
        self.settings = settings or RandomWalkerSettings()

    @property
    def card(self) -> ModelCard:
        """See ``Model.card``."""
        return ModelCard(
            name="random-walker",
            version="1",
            summary="Baseline without weights: random walker on a block around the prompts (scikit-image).",
            positive=self._KINDS,
            negative=self._KINDS,
        )

    def encode(
        self, image: MetaTensor, options: EncodeOptions | None = None, progress: ProgressCallback | None = None
    ) -> RandomWalkerEncoding:
        """See ``Model.encode``."""
        return RandomWalkerEncoding(image, options or EncodeOptions())

    def _segment(
        self,
        encoding: Encoding,
        prompts: PromptSet,
        *,
        exact: bool,
        progress: ProgressCallback | None,
        partial: PartialCallback | None,
    ) -> tuple[ObjectMask, ...]:
        if not isinstance(encoding, RandomWalkerEncoding):
            raise ModelError(f"the encoding is of another model ({type(encoding).__name__})")
        masks = []
        for number, item in enumerate(prompts.objects):
            report(progress, number / len(prompts.objects), f"walking from {item.title}")
            mask = self._segment_object(encoding, item)
            masks.append(mask)
            if partial is not None:
                partial(mask)
        return tuple(masks)

    def _segment_object(self, encoding: RandomWalkerEncoding, item: PromptedObject) -> ObjectMask:
        grid = encoding.grid
        canonical = grid.reoriented(CANONICAL)
        prompts = PromptSet(grid, (item,)).moved(canonical).objects[0]
        if not any(prompt.positive for prompt in prompts.prompts):
            raise PromptError(f"{item.title} has only negative prompts; say also what belongs to it")
        start, stop = _reach(prompts, canonical, self.settings)
        block = canonical.cropped(start, np.subtract(stop, start).tolist())
        work = _work_grid(block, self.settings.max_voxels)
        values = _sample(encoding, block, work)
        seeds = _seeds(PromptSet(canonical, (prompts,)).moved(work).objects[0], work, values, self.settings)
        inside = _walk(values, seeds, np.array(work.spacing_mm), self.settings.step)
        level = _sharpest_level(inside, values, seeds)

        # From the work grid to the file's own voxels in one interpolation (P3).
        native_start, native_stop = _block_on(grid, block)
        native = grid.cropped(native_start, np.subtract(native_stop, native_start).tolist())
        mask = _resampled(inside, work, native) > level
        for prompt in item.prompts:
            # What was said of single voxels holds whatever the walk says.
            if prompt.kind in (PromptKind.POINT, PromptKind.SCRIBBLE):
                voxels = prompt.voxels_ijk(grid) - native_start
                mask[tuple(voxels[((voxels >= 0) & (voxels < mask.shape)).all(axis=1)].T)] = prompt.positive
        return ObjectMask.of(item.object_id, grid, mask, start_ijk=native_start)


def _reach(
    item: PromptedObject, grid: Grid, settings: RandomWalkerSettings
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The block of voxels that the object may lie in: first voxel and one past the last."""
    spacing = np.array(grid.spacing_mm)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for prompt in item.prompts:
        if not prompt.positive:
            continue
        voxels = prompt.voxels_ijk(grid)
        first, last = voxels.min(axis=0), voxels.max(axis=0)
        extent_mm = (last - first + 1) * spacing
        if not isinstance(prompt, Box | Lasso | MaskPrompt):
            margin_mm = np.full(3, settings.reach_mm)
        elif (flat := _flat_axis(extent_mm)) is not None:
            # Across its slice an object is taken to reach about as far as half its width within the slice.
            across_mm = 0.75 * np.delete(extent_mm, flat).mean() + settings.margin_mm
            margin_mm = np.where(np.arange(3) == flat, across_mm, settings.margin_mm)
        else:
            margin_mm = np.full(3, settings.margin_mm)
        margin = np.ceil(margin_mm / spacing)
        low, high = np.minimum(low, first - margin), np.maximum(high, last + margin)
    start = np.clip(low, 0, np.array(grid.shape) - 1).astype(int)
    stop = np.clip(high + 1, start + 1, grid.shape).astype(int)
    return (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))


def _flat_axis(extent_mm: NDArray[np.float64]) -> int | None:
    """The axis along which a prompt is a slice rather than a body, None for a body."""
    flat = int(extent_mm.argmin())
    return flat if extent_mm[flat] < FLAT_PART * np.delete(extent_mm, flat).min() else None


def _work_grid(block: Grid, max_voxels: int) -> Grid:
    finest = min(block.spacing_mm)
    volume_mm3 = float(np.prod(np.array(block.shape) * np.array(block.spacing_mm)))
    spacing = max(finest, (volume_mm3 / max_voxels) ** (1 / 3))
    return block.with_spacing([spacing] * 3)


def _block_on(grid: Grid, block: Grid) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    corners = np.round(grid.to_ijk(block.to_ras_mm(block.corners_ijk()))).astype(int)
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))


def _sample(encoding: RandomWalkerEncoding, block: Grid, work: Grid) -> NDArray[np.float32]:
    """Windowed intensities on ``work``, smoothed before they are thinned out."""
    from scipy.ndimage import gaussian_filter, median_filter

    start, stop = _block_on(encoding.grid, block)
    where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    native = encoding.grid.cropped(start, np.subtract(stop, start).tolist())
    values = encoding.window.apply(np.asarray(encoding.image[0][where]))
    coarser = np.array(work.spacing_mm).mean() / np.array(native.spacing_mm)
    sigma = np.where(coarser > 1.01, 0.5 * coarser, 0.0)
    resampled = _resampled(gaussian_filter(np.asarray(values, dtype=np.float32), sigma), native, work)
    smooth: NDArray[np.float32] = median_filter(resampled, size=3)
    return smooth


def _resampled(values: NDArray[np.float32], source: Grid, target: Grid) -> NDArray[np.float32]:
    from scipy.ndimage import affine_transform

    matrix = source.ijk_from(target)
    resampled: NDArray[np.float32] = affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=1, mode="nearest"
    )
    return resampled


def _seeds(
    item: PromptedObject, grid: Grid, values: NDArray[np.float32], settings: RandomWalkerSettings
) -> NDArray[np.int8]:
    """1 where the object is sure to be, 2 where it is sure not to be, 0 elsewhere."""
    from scipy.ndimage import binary_dilation, binary_erosion

    seeds = np.zeros(grid.shape, dtype=np.int8)
    spacing_mm = float(np.mean(grid.spacing_mm))
    outside = np.zeros(grid.shape, dtype=bool)
    for axis in range(3):
        # The block's faces; a face that is cut off by the image's border says nothing, but a walk needs an end there.
        if grid.shape[axis] > 2:
            faces = np.moveaxis(outside, axis, 0)
            faces[0], faces[-1] = True, True
    cores, marked = [], []
    for prompt in item.prompts:
        region = np.zeros(grid.shape, dtype=bool)
        region[tuple(prompt.voxels_ijk(grid).T)] = True
        if not prompt.positive:
            seeds[region] = 2
        elif isinstance(prompt, Box):
            low, high = np.array(prompt.low), np.array(prompt.high)
            indices = np.indices(grid.shape)
            beyond = np.zeros(grid.shape, dtype=bool)
            for axis in range(3):
                if axis != prompt.flat_axis:
                    beyond |= (indices[axis] < low[axis] - 0.5) | (indices[axis] > high[axis] + 0.5)
            outside |= beyond
            half = np.maximum((high - low) / 2 * settings.core, 1.0).reshape(3, 1, 1, 1)
            middle = ((low + high) / 2).reshape(3, 1, 1, 1)
            cores.append((((indices - middle) / half) ** 2).sum(axis=0) <= 1)
        elif isinstance(prompt, MaskPrompt | Lasso):
            extent = np.ptp(np.argwhere(region), axis=0) + 1.0
            said = np.ones_like(region)
            if (flat := _flat_axis(extent)) is not None:
                on_slices = region.any(axis=tuple(axis for axis in range(3) if axis != flat))
                said = np.broadcast_to(on_slices.reshape([-1 if axis == flat else 1 for axis in range(3)]), said.shape)
            outside |= said & ~binary_dilation(region, iterations=max(1, round(settings.margin_mm / 2 / spacing_mm)))
            # Border value 1 off the slices, so that a flat region is worn away within its slices only.
            core = binary_erosion(region | ~said, iterations=max(1, round(2.0 / spacing_mm)), border_value=1) & region
            cores.append(core if core.any() else region)
        elif prompt.kind is PromptKind.POINT:
            marked.append(_same_tissue(region, values, settings.seed_radius_mm / spacing_mm, settings.seed_tolerance))
        else:
            seeds[region] = 1
    seeds[outside & (seeds == 0)] = 2
    for region in marked:
        seeds[region & (seeds == 0)] = 1
    if not (seeds == 1).any():
        for core in cores:
            seeds[core & (seeds == 0)] = 1
    return seeds


def _same_tissue(
    region: NDArray[np.bool_], values: NDArray[np.float32], radius_voxels: float, tolerance: float
) -> NDArray[np.bool_]:
    """Grows a marked voxel over its connected neighbourhood of like intensity."""
    from scipy.ndimage import binary_propagation, distance_transform_edt, gaussian_filter

    smooth = gaussian_filter(values, 0.7)
    level = float(np.median(smooth[region]))
    alike = (np.abs(smooth - level) <= tolerance) & (distance_transform_edt(~region) <= radius_voxels)
    grown: NDArray[np.bool_] = binary_propagation(region, mask=alike | region)
    return grown


def _walk(
    values: NDArray[np.float32], seeds: NDArray[np.int8], spacing_mm: NDArray[np.float64], step: float
) -> NDArray[np.float32]:
    """Probability in [0, 1] that a walker starting at a voxel reaches the object first."""
    if not (seeds == 2).any() or not (seeds == 0).any():
        everywhere: NDArray[np.float32] = (seeds != 2).astype(np.float32)
        return everywhere
    from skimage.segmentation import random_walker

    # scikit-image weighs a step g with exp(-beta g^2 / (10 std)): beta is set so that this is a Gaussian in g / sigma.
    changes = np.concatenate([np.abs(np.diff(values, axis=axis)).ravel() for axis in range(3)])
    sigma = step * max(float(np.median(changes)), 1e-3)
    beta = 10 * float(values.std()) / (2 * sigma**2)
    if beta == 0:
        # Where all is alike every step is; scikit-image would divide by a spread of 0, and solve for nothing forever.
        values = np.arange(values.size, dtype=np.float32).reshape(values.shape)
    probabilities = random_walker(
        values,
        seeds,
        beta=beta,
        mode="cg_j",
        tol=1e-4,
        spacing=spacing_mm / spacing_mm.min(),
        return_full_prob=True,
        prob_tol=np.inf,
    )
    # The solver stops a little beside the exact answer.
    inside: NDArray[np.float32] = np.clip(probabilities[0], 0, 1).astype(np.float32)
    return inside


def _sharpest_level(inside: NDArray[np.float32], values: NDArray[np.float32], seeds: NDArray[np.int8]) -> float:
    """The probability whose surface runs along the strongest edges.

    One half would be right if the seeds of object and background were equally large. They never are, and in three
    dimensions a walker misses small seeds, so that at one half a click would keep little more than its own seed.
    """
    from scipy.ndimage import binary_erosion, gaussian_gradient_magnitude

    edges = gaussian_gradient_magnitude(values, 1.0)
    free = seeds != 2
    best, best_score = 0.5, -1.0
    for level in LEVELS:
        mask = (inside > level) & free
        surface = mask & ~binary_erosion(mask, border_value=1)
        count = int(np.count_nonzero(surface))
        # A surface of few voxels is sharp by chance.
        sharpness = float(edges[surface].mean()) * count / (count + SMALL_SURFACE) if count else 0.0
        score = sharpness * float(4 * level * (1 - level)) ** HALF_PREFERENCE
        if score > best_score:
            best, best_score = float(level), score
    return best
