"""What the network sees in a step: a window, queries, and what is known about their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from volseg.data.modality import Modality
from volseg.networks.text_query.channels import make_channels, pad_value
from volseg.text.vocabulary import Laterality, load_vocabulary
from volseg.training.rotation import rotation
from volseg.training.synthetic import smooth_noise
from volseg.training.text_query.config import GroupConfig, TextTrainConfig
from volseg.training.text_query.paint import (
    CLASSES,
    FIRST_CLASS,
    paint_labels,
    recast,
    split_background,
    vary,
    within,
)
from volseg.training.text_query.volumes import SHELL_IDS, TextVolume, Truth

MIN_VOXELS = 8
"""A structure with fewer voxels in a window is neither present nor absent there."""

AIR_CT = -0.85
"""-500 HU, in units of the default window."""
AIR_OTHER = 0.03

MAX_SWELL = 2.0
"""Voxels that the surface of a swelling structure moves at most."""


@dataclass(frozen=True, eq=False)
class TextSample:
    """One window and its questions.

    Attributes:
        group: where it comes from.
        window: [1, 2, I, J, K].
        concepts: what is asked for, Q ids.
        targets: [Q, I, J, K] bool.
        known: [Q, I, J, K] bool, or None where everything is known.
        present: [Q] float, whether the structure is in the window; NaN where that is not known.
        drawn: [Q] bool, whether its mask is learnt from, too. Of what cannot occur in a volume only that is learnt: a
            mask made empty there would teach to tell data sets apart, and what looks like another one's would then be
            empty for good.
        modality: what the network is told.
        spacing_mm: of the window.
    """

    group: str
    window: Tensor
    concepts: tuple[str, ...]
    targets: Tensor
    known: Tensor | None
    present: Tensor
    drawn: Tensor
    modality: Modality
    spacing_mm: float


@dataclass(frozen=True, eq=False)
class SampleSource:
    """The volumes of one view of a group.

    Attributes:
        group: its settings.
        view: index of the view.
        volumes: at the view's spacing.
    """

    group: GroupConfig
    view: int
    volumes: tuple[TextVolume, ...]


class Sampler:
    """Draws samples by number: the same number gives the same sample, so a run can be resumed exactly.

    Args:
        sources: what there is.
        config: how often what is shown.
        together: so many samples are one step's, seen by as many processes. They are of the same view, so that no
            process waits for one with a larger window.
    """

    def __init__(self, sources: Sequence[SampleSource], config: TextTrainConfig, together: int = 1) -> None:
        self._sources = tuple(sources)
        self._config = config
        self._together = together
        weights = np.array([s.group.weight * s.group.views[s.view].weight for s in sources], dtype=np.float64)
        per_group = {id(s.group): sum(v.weight for v in s.group.views) for s in sources}
        weights /= np.array([per_group[id(s.group)] for s in sources])
        self._weights = weights / weights.sum()
        self._twins = {id(s.group): _twins(s.group.source.objects) for s in sources}
        self._spacings: dict[str, set[float]] = {}
        for view in (view for group in config.groups for view in group.views):
            for concept in view.concepts:
                self._spacings.setdefault(concept, set()).add(view.spacing_mm)

    def __getitem__(self, number: int) -> TextSample:
        """Sample ``number``, 0 or more."""
        rng = np.random.default_rng([self._config.seed, 11, number])
        step = np.random.default_rng([self._config.seed, 13, number // self._together])
        source = self._sources[step.choice(len(self._sources), p=self._weights)]
        view = source.group.views[source.view]
        volume = source.volumes[rng.integers(len(source.volumes))]
        nowhere = {c: t for c, t in volume.truth.items() if not t.ids and not t.unknown and c in self._spacings}
        asked = {concept: volume.truth[concept] for concept in view.concepts if concept in volume.truth}
        spacing = volume.spacing_mm
        others = sorted({s for c in nowhere for s in self._spacings[c]} - {spacing})
        if others and rng.random() < self._config.schedule.foreign:
            # Questions that make no sense for a volume are asked at the spacing that the structure is looked for at.
            spacing, asked = others[rng.integers(len(others))], {}
        asked |= {c: t for c, t in nowhere.items() if spacing in self._spacings[c]}
        flip = rng.random() < self._config.flip
        image, labels = _cut(volume, self._centre(volume, asked, view.window, rng), view.window, spacing, flip, rng)
        modality = volume.modality
        if rng.random() < source.group.painted:
            image, modality = self._painted(source.group, volume, image, labels, rng)
        elif modality is Modality.CT and rng.random() < source.group.recast:
            image, modality = recast(image, rng), Modality.MR
        if self._config.varied >= 1 or rng.random() < self._config.varied:
            image = vary(image, rng, strong=modality is not Modality.CT)
        if rng.random() < self._config.ending:
            inside = within(image.shape, rng)
            image, labels = torch.where(inside, image, pad_value(modality)), torch.where(inside, labels, 0)
        if flip:
            asked = _mirrored(asked)
        return self._ask(source.group.source.group, image, labels, asked, modality, spacing, rng)

    def _centre(
        self, volume: TextVolume, asked: Mapping[str, Truth], window: Sequence[int], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """A voxel near a structure that is asked for, so that the window is mostly within the volume."""
        shape, size = np.array(volume.labels.shape), np.array(window)
        choices = [concept for concept in asked if concept in volume.places]
        if choices and rng.random() < 0.85:
            weights = np.array([self._config.focus.get(concept, 1.0) for concept in choices])
            places = volume.places[choices[rng.choice(len(choices), p=weights / weights.sum())]]
            centre = places[rng.integers(len(places))] + rng.uniform(-0.3, 0.3, 3) * size
        else:
            centre = rng.uniform(0, 1, 3) * shape
        # Windows at inference lie within the volume, or around all of it.
        slack = rng.uniform(0, 0.15, 3) * size
        low, high = size / 2 - slack, shape - size / 2 + slack
        middle = shape / 2 + rng.uniform(-0.1, 0.1, 3) * size
        inside = np.clip(centre, np.minimum(low, high), np.maximum(low, high))
        drawn: NDArray[np.float64] = np.where(low < high, inside, middle)
        return drawn

    def _painted(
        self, group: GroupConfig, volume: TextVolume, image: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Modality]:
        likely = rng.random() < group.likely
        if group.shell:
            bare = rng.random() < 0.5
            tissue = (
                torch.where(torch.isin(labels, torch.tensor(SHELL_IDS, dtype=torch.uint8)), 0, labels)
                if bare
                else labels
            )
            means = volume.means.copy() if likely else None
            if means is not None:
                means[list(SHELL_IDS)] = rng.uniform(0, 1, len(SHELL_IDS))
            painted = paint_labels(tissue, self._twins[id(group)], means, rng)
            if rng.random() < 0.8:
                # Air is black and without texture.
                painted = torch.where(tissue == 0, painted * 0.05, painted)
        else:
            tissue = split_background(labels, image, rng)
            means = _tissue_means(tissue, image, volume.means) if likely else None
            painted = paint_labels(tissue, self._twins[id(group)], means, rng)
            if not likely and rng.random() < 0.8:
                # What is black in MR and air in CT stays so.
                air = image < (AIR_CT if volume.modality is Modality.CT else AIR_OTHER)
                painted = torch.where(air, painted * 0.05, painted)
        if likely:
            return painted, volume.modality
        return painted, Modality.MR if rng.random() < 0.7 else Modality.OTHER

    def _ask(
        self,
        group: str,
        image: Tensor,
        labels: Tensor,
        asked: Mapping[str, Truth],
        modality: Modality,
        spacing_mm: float,
        rng: np.random.Generator,
    ) -> TextSample:
        schedule = self._config.schedule
        counts = torch.bincount(labels.flatten().int(), minlength=256).numpy()
        here = {c: int(counts[list(t.ids)].sum()) for c, t in asked.items()}
        unsure = {c for c, t in asked.items() if t.unknown and counts[list(t.unknown)].sum()}
        present = [c for c, n in here.items() if n >= MIN_VOXELS]
        absent = [c for c, n in here.items() if n == 0 and c not in unsure] + sorted(unsure)
        want_absent = max(round(schedule.queries * schedule.absent), schedule.queries - len(present))
        chosen = self._pick(present, schedule.queries - min(want_absent, len(absent)), rng)
        chosen += self._pick(absent, min(schedule.queries - len(chosen), len(absent)), rng)
        inside = np.zeros((len(chosen), 256), dtype=bool)
        hidden = np.zeros((len(chosen), 256), dtype=bool)
        for row, concept in enumerate(chosen):
            inside[row, list(asked[concept].ids)] = True
            hidden[row, list(asked[concept].unknown)] = True
        index = labels.long()
        known = None
        if hidden.any():
            known = torch.stack([~torch.from_numpy(row)[index] for row in hidden])
        size = tuple(labels.shape)
        return TextSample(
            group,
            make_channels(image[None, None]),
            tuple(chosen),
            torch.stack([torch.from_numpy(row)[index] for row in inside])
            if chosen
            else torch.zeros((0, *size), dtype=torch.bool),
            known,
            torch.tensor([float("nan") if c in unsure else float(here[c] > 0) for c in chosen]),
            torch.tensor([bool(asked[c].ids or asked[c].unknown) for c in chosen], dtype=torch.bool),
            modality,
            spacing_mm,
        )

    def _pick(self, concepts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        if not concepts or count < 1:
            return []
        weights = np.array([self._config.focus.get(concept, 1.0) for concept in concepts])
        picked = rng.choice(len(concepts), min(count, len(concepts)), replace=False, p=weights / weights.sum())
        return [concepts[one] for one in picked]


def _cut(
    volume: TextVolume,
    centre: NDArray[np.float64],
    window: Sequence[int],
    spacing_mm: float,
    flip: bool,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Image and labels of a window: turned a little, stretched, bent, perhaps mirrored; [I, J, K] each."""
    turn = rotation(rng.normal(0, 0.12, 3))
    scale = np.exp(rng.normal(0, 0.1)) * np.exp(rng.normal(0, 0.05, 3)) * spacing_mm / volume.spacing_mm
    matrix = turn @ np.diag(scale * np.array([-1 if flip else 1, 1, 1]))
    size = (int(window[0]), int(window[1]), int(window[2]))
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    m = torch.from_numpy(matrix.astype(np.float32))
    grid = (
        axes[0][:, None, None, None] * m[:, 0]
        + axes[1][None, :, None, None] * m[:, 1]
        + axes[2][None, None, :, None] * m[:, 2]
    )
    if rng.random() < 0.6:
        bend = float(rng.uniform(0, 3.0))
        cells = (5, 5, 5) if rng.random() < 0.5 else (3, 3, 3)
        grid = grid + torch.stack([smooth_noise(rng, size, cells) for _ in range(3)], dim=-1) * bend
    last = torch.tensor(volume.labels.shape, dtype=torch.float32) - 1
    grid = grid + torch.from_numpy(centre.astype(np.float32))
    if volume.around is not None and rng.random() < 0.6:
        away = grid_sample(volume.around.float()[None], _sampled(grid, last), padding_mode="zeros", align_corners=True)
        grid = grid + away[0].movedim(0, -1) * float(rng.uniform(-MAX_SWELL, MAX_SWELL))
    grid = _sampled(grid, last)
    image = volume.image.float()[None, None] - volume.pad
    values = grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0, 0] + volume.pad
    marked = volume.labels.float()[None, None]
    ids = grid_sample(marked, grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0]
    return values, ids.to(torch.uint8)


def _sampled(grid: Tensor, last: Tensor) -> Tensor:
    """Voxel coordinates [I, J, K, 3] as ``grid_sample`` wants them: from -1 to 1, the last axis first."""
    return (grid / last * 2 - 1).flip(-1)[None]


def _tissue_means(tissue: Tensor, image: Tensor, means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean intensities of labels, and of the classes that unlabelled tissue was split into."""
    result = means.copy()
    for one in range(FIRST_CLASS, FIRST_CLASS + CLASSES):
        inside = image[tissue == one]
        result[one] = float(inside.mean()) if len(inside) else 0.0
    return result


def _mirrored(asked: Mapping[str, Truth]) -> dict[str, Truth]:
    """What is known after left and right were exchanged: the truth of the other side."""
    vocabulary = load_vocabulary()
    result = {}
    for concept, truth in asked.items():
        side = vocabulary.by_id(concept).laterality
        other = {Laterality.LEFT: Laterality.RIGHT, Laterality.RIGHT: Laterality.LEFT}.get(side)
        twin = None if other is None else vocabulary.sided(concept, other)
        if other is None:
            result[concept] = truth
        elif twin is not None and twin.id in asked:
            result[concept] = asked[twin.id]
    return result


def _twins(objects: Mapping[str, Sequence[int]]) -> dict[int, int]:
    """For label ids of right structures, the id of the left one."""
    vocabulary = load_vocabulary()
    pairs: dict[int, int] = {}
    for concept, ids in objects.items():
        if vocabulary.by_id(concept).laterality is Laterality.RIGHT:
            left = vocabulary.sided(concept, Laterality.LEFT)
            if left is not None and left.id in objects and len(objects[left.id]) == len(ids):
                pairs.update(zip(ids, objects[left.id], strict=True))
    return pairs
