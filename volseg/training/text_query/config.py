"""What a text-query network is trained on, and how: one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from volseg.networks.text_query.config import TextQuerySpec
from volseg.training.config import Precision, SourceConfig, read_settings

NANO_CONFIG = Path(__file__).parent / "text_nano.yaml"
"""How the shipped text-nano was trained, with its validation patients."""

_NOTHING: Mapping[str, tuple[int, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class ViewConfig:
    """How volumes of a group are looked at.

    Attributes:
        spacing_mm: of the network's grid.
        window: voxels of a window along right, anterior, superior.
        concepts: ids that are asked for at this spacing.
        weight: part of the group's samples, relative.
    """

    spacing_mm: float
    window: tuple[int, int, int]
    concepts: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class GroupConfig:
    """Volumes that are labelled alike.

    Attributes:
        source: where they lie. ``objects`` are label ids by concept; every voxel of these structures is labelled.
        views: how they are looked at.
        unknown: label ids by concept within which it is not known whether a voxel belongs to the concept; outside, no
            voxel does.
        absent: groups (by name) whose concepts cannot occur in these volumes.
        weight: part of all samples, relative.
        painted: part of the samples whose intensities are generated from the label map.
        likely: part of the painted samples whose mean intensities follow the real image.
        recast: part of the CT samples that are not painted whose intensities are mapped to those of an MR (see
            ``paint.recast``).
        shell: whether the surroundings of all labels are painted as layers (a head around a brain).
        swell: concepts that grow or shrink in some of the windows, with what lies around them giving way.
        nowhere: concepts that cannot occur in these volumes, besides those of ``absent``.
        validate: whether cases on the validation side are scored, also where labels were not drawn by people.
    """

    source: SourceConfig
    views: tuple[ViewConfig, ...]
    unknown: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _NOTHING)
    absent: tuple[str, ...] = ()
    weight: float = 1.0
    painted: float = 0.0
    likely: float = 0.5
    recast: float = 0.0
    shell: bool = False
    swell: tuple[str, ...] = ()
    nowhere: tuple[str, ...] = ()
    validate: bool = True


@dataclass(frozen=True)
class TextScheduleConfig:
    """How long, and with what step; see ``ScheduleConfig``.

    Attributes:
        steps: optimiser steps in all.
        steps_per_epoch: after so many steps a checkpoint is written.
        validate_every: epochs between validations.
        queries: queries of a step, present and absent.
        absent: part of the queries that are absent where there are enough.
        learning_rate: peak of AdamW's, for the backbone.
        query_learning_rate: the same for everything else; attention forgets its queries at the backbone's.
        bank_learning_rate: the same for the query embeddings, each of which is moved only when it is asked for.
        weight_decay: AdamW's.
        warm_up: steps of linear warm-up.
        cool_down: last steps, in which the rate falls linearly to a hundredth. Until they begin the rate is constant,
            so that a run may be prolonged or ended earlier and is still what its configuration says.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights, which are validated and exported.
        foreign: part of the steps that look at a volume at another group's spacing and ask for its structures.
    """

    steps: int
    steps_per_epoch: int = 50
    validate_every: int = 10
    queries: int = 8
    absent: float = 0.35
    learning_rate: float = 1e-3
    query_learning_rate: float = 3e-4
    bank_learning_rate: float = 5e-3
    weight_decay: float = 0.01
    warm_up: int = 50
    cool_down: int = 300
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    foreign: float = 0.12


@dataclass(frozen=True)
class PresenceConfig:
    """How presence is trained once more, after and apart from everything else; masks stay as they are.

    Attributes:
        weights: part of the windows, relative, by group. Groups of other parts of the body show where nothing is.
        spacings_mm: at which windows are seen, and asked for what is looked for there. Structures looked for at another
            one are parts of one looked for at one of these.
        windows: so many are encoded, once.
        steps: optimiser steps on them.
        batch: windows of a step.
        learning_rate: AdamW's, falling to 0 by a cosine.
        weight_decay: AdamW's.
        layers: attention layers that presence gets to itself.
        scout: channels of convolutions that it gets besides, to look at windows with its own eyes; none for none.
        varied: part of the windows whose intensities are varied.
        drop: part of a window's tokens that a step does not see.
        blind: part of the steps that see nothing but what the scout sees.
        recast: part of the CT windows that are shown as MR, their intensities mapped by a random curve: limbs and
            trunks of more people, as other sequences would show them.
        phantoms: windows of random shapes besides, in which nothing is.
        missed: part of the windows with a structure that may say in the end that it is not there; 0 leaves presence as
            trained. Several windows of an image show a structure, some only an edge of it, and the surest one counts;
            every window that shows none may be wrong.
    """

    weights: Mapping[str, float]
    spacings_mm: tuple[float, ...]
    windows: int = 600
    steps: int = 1000
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    layers: int = 1
    scout: tuple[int, ...] = ()
    varied: float = 0.5
    drop: float = 0.3
    blind: float = 0.5
    recast: float = 0.0
    phantoms: int = 0
    missed: float = 0.0


@dataclass(frozen=True)
class TextTrainConfig:
    """Everything a run depends on besides the data themselves.

    Attributes:
        spec: the network; ``concepts`` are filled in from the views.
        groups: what is trained on and scored.
        validation: patients that are never trained on.
        schedule: how long.
        start_sha256: of the weights that the run starts from; empty for random ones.
        focus: concepts that are asked for more often than others, with the factor.
        seed: of everything random.
        precision: arithmetic of the backbone.
        flip: part of the samples that are mirrored, with left and right exchanged.
        validation_cases: cases of a group that a validation during training scores; all are scored in the end.
        varied: part of the samples whose intensities are varied.
        ending: part of the samples in which the image ends within the window.
        presence: how presence is trained afterwards; see ``tune_presence``.
    """

    spec: TextQuerySpec
    groups: tuple[GroupConfig, ...]
    validation: tuple[str, ...]
    schedule: TextScheduleConfig
    start_sha256: str = ""
    focus: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    precision: Precision = Precision.BFLOAT16
    flip: float = 0.5
    validation_cases: int = 4
    varied: float = 1.0
    ending: float = 0.0
    presence: PresenceConfig | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        """Every structure that is asked for, in the order of the configuration."""
        return tuple(dict.fromkeys(c for group in self.groups for view in group.views for c in view.concepts))


def read_text_config(path: Path) -> TextTrainConfig:
    """Reads a configuration; errors as ``read_settings``."""
    return read_settings(path, TextTrainConfig)
