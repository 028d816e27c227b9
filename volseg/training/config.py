"""What is trained, on what, and how: one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.networks.sam2.config import Sam2Spec

NANO_CONFIG = Path(__file__).parent / "sam2_nano.yaml"
"""How the shipped sam2-nano was trained, with its validation patients."""
FINE_TUNE_CONFIG = Path(__file__).parent / "fine_tune.yaml"
"""How trained weights are taught a few cases more; network and frames are those of the weights."""


class Precision(StrEnum):
    """Arithmetic of the forward pass. The weights and the optimiser stay in float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """Where the device multiplies it in hardware, else as ``FLOAT32``. Of SAM 2 on the CPU only the image encoder."""


class Adapt(StrEnum):
    """What of a network is trained."""

    FULL = "full"
    FROZEN_ENCODER = "frozen-encoder"
    """Everything above the image encoder."""
    LORA = "lora"
    """Low-rank additions to the image encoder, memory attention and mask decoder; see `adapt.adapt_network`."""


@dataclass(frozen=True)
class AdaptConfig:
    """What of a network is trained.

    Attributes:
        kind: which parts.
        rank: of the low-rank additions, 1 or more.
    """

    kind: Adapt = Adapt.FULL
    rank: int = 8

    def __post_init__(self) -> None:
        """Refuses a rank that no matrix has."""
        if self.rank < 1:
            raise TrainingError(f"the rank of LoRA is {self.rank}; expected 1 or more")


class Pseudo(StrEnum):
    """Labels that are made from the image."""

    BONES = "bones"
    """Of a CT, by density; see `bones.bone_labels`."""


@dataclass(frozen=True)
class SourceConfig:
    """Cases that are stored alike.

    Attributes:
        group: name under which the cases are sampled and scored.
        modality: decides the intensity window.
        image: path below the data folder, with ``{case}`` where the paths of cases differ.
            ``scan.npz::vol`` names an array in a NumPy archive.
        label: path of the label map, whole numbers on the image's grid; 0 is unlabelled, not background.
        objects: label ids by object name; empty makes every id an object. Ids may be shared (a union).
        exclude: label ids that are never an object.
        axcodes: orientation of an ``.npz`` array, which has none of its own.
        train: whether it is trained on; otherwise it is only scored.
        expert: whether people drew the labels; only those are scored.
        pseudo: how labels are made from the image, which ``label`` then names once more.
    """

    group: str
    modality: Modality
    image: str
    label: str
    objects: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    exclude: tuple[int, ...] = ()
    axcodes: str = "RAS"
    train: bool = True
    expert: bool = True
    pseudo: Pseudo | None = None

    def __post_init__(self) -> None:
        """Refuses made labels of another image, and such that would be scored."""
        if self.pseudo is not None and (self.label != self.image or self.expert):
            raise TrainingError(
                f"group {self.group}: labels made from the image need its path as label and expert: false, "
                f"got {self.label!r} for {self.image!r} and expert: {str(self.expert).lower()}"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How often what is shown.

    Attributes:
        weights: by group, relative; ``synthetic`` are generated volumes. Groups that are not named are not sampled;
            with no weights at all, every group is sampled alike and nothing is generated.
        acquisition_plane: part of the samples in the plane in which the volume was acquired; the rest is spread evenly.
        box_fill: the object's longer side as a part of the crop's, lowest and highest.
        small_fill: lowest fill of the few samples that show an object small.
        small: part of such samples.
        synthetic_volumes: generated volumes kept at a time.
        synthetic_renewal: steps after which the oldest of them is replaced.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    acquisition_plane: float = 0.6
    box_fill: tuple[float, float] = (0.25, 0.95)
    small_fill: float = 0.06
    small: float = 0.2
    synthetic_volumes: int = 40
    synthetic_renewal: int = 40


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and with what step.

    Attributes:
        steps: optimiser steps in all, at most.
        minutes: the training ends after so many, if its steps are not done before; 0 sets no limit. The learning rate
            falls with the steps or with the time, whichever is further on.
        steps_per_epoch: after so many steps a checkpoint is written.
        validate_every: epochs between validations.
        images: single images in a step of each process.
        clips: clips in a step of each process.
        clip_frames: frames of a clip.
        clip_share: part of the steps that are clips, at the start and from ``clip_start`` on.
        clip_start: part of the training after which the second share holds.
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's.
        warm_up: steps of linear warm-up; a cosine follows.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights, which are the ones validated and exported.
    """

    steps: int
    minutes: float = 0.0
    steps_per_epoch: int = 100
    validate_every: int = 10
    images: int = 16
    clips: int = 6
    clip_frames: int = 5
    clip_share: tuple[float, float] = (0.15, 0.5)
    clip_start: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        """Refuses a schedule without a step."""
        if min(self.steps, self.steps_per_epoch, self.validate_every) < 1 or self.minutes < 0:
            raise TrainingError(
                f"steps {self.steps}, steps_per_epoch {self.steps_per_epoch}, validate_every {self.validate_every} and "
                f"minutes {self.minutes:g}: expected at least 1 of each, and 0 minutes or more"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on besides the data themselves.

    Attributes:
        spec: the network.
        sources: where cases lie.
        validation: patients that are never trained on.
        sampling: how often what is shown.
        schedule: how long.
        mean: subtracted from intensities in [0, 1], per channel or one number for all.
        std: divides them afterwards, likewise.
        channels: what the three channels show.
        adapt: what of the network is trained.
        hold_out: part of the patients of a table that are held out for validation where it says nothing of a split.
        calibrate: shift the presence score in the end, see `calibrate.calibrate_presence`.
        seed: of everything random.
        precision: arithmetic of the forward pass.
        validation_slices: slices a group that a validation scores.
        validation_cases: cases a group that a validation tracks in 3D.
    """

    spec: Sam2Spec
    sources: tuple[SourceConfig, ...]
    validation: tuple[str, ...]
    sampling: SamplingConfig
    schedule: ScheduleConfig
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    channels: Channels = Channels.NEIGHBOURS
    adapt: AdaptConfig = AdaptConfig()
    hold_out: float = 0.2
    calibrate: bool = True
    seed: int = 0
    precision: Precision = Precision.BFLOAT16
    validation_slices: int = 40
    validation_cases: int = 6

    @property
    def frames(self) -> FrameFormat:
        """How the network is shown its images."""
        return FrameFormat(self.spec.image_size, self.channels, self.mean, self.std)


Built = TypeVar("Built")


def read_config(
    path: Path, *, below: Mapping[str, Any] = MappingProxyType({}), above: Mapping[str, Any] = MappingProxyType({})
) -> TrainConfig:
    """Reads a training configuration; see ``read_settings``."""
    return read_settings(path, TrainConfig, below=below, above=above)


def read_settings(
    path: Path,
    kind: type[Built],
    *,
    below: Mapping[str, Any] = MappingProxyType({}),
    above: Mapping[str, Any] = MappingProxyType({}),
) -> Built:
    """Reads a dataclass from a YAML file.

    Args:
        path: the file.
        kind: a dataclass; every setting is checked by its annotation.
        below: settings that hold where the file says nothing.
        above: settings that hold whatever the file says.

    Raises:
        TrainingError: the file is missing, is no YAML mapping, or holds unknown, missing or misshapen settings.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path} is not a readable YAML file: {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path.name} is {values!r:.80}; expected settings by name")
    return _build(kind, _over(above, _over(values, below)), path.name)


def _over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``others``, replaced or completed by those of ``values``. A whole network is replaced, not mixed."""
    merged = dict(others)
    for name, value in values.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping) and name != "spec"
        merged[name] = _over(value, merged[name]) if nested else value
    return merged


def _build(kind: type[Built], values: Any, where: str) -> Built:
    """A dataclass from plain data, with every setting checked by its annotation."""
    if not isinstance(values, dict):
        raise TrainingError(f"{where} is {values!r}; expected settings by name")
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    unknown = set(values) - set(known)
    needed = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    missing = needed - set(values)
    if unknown or missing:
        raise TrainingError(f"{where} has unknown settings {sorted(unknown)} and misses {sorted(missing)}")
    hints = get_type_hints(kind)
    try:
        return kind(**{name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()})
    except (TypeError, ValueError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{where} cannot be used: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        # Settings that may be left out.
        return None if value is None else _convert(arguments[0], value, where)
    if origin is tuple:
        if arguments == (float, float, float) and isinstance(value, int | float) and not isinstance(value, bool):
            value = [value] * 3  # one number for all channels
        if not isinstance(value, list):
            raise TrainingError(f"{where} is {value!r}; expected a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise TrainingError(f"{where} has {len(value)} entries; expected {len(arguments)}")
        return tuple(_convert(arguments[0], one, f"{where}[{place}]") for place, one in enumerate(value))
    if origin is not None:
        if not isinstance(value, dict):
            raise TrainingError(f"{where} is {value!r}; expected values by name")
        converted = {str(key): _convert(arguments[1], one, f"{where}[{key}]") for key, one in value.items()}
        return MappingProxyType(converted)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TrainingError(f"{where} is {value!r}; expected {hint.__name__}")
    return value
