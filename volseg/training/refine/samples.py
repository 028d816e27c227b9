"""Objects as the refining network sees them, by number: the same number gives the same sample."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volseg.data.modality import Modality
from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid
from volseg.inferers.refine.channels import add_bump, prompt_channels, show_mask
from volseg.inferers.refine.lattice import choose_lattice
from volseg.inferers.slices.view import SliceView
from volseg.prompts import Prompt
from volseg.training.cases import TrainingCase
from volseg.training.refine.config import RefineTrainConfig
from volseg.training.refine.damage import damaged
from volseg.training.refine.drafts import Draft, first_prompt
from volseg.training.refine.vary import vary_geometry, vary_inside, vary_intensities
from volseg.training.synthetic import GROUP, SyntheticVolumes
from volseg.training.volume import MIN_VOXELS, WINDOW_RANGE, TrainingVolume, read_arrays, read_volume

ERROR = 0.5
CT_AS_OTHER = 0.3
"""Part of the CT volumes whose intensities are varied as freely as MR's: more shapes in any contrast."""
STROKES = 0.2
"""Part of the corrections that are strokes."""
MAX_STROKE = 24
"""Places along a stroke, at most."""
UNITED = (0.25, 4)
"""Part of the objects that are taken together with neighbours, and with how many at most: only what was said tells then
where an object of several tissues ends."""
MANY = 8
"""Volumes with so many objects have neighbours to take."""
LARGEST = 0.7
"""Part of the corrections that are about the largest error; the others are about any, larger ones more often."""
CLICK_DEPTHS = (1.0, 3.0, 12.0)
"""Clicks are drawn with probability depth to one of these."""


@dataclass(frozen=True, eq=False)
class RefineVolume:
    """A labelled volume with answers about it.

    Attributes:
        group: under which it is sampled.
        modality: decides how intensities are varied.
        grid: of the arrays.
        voxels: [I, J, K] float16 in units of the default window.
        labels: [I, J, K] uint8.
        objects: label ids of each object.
        drafts: answers of the base model.
    """

    group: str
    modality: Modality
    grid: Grid
    voxels: NDArray[np.float16]
    labels: NDArray[np.uint8]
    objects: tuple[tuple[int, ...], ...]
    drafts: tuple[Draft, ...] = ()


@dataclass(frozen=True, eq=False)
class RefineSample:
    """One object.

    Attributes:
        group: of its volume.
        image: [A, B, C] in units of the window.
        truth: [A, B, C] from 0 to 1.
        draft: [A, B, C] from 0 to 1.
        prompts: [4, A, B, C], see ``prompt_channels``.
        rounds: corrections after the first answer.
    """

    group: str
    image: Tensor
    truth: Tensor
    draft: Tensor
    prompts: Tensor
    rounds: int


def read_refine_volume(case: TrainingCase, drafts: Sequence[Draft]) -> RefineVolume:
    """Reads a case into memory.

    Raises:
        TrainingError: see ``read_arrays``.
    """
    from volseg.transforms.windows import choose_window

    image, labels, grid = read_arrays(case)
    source = case.source
    window = choose_window(image[None], modality=source.modality)
    scaled = (np.nan_to_num(image.astype(np.float32)) - window.low) / (window.high - window.low)
    counts = np.bincount(labels.ravel(), minlength=256)
    present = [one for one in np.flatnonzero(counts).tolist() if one and one not in source.exclude]
    objects = source.objects or {str(one): (one,) for one in present}
    kept = tuple(tuple(ids) for ids in objects.values() if counts[list(ids)].sum() >= MIN_VOXELS)
    voxels = np.clip(scaled, *WINDOW_RANGE).astype(np.float16)
    return RefineVolume(source.group, source.modality, grid, voxels, labels, kept, tuple(drafts))


class RefineSampler:
    """Samples by number.

    Args:
        volumes: what to draw from, at least one.
        painted: volumes whose label maps are painted anew for the group ``synthetic``.
        config: how.
    """

    def __init__(
        self, volumes: Sequence[RefineVolume], painted: Sequence[TrainingVolume], config: RefineTrainConfig
    ) -> None:
        self._config = config
        self._volumes: defaultdict[str, list[RefineVolume]] = defaultdict(list)
        for volume in volumes:
            self._volumes[volume.group].append(volume)
        weights = config.sampling.weights or dict.fromkeys(self._volumes, 1.0)
        self._groups = [name for name in weights if name in self._volumes or name == GROUP]
        total = sum(weights[name] for name in self._groups)
        self._chances = [weights[name] / total for name in self._groups]
        self._synthetic = SyntheticVolumes(config.seed, painted)
        self._generated: OrderedDict[int, RefineVolume] = OrderedDict()

    def __getitem__(self, number: int) -> RefineSample:
        """Sample ``number``, 0 or more."""
        rng = np.random.default_rng([self._config.seed, 3, number])
        while True:
            group = str(rng.choice(self._groups, p=self._chances))
            volume = self._draw_synthetic(rng, number) if group == GROUP else self._draw_volume(rng, group)
            sample = self._sample(rng, volume)
            if sample is not None:
                return sample

    def _draw_volume(self, rng: np.random.Generator, group: str) -> RefineVolume:
        choices = self._volumes[group]
        return choices[int(rng.integers(len(choices)))]

    def _draw_synthetic(self, rng: np.random.Generator, number: int) -> RefineVolume:
        """One of the generated volumes that belong to this number; which ones does not depend on what was drawn."""
        config = self._config.sampling
        newest = number // config.synthetic_renewal
        chosen = newest + int(rng.integers(config.synthetic_volumes))
        if chosen not in self._generated:
            self._generated[chosen] = _generated(self._synthetic[chosen])
            for old in [one for one in self._generated if one < newest]:
                del self._generated[old]
        return self._generated[chosen]

    def _draft(self, rng: np.random.Generator, volume: RefineVolume) -> Draft:
        ids = _chosen(rng, volume, self._config.sampling.whole)
        choices = [draft for draft in volume.drafts if draft.ids == ids] or volume.drafts
        return choices[int(rng.integers(len(choices)))]

    def _sample(self, rng: np.random.Generator, volume: RefineVolume) -> RefineSample | None:
        config = self._config
        settings, multiple = config.settings, config.spec.multiple
        answered = bool(volume.drafts) and rng.random() >= config.sampling.damaged
        prompts: tuple[Prompt, ...]
        if answered:
            draft = self._draft(rng, volume)
            truth = ObjectMask.of(1, volume.grid, np.isin(volume.labels, draft.ids))
            prompts = draft.prompts
            known = [truth.slices, draft.mask.slices] if rng.random() < 0.5 else [draft.mask.slices]
        else:
            truth = ObjectMask.of(1, volume.grid, _object(rng, volume, config.sampling.whole))
            prompts = (first_prompt(rng, truth),) if truth.voxels and rng.random() < 0.8 else ()
            known = [truth.slices]
        if truth.voxels < MIN_VOXELS:
            return None
        spoken = np.concatenate([prompt.voxels_ijk(volume.grid) for prompt in prompts] or [np.zeros((0, 3), int)])
        ends = [[s.start for s in one] for one in known] + [[s.stop - 1 for s in one] for one in known]
        corners = np.concatenate([np.array([e for e in ends if min(e) >= 0]).reshape(-1, 3), spoken])
        first, last = corners.min(axis=0), corners.max(axis=0)
        # The block is sometimes seen from closer or further away.
        slack = rng.normal(0, 0.08, 3) * (last - first)
        first, last = first - np.maximum(slack, -0.1 * (last - first)), last + slack
        shape = np.array(volume.grid.shape)
        first, last = np.clip(first, 0, shape - 1), np.clip(np.maximum(last, first), 0, shape - 1)
        scale = float(rng.choice(config.sampling.scales))
        shown_at = replace(settings, samples=max(512, round(settings.samples * scale)))
        lattice = choose_lattice(volume.grid, first, last, shown_at, multiple)
        image = lattice.sample(lambda where: torch.from_numpy(volume.voxels[where].astype(np.float32)))
        shown = [image, show_mask(lattice, truth)]
        shown.append(show_mask(lattice, draft.mask) if answered else damaged(rng, shown[1]))
        block = torch.cat([torch.stack(shown), prompt_channels(lattice, prompts)])
        block = vary_geometry(rng, block)
        free = volume.modality is not Modality.CT or rng.random() < CT_AS_OTHER
        plain = rng.random() < config.sampling.plain
        image = block[0] if plain else vary_intensities(rng, block[0], free=free)
        if rng.random() < config.sampling.mixed:
            image = vary_inside(rng, image, block[1])
        image = image.clamp(-0.5, 1.5)
        rounds = int(rng.choice(len(config.sampling.rounds), p=config.sampling.rounds))
        if not prompts:
            rounds = max(1, rounds)
        return RefineSample(volume.group, image, block[1], block[2], block[3:], rounds)


def add_correction(
    rng: np.random.Generator, sample: RefineSample, answer: Tensor, prompts: Tensor
) -> tuple[Tensor, bool]:
    """Adds a click or a stroke where an answer is wrong; where it is right, inside or outside of the object.

    Args:
        rng: the only source of chance.
        sample: the object.
        answer: bool [A, B, C].
        prompts: [4, A, B, C] what was said before.

    Returns:
        The prompts with what was added, and whether that is on the object.
    """
    from scipy.ndimage import distance_transform_edt, label

    result = prompts.clone()
    wanted = (sample.truth > ERROR).numpy()
    wrong = wanted != answer.numpy()
    parts, count = label(wrong, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    if sizes.sum() == 0:
        region = wanted if wanted.any() and rng.random() < 0.5 else ~wanted
    else:
        largest = rng.random() < LARGEST
        region = parts == (int(sizes.argmax()) if largest else int(rng.choice(len(sizes), p=sizes / sizes.sum())))
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1, 1:-1]
    weight = (depth / depth.max()).ravel() ** float(rng.choice(CLICK_DEPTHS))
    chosen_voxel = np.searchsorted(np.cumsum(weight), rng.random() * weight.sum())
    voxel = np.array(np.unravel_index(min(int(chosen_voxel), weight.size - 1), depth.shape))
    positive = bool(wanted[tuple(voxel)])
    channel = result[0 if positive else 1]
    add_bump(channel, voxel[None].astype(np.float64))
    if rng.random() < STROKES:
        add_bump(channel, _stroke(rng, region, depth, voxel))
    return result, positive


def _stroke(
    rng: np.random.Generator, region: NDArray[np.bool_], depth: NDArray[np.float64], voxel: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Places [N, 3] from a voxel straight to another one of its region; only the first where that leads outside."""
    inner = np.argwhere(depth >= min(2.0, float(depth.max())))
    other = inner[int(rng.integers(len(inner)))]
    count = max(2, int(np.abs(other - voxel).max()) // 2 + 1)
    places: NDArray[np.float64] = voxel + np.linspace(0, 1, min(count, MAX_STROKE))[:, None] * (other - voxel)
    inside = bool(region[tuple(np.round(places).astype(int).T)].all())
    return places if inside else places[:1]


def next_draft(rng: np.random.Generator, logits: Tensor) -> Tensor:
    """The answer as the draft of the next round, [A, B, C] from 0 to 1: its border as sharp as after a way back."""
    sharp = (logits > 0).float()
    if rng.random() < 0.5:
        return sharp
    return torch.nn.functional.avg_pool3d(sharp[None, None], 3, 1, 1, count_include_pad=False)[0, 0]


def _chosen(rng: np.random.Generator, volume: RefineVolume, whole: float) -> tuple[int, ...]:
    """Label ids of one of the objects; where one holds all the others, it is that one with probability ``whole``."""
    largest = max(volume.objects, key=len)
    parts = [one for one in volume.objects if one != largest]
    if parts and set(largest) >= {label for one in parts for label in one}:
        return largest if rng.random() < whole else parts[int(rng.integers(len(parts)))]
    return volume.objects[int(rng.integers(len(volume.objects)))]


def _object(rng: np.random.Generator, volume: RefineVolume, whole: float) -> NDArray[np.bool_]:
    """One of the objects, sometimes with some that touch it."""
    from scipy.ndimage import binary_dilation

    mask = np.isin(volume.labels, _chosen(rng, volume, whole))
    chance, most = UNITED
    if len(volume.objects) < MANY or rng.random() >= chance:
        return mask
    for _ in range(int(rng.integers(1, most + 1))):
        around = np.unique(volume.labels[binary_dilation(mask) & ~mask])
        touching = [one for one in volume.objects if np.isin(one, around).any()]
        if touching:
            mask |= np.isin(volume.labels, touching[int(rng.integers(len(touching)))])
    return mask


def _generated(volume: TrainingVolume) -> RefineVolume:
    slices = volume.planes[volume.acquired]
    grid = SliceView.of(volume.grid, volume.acquired).grid
    objects = tuple(item.ids for item in volume.objects)
    return RefineVolume(GROUP, volume.modality, grid, slices.voxels, slices.labels, objects)


def read_painted(cases: Sequence[TrainingCase]) -> list[TrainingVolume]:
    """Volumes whose label maps show many structures, to be painted."""
    found = []
    for case in cases:
        if not case.source.expert and case.source.pseudo is None:
            found.append(read_volume(case))
    return found
