"""Batches by step number: the same number gives the same batch, so a run can be resumed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from volseg.training.augment import augment
from volseg.training.config import TrainConfig
from volseg.training.frames import normalised
from volseg.training.sampling import MIN_SHOWN, ClipSampler
from volseg.training.synthetic import GROUP, SyntheticVolumes
from volseg.training.travel import Travel
from volseg.training.volume import TrainingVolume

DRAW_SEED, PROMPT_SEED, AUGMENT_SEED = 1, 2, 3


class StepKind(StrEnum):
    """What a step trains on."""

    IMAGES = "images"
    CLIPS = "clips"


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What one step trains on, before augmentation.

    Attributes:
        step: its number.
        kind: single images (T is 1) or clips.
        frames: [N, T, 3, S, S] from 0 to 1.
        targets: [N, T, S, S] from 0 to 1.
        travel: how far the clips have come.
        rank: which process of a distributed run it is for.
    """

    step: int
    kind: StepKind
    frames: Tensor
    targets: Tensor
    travel: Travel
    rank: int = 0


class TrainingBatches(Dataset[TrainingBatch]):
    """All batches of a run.

    Args:
        volumes: to train on.
        config: of the run.
        rank: which process of a distributed run they are for. The processes see the same kind of step at the same time
            and different samples.
    """

    def __init__(self, volumes: Sequence[TrainingVolume], config: TrainConfig, rank: int = 0) -> None:
        self._config = config
        self._rank = rank
        self._sampler = ClipSampler(volumes, config.sampling, config.spec.image_size)
        painted = [volume for volume in volumes if volume.objects]
        self._generator = SyntheticVolumes(config.seed, painted)
        self._generated: dict[int, TrainingVolume] = {}

    def __len__(self) -> int:
        """Steps of the run."""
        return self._config.schedule.steps

    def __getitem__(self, step: int) -> TrainingBatch:
        """The batch of step ``step``."""
        schedule = self._config.schedule
        rng = np.random.default_rng([self._config.seed, DRAW_SEED, step])
        share = schedule.clip_share[step >= schedule.clip_start * schedule.steps]
        kind = StepKind.CLIPS if rng.random() < share else StepKind.IMAGES
        count, length = (schedule.clips, schedule.clip_frames) if kind is StepKind.CLIPS else (schedule.images, 1)
        if self._rank:
            rng = np.random.default_rng([self._config.seed, DRAW_SEED, step, self._rank])
        generated = self._current(step)
        clips = [self._sampler.draw(rng, length, generated) for _ in range(count)]
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        targets = torch.from_numpy(np.stack([clip.targets for clip in clips]))
        return TrainingBatch(step, kind, frames, targets, Travel.of(clips), self._rank)

    def _current(self, step: int) -> Sequence[TrainingVolume]:
        """The generated volumes of this step: a window that moves by one every so many steps."""
        sampling = self._config.sampling
        if sampling.weights.get(GROUP, 0) <= 0:
            return []
        first = step // sampling.synthetic_renewal
        for old in [number for number in self._generated if number < first]:
            del self._generated[old]
        return _Window(self._generator, self._generated, first, sampling.synthetic_volumes)


class _Window(Sequence[TrainingVolume]):
    """Consecutive generated volumes, made when first asked for."""

    def __init__(self, generator: SyntheticVolumes, made: dict[int, TrainingVolume], first: int, count: int) -> None:
        self._generator, self._made, self._first, self._count = generator, made, first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        number = self._first + int(place)
        if number not in self._made:
            self._made[number] = self._generator[number]
        return self._made[number]


def prepared(batch: TrainingBatch, config: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Moves a batch to the device, varies and normalises it there.

    Returns:
        Frames [N, T, 3, S, S] and targets [N, T, S, S]; the first frame of each clip shows the object.
    """
    plain_frames, plain_targets = batch.frames.to(device), batch.targets.to(device)
    seed = config.seed * 1_000_003 + batch.rank * 15_485_863 + batch.step * 7 + AUGMENT_SEED
    generator = torch.Generator().manual_seed(seed)
    frames, targets = augment(plain_frames, plain_targets, generator)
    # Augmentation may turn an object out of the frame.
    lost = targets[:, 0].flatten(1).amax(dim=1) < MIN_SHOWN
    if lost.any():
        frames[lost], targets[lost] = plain_frames[lost], plain_targets[lost]
    return normalised(frames, config), targets


def prompt_rng(config: TrainConfig, step: int, rank: int = 0) -> np.random.Generator:
    """The chance of a step's prompts."""
    return np.random.default_rng([config.seed, PROMPT_SEED, step, *([rank] if rank else [])])
