"""The ``volseg`` block of a bundle's ``configs/metadata.json``: all that is needed to load the model, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from volseg.data.modality import Modality
from volseg.errors import ModelError, UntrustedBundleError
from volseg.inferers.refine.settings import RefineSettings
from volseg.inferers.slices.frames import FrameFormat
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.models.card import License, ModelCard
from volseg.models.sam2 import NEGATIVE_PROMPTS, POSITIVE_PROMPTS
from volseg.networks.refine.config import RefineSpec
from volseg.networks.sam2.config import Sam2Spec

BLOCK = "volseg"
FORMAT_VERSION = 1
ENGINE = "sam2"
METADATA_FILE = Path("configs") / "metadata.json"
MAX_METADATA_BYTES = 10 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Weights:
    """The weights file.

    Attributes:
        file: relative to the bundle's folder, with forward slashes; safetensors.
        sha256: of the file.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Origin:
    """The public file that the weights were converted from.

    Attributes:
        repository: owner/name on the Hugging Face hub; empty for a local file.
        revision: commit of the repository.
        file: its name.
        sha256: of that file, as it arrived.
    """

    repository: str = ""
    revision: str = ""
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Identity:
    """What the model is called; see ``ModelCard``."""

    name: str
    version: str
    summary: str
    modalities: tuple[Modality, ...] = tuple(Modality)
    random_weights: bool = False


@dataclass(frozen=True)
class Refinement:
    """The network that looks at objects once more in 3D.

    Attributes:
        weights: its weights file.
        network: what to build.
        settings: how objects are looked at.
    """

    weights: Weights
    network: RefineSpec = field(default_factory=RefineSpec)
    settings: RefineSettings = field(default_factory=RefineSettings)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {name: settings_to_json(getattr(self, name)) for name in ("weights", "network", "settings")}

    @classmethod
    def from_json(cls, data: Any) -> Refinement:
        """Reads what ``to_json`` wrote.

        Raises:
            ModelError: a setting is unknown or of the wrong type.
        """
        if not isinstance(data, Mapping) or set(data) != {"weights", "network", "settings"}:
            raise ModelError(f"its 'refinement' is {data!r:.80}; expected an object with weights, network and settings")
        return cls(
            settings_from_json(Weights, data["weights"], "refinement.weights"),
            settings_from_json(RefineSpec, data["network"], "refinement.network"),
            settings_from_json(RefineSettings, data["settings"], "refinement.settings"),
        )


@dataclass(frozen=True)
class Sam2Bundle:
    """What a bundle says about its model.

    Attributes:
        identity: name, version and purpose.
        license: terms of the weights.
        weights: the weights file.
        network: what to build.
        frames: how the network wants its images.
        zoom: when and how far to zoom.
        tracking: settings of ``TrackSettings`` that differ from its defaults.
        origin: where the weights came from.
        refinement: the second look in 3D, where the model has one.
    """

    identity: Identity
    license: License
    weights: Weights
    network: Sam2Spec
    frames: FrameFormat
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    tracking: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    refinement: Refinement | None = None

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """Network and origin in words, by title; empty where there is nothing to say."""
        network, origin = self.network, self.origin
        return (
            ("network", f"SAM {network.version} {network.variant}, {network.image_size} pixels"),
            ("origin", " ".join(part for part in (origin.repository, origin.revision, origin.file) if part)),
        )

    @property
    def weights_sha256(self) -> str:
        """Names all weights together: the file's hash, or a hash of both files' hashes."""
        if self.refinement is None:
            return self.weights.sha256
        return sha256(f"{self.weights.sha256}{self.refinement.weights.sha256}".encode()).hexdigest()

    @property
    def card(self) -> ModelCard:
        """The card of the model."""
        return ModelCard(
            name=self.identity.name,
            version=self.identity.version,
            summary=self.identity.summary,
            positive=POSITIVE_PROMPTS,
            negative=NEGATIVE_PROMPTS,
            volumetric=False,
            modalities=frozenset(self.identity.modalities),
            license=self.license,
            weights_sha256=self.weights_sha256,
            random_weights=self.identity.random_weights,
        )

    def to_json(self) -> dict[str, Any]:
        """The block as plain data."""
        return {
            "format": FORMAT_VERSION,
            "engine": ENGINE,
            "model": settings_to_json(self.identity),
            "license": settings_to_json(self.license),
            "weights": settings_to_json(self.weights),
            "network": settings_to_json(self.network),
            "frames": settings_to_json(self.frames),
            "zoom": settings_to_json(self.zoom),
            "tracking": dict(self.tracking),
            "origin": settings_to_json(self.origin),
            **({} if self.refinement is None else {"refinement": self.refinement.to_json()}),
        }

    @classmethod
    def from_json(cls, block: Any) -> Sam2Bundle:
        """Reads what ``to_json`` wrote.

        Raises:
            ModelError: of another version or engine, or a setting is missing, unknown or of the wrong type.
        """
        parts: dict[str, type[Any]] = {
            "network": Sam2Spec,
            "frames": FrameFormat,
            "zoom": ZoomSettings,
            "origin": Origin,
        }
        read = read_parts(block, ENGINE, parts, {"tracking", "refinement"})
        refinement = None if "refinement" not in block else Refinement.from_json(block["refinement"])
        tracking = block.get("tracking", {})
        if not isinstance(tracking, Mapping):
            raise ModelError(f"its 'tracking' is {tracking!r:.80}; expected an object")
        bundle = cls(identity=read.pop("model"), tracking=dict(tracking), refinement=refinement, **read)
        if bundle.frames.image_size != bundle.network.image_size:
            raise ModelError(
                f"its frames have {bundle.frames.image_size} pixels a side and its network {bundle.network.image_size}"
            )
        return bundle


def read_parts(block: Any, engine: str, parts: Mapping[str, type[Any]], others: Collection[str]) -> dict[str, Any]:
    """The parts of a ``volseg`` block that are settings, checked, by name.

    Args:
        block: as it stands in the metadata.
        engine: that it must be of.
        parts: what the engine adds to ``model``, ``license`` and ``weights``.
        others: names of parts that the engine reads itself.

    Raises:
        ModelError: of another version or engine, or a setting is missing, unknown or of the wrong type.
    """
    if not isinstance(block, Mapping):
        raise ModelError(f"its '{BLOCK}' block is {block!r:.80}; expected an object")
    if block.get("format") != FORMAT_VERSION or block.get("engine") != engine:
        raise ModelError(
            f"it is of format {block.get('format')!r} for the engine {block.get('engine')!r}; expected "
            f"format {FORMAT_VERSION} for {engine!r}. Update volseg, or the bundle"
        )
    every: dict[str, type[Any]] = {"model": Identity, "license": License, "weights": Weights, **parts}
    unknown = set(block) - {*every, *others, "format", "engine"}
    if unknown:
        raise ModelError(f"its '{BLOCK}' block has unknown parts {sorted(unknown)}")
    return {name: settings_from_json(kind, block.get(name, {}), name) for name, kind in every.items()}


def read_metadata(folder: Path) -> dict[str, Any]:
    """Reads a bundle's metadata as plain JSON.

    Raises:
        ModelError: there is none, or it is not JSON.
    """
    path = folder / METADATA_FILE
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise ModelError(f"{path} has more than {MAX_METADATA_BYTES} bytes; that is no metadata")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} is no bundle: {METADATA_FILE} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds a {type(data).__name__}; expected an object")
    return data


def read_bundle(folder: Path) -> Sam2Bundle:
    """Reads a bundle's ``volseg`` block.

    Raises:
        UntrustedBundleError: there is no such block, so that only the bundle's own code could say how to load it.
        ModelError: the folder is no bundle, or the block is damaged.
    """
    metadata = read_metadata(folder)
    if BLOCK not in metadata:
        raise UntrustedBundleError(f"{folder}: its metadata has no '{BLOCK}' block")
    try:
        return Sam2Bundle.from_json(metadata[BLOCK])
    except ModelError as error:
        raise ModelError(f"{folder / METADATA_FILE}: {error}") from error


def settings_from_json(kind: type[T], values: Any, title: str) -> T:
    """Makes a frozen settings dataclass from plain data, checking names and types.

    Args:
        kind: the dataclass; its fields are numbers, texts, booleans, enums of texts, or tuples or options of these.
        values: a JSON object.
        title: how errors call it.

    Raises:
        ModelError: a setting is missing, unknown or of the wrong type.
    """
    hints = get_type_hints(kind)
    names = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping) or set(values) - names:
        raise ModelError(f"'{title}' is {values!r:.120}; expected an object with some of {sorted(names)}")
    read = {name: _value(hints[name], value, f"{title}.{name}") for name, value in values.items()}
    try:
        return kind(**read)
    except (TypeError, ValueError) as error:
        raise ModelError(f"'{title}': {error}") from error


def _value(hint: Any, value: Any, title: str) -> Any:
    if get_origin(hint) in (Union, UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        return _value(next(one for one in get_args(hint) if one is not type(None)), value, title)
    if get_origin(hint) is tuple and isinstance(value, list):
        kinds = get_args(hint)
        if len(kinds) == 2 and kinds[1] is ...:
            kinds = (kinds[0],) * len(value)
        if len(kinds) == len(value):
            return tuple(
                _value(one, item, f"{title}[{i}]") for i, (one, item) in enumerate(zip(kinds, value, strict=True))
            )
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif hint is float and value == "inf":
        return math.inf
    elif isinstance(hint, type) and hint is not float:
        if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
            return value
        if issubclass(hint, str) and isinstance(value, str):
            try:
                return hint(value)
            except ValueError:
                pass
    raise ModelError(f"'{title}' is {value!r:.80}; expected {getattr(hint, '__name__', hint)}")


def settings_to_json(settings: Any) -> dict[str, Any]:
    """What ``settings_from_json`` reads back."""
    return {name: _plain(value) for name, value in dataclasses.asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf"  # JSON has no infinity
    return str(value) if isinstance(value, str) else value
