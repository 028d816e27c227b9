"""What the refining network is trained on, and how: one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from volseg.errors import TrainingError
from volseg.inferers.refine.settings import RefineSettings
from volseg.networks.refine.config import RefineSpec
from volseg.training.config import Precision, SourceConfig

REFINE_CONFIG = Path(__file__).parent / "refine_nano.yaml"
"""How the refining network of the shipped sam2-nano was trained."""
REFINE_FINE_TUNE = Path(__file__).parent / "refine_fine_tune.yaml"
"""How a refining network is taught a few cases more."""


@dataclass(frozen=True)
class RefineSampleConfig:
    """What is shown.

    Attributes:
        weights: how often cases of each group are shown, relative; ``synthetic`` are generated volumes. With none, all
            groups are shown alike.
        drafts: answers of the base model by group, for each case; 0 for none, and only damaged truths.
        other_drafts: the same for groups that are not named.
        damaged: part of the drafts that are damaged truths where there are answers, too.
        whole: where an object holds all the others of its volume, the part of the samples that show it: what is said
            about a part and about the whole looks alike, and people mean the whole more often.
        plain: part of the samples whose intensities stay as they are.
        mixed: part of the samples in which some of the object gets other intensities.
        rounds: probability of 0, 1, 2 ... corrections after the first answer.
        scales: parts of the lattice's samples that are shown, drawn alike; coarser blocks teach nearly as much in less
            time.
        synthetic_volumes: generated volumes kept at a time.
        synthetic_renewal: steps after which the oldest of them is replaced.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    drafts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    other_drafts: int = 12
    damaged: float = 0.35
    whole: float = 0.65
    plain: float = 0.0
    mixed: float = 0.0
    rounds: tuple[float, ...] = (0.25, 0.4, 0.35)
    scales: tuple[float, ...] = (1.0,)
    synthetic_volumes: int = 48
    synthetic_renewal: int = 12

    def __post_init__(self) -> None:
        """Refuses probabilities that are none."""
        parts = (self.damaged, self.whole, self.plain, self.mixed)
        if (
            not all(0 <= one <= 1 for one in parts)
            or abs(sum(self.rounds) - 1) > 1e-6
            or min(self.weights.values(), default=0) < 0
        ):
            raise TrainingError(f"probabilities lie between 0 and 1, and those of the rounds add up to 1, got {self}")
        if not self.scales or min(self.scales) <= 0 or max(self.scales) > 1:
            raise TrainingError(f"parts of the lattice's samples lie above 0 and up to 1, got {self.scales}")


@dataclass(frozen=True)
class DoubtConfig:
    """What a network with a random walker learns to expect of its own belief.

    On objects that it was trained on it errs less than on others, and would learn to trust itself too far. So smooth
    noise is added to what it believes before the walk, which it does not see, and what it believes is scored for itself
    as well.

    Attributes:
        part: of the looks that get noise.
        most: standard deviation of the noise on the logits, at most; drawn from 0 on.
        cells: fewest and most cells of the noise along an axis.
        belief: part of the loss that is about the belief before noise and walk.
    """

    part: float = 0.75
    most: float = 4.0
    cells: tuple[int, int] = (3, 9)
    belief: float = 0.35

    def __post_init__(self) -> None:
        """Refuses parts that are none."""
        if not (0 <= self.part <= 1 and 0 <= self.belief <= 1 and self.most >= 0 and min(self.cells) >= 2):
            raise TrainingError(f"parts lie between 0 and 1, noise is not negative and has 2 cells or more, got {self}")


@dataclass(frozen=True)
class RefineScheduleConfig:
    """How long, and with what step.

    Attributes:
        steps: optimiser steps, at most.
        minutes: the training ends after so many, if its steps are not done before; 0 sets no limit.
        objects: objects in a step.
        steps_per_epoch: after so many steps a checkpoint is written.
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's.
        warm_up: steps of linear warm-up; a cosine follows.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights, which are the ones that are written.
    """

    steps: int
    minutes: float = 0.0
    objects: int = 2
    steps_per_epoch: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True)
class RefineTrainConfig:
    """The whole training.

    Attributes:
        schedule: how long.
        cases: YAML file of the base model's training, which names sources and held-out patients, by its place from this
            one; empty where a table of cases does.
        more: further sources to train on, besides those of ``cases``.
        sampling: what is shown.
        doubt: errors that the network is made to expect of itself.
        go_on: start from the base model's refining network, where it has one.
        hold_out: part of the patients that are held out where the table of cases does not say.
        spec: the network, where it is not gone on with.
        settings: how blocks are sampled, likewise.
        seed: of everything drawn.
        precision: of the forward pass.
    """

    schedule: RefineScheduleConfig
    cases: str = ""
    more: tuple[SourceConfig, ...] = ()
    sampling: RefineSampleConfig = field(default_factory=RefineSampleConfig)
    doubt: DoubtConfig = field(default_factory=DoubtConfig)
    go_on: bool = True
    hold_out: float = 0.2
    spec: RefineSpec = field(default_factory=RefineSpec)
    settings: RefineSettings = field(default_factory=RefineSettings)
    seed: int = 0
    precision: Precision = Precision.BFLOAT16
