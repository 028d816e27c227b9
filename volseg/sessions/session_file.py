"""A session as versioned JSON, without patient data (``docs/sessions.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from volseg.data.labelmap import OverlapPolicy
from volseg.data.modality import Modality
from volseg.errors import GeometryError, PromptError, SessionError
from volseg.geometry import Frame, Grid, Plane
from volseg.models.card import ModelCard
from volseg.models.options import EncodeOptions
from volseg.prompts import Prompt, PromptSet
from volseg.prompts.prompt_set import SCHEMA as PROMPTS_SCHEMA
from volseg.prompts.prompt_set import SCHEMA_VERSION as PROMPTS_VERSION
from volseg.sessions.state import HistoryEntry, SessionObject, SessionState, is_whole

SCHEMA = "volseg.session"
SCHEMA_VERSION = 1

Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True)
class ModelIdentity:
    """Which model a session was made with.

    Attributes:
        name: as given to ``load_model``.
        version: of the weights or the method.
        weights_sha256: empty for a model without weights.
    """

    name: str
    version: str
    weights_sha256: str

    @classmethod
    def of(cls, card: ModelCard) -> ModelIdentity:
        """The identity a card states."""
        return cls(card.name, card.version, card.weights_sha256)

    def __str__(self) -> str:
        """For messages."""
        weights = f", weights {self.weights_sha256[:12]}" if self.weights_sha256 else ""
        return f"{self.name} {self.version}{weights}"


@dataclass(frozen=True)
class SavedSession:
    """What a session file holds.

    Attributes:
        image_sha256: hash of the image's voxels and grid.
        grid: the image's grid; voxel indices refer to it.
        model: the model that was used.
        states: everything undo and redo can reach, in order.
        position: index of the state the person saw.
    """

    image_sha256: str
    grid: Grid
    model: ModelIdentity
    states: tuple[SessionState, ...]
    position: int

    @property
    def state(self) -> SessionState:
        """The state the person saw."""
        return self.states[self.position]

    def moved(self, grid: Grid) -> SavedSession:
        """The same prompts on another grid: voxel indices become those of ``grid``, mm stay as they are.

        Raises:
            SessionError: a prompt cannot be expressed there.
        """

        def move(entry: HistoryEntry) -> HistoryEntry:
            if getattr(entry.prompt, "frame", None) is not Frame.IJK:
                return entry
            try:
                return replace(entry, prompt=entry.prompt.moved(self.grid, grid))
            except PromptError as error:
                raise SessionError(f"prompt {entry.entry_id} cannot be moved to the other image: {error}") from error

        moved = {entry.revision: move(entry) for state in self.states for entry in state.history}
        states = (
            replace(state, history=tuple(moved[entry.revision] for entry in state.history)) for state in self.states
        )
        return replace(self, grid=grid, states=tuple(states))

    # ---- JSON

    def to_json(self, software: str = "") -> dict[str, Any]:
        """Plain data that ``from_json`` reads back.

        Steps share most of their objects and prompts, so these stand once in tables that the states point into.
        """
        objects: dict[SessionObject, int] = {}
        entries: dict[int, tuple[int, HistoryEntry]] = {}
        states = []
        for state in self.states:
            for item in state.objects:
                objects.setdefault(item, len(objects))
            for entry in state.history:
                entries.setdefault(entry.revision, (len(entries), entry))
            states.append(
                {
                    "objects": [objects[item] for item in state.objects],
                    "entries": [entries[entry.revision][0] for entry in state.history],
                    "overlap": str(state.overlap),
                    "options": options_to_json(state.options),
                }
            )
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "software": software,
            "image": {"sha256": self.image_sha256, "grid": self.grid.to_json()},
            "model": {
                "name": self.model.name,
                "version": self.model.version,
                "weights_sha256": self.model.weights_sha256,
            },
            "objects": [
                {"id": item.object_id, "name": item.name, "color_rgb": list(item.color_rgb), "locked": item.locked}
                for item in objects
            ],
            "entries": [
                {"id": entry.entry_id, "object": entry.object_id, "prompt": entry.prompt.to_json()}
                for _, entry in entries.values()
            ],
            "states": states,
            "position": self.position,
        }

    @classmethod
    def from_json(cls, data: Any) -> SavedSession:
        """Reads what ``to_json`` wrote.

        Raises:
            SessionError: the data is not of the schema; the message names what is wrong.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise SessionError(f'expected a session {{"schema": "{SCHEMA}", ...}}, got {data!r:.120}')
        if data.get("version") != SCHEMA_VERSION:
            raise SessionError(
                f"sessions of schema version {data.get('version')!r:.40} cannot be read here, only {SCHEMA_VERSION}; "
                "update volseg or the file"
            )
        image = _get(data, "image", Mapping, "the session")
        model = _get(data, "model", Mapping, "the session")
        try:
            grid = Grid.from_json(image.get("grid"))
        except (GeometryError, OverflowError) as error:
            raise SessionError(f"the session's grid: {error}") from error
        objects = [
            _object_from_json(item, f"object row {number}")
            for number, item in enumerate(_get(data, "objects", list, "the session"), start=1)
        ]
        entries = [
            _entry_from_json(item, number, grid)
            for number, item in enumerate(_get(data, "entries", list, "the session"))
        ]
        states = tuple(
            _state_from_json(item, objects, entries, f"state {number}")
            for number, item in enumerate(_get(data, "states", list, "the session"), start=1)
        )
        position = _get(data, "position", int, "the session")
        if not states or not 0 <= position < len(states):
            raise SessionError(f"the session's position is one of its {len(states)} states, from 0; got {position}")
        return cls(
            _get(image, "sha256", str, "the session's image"),
            grid,
            ModelIdentity(
                *(_get(model, key, str, "the session's model") for key in ("name", "version", "weights_sha256"))
            ),
            states,
            position,
        )


def options_to_json(options: EncodeOptions) -> dict[str, Any]:
    """Plain data of the options; null where volseg chooses."""
    return {
        "window": options.window,
        "plane": None if options.plane is None else str(options.plane),
        "modality": None if options.modality is None else str(options.modality),
    }


def options_from_json(data: Any, where: str) -> EncodeOptions:
    """Reads what ``options_to_json`` wrote; missing keys are left to volseg's choice.

    Raises:
        SessionError: a value the option cannot have.
    """
    if not isinstance(data, Mapping):
        raise SessionError(f"{where}: options are {{window, plane, modality}}, got {data!r:.120}")
    window = data.get("window")
    if window is not None and not isinstance(window, str):
        raise SessionError(f"{where}: a window is a text, got {window!r:.120}")
    return EncodeOptions(
        window=window,
        plane=None if data.get("plane") is None else _choice(Plane, data["plane"], where),
        modality=None if data.get("modality") is None else _choice(Modality, data["modality"], where),
    )


def _object_from_json(data: Any, where: str) -> SessionObject:
    if not isinstance(data, Mapping):
        raise SessionError(f"{where} is {{id, name, color_rgb, locked}}, got {data!r:.120}")
    try:
        return SessionObject(
            data.get("id"),  # type: ignore[arg-type]  # checked there
            data.get("name", ""),
            data.get("color_rgb"),  # type: ignore[arg-type]
            data.get("locked", False),
        )
    except SessionError as error:
        raise SessionError(f"{where}: {error}") from error


def _entry_from_json(data: Any, revision: int, grid: Grid) -> HistoryEntry:
    where = f"entry row {revision + 1}"
    if not isinstance(data, Mapping):
        raise SessionError(f"{where} is {{id, object, prompt}}, got {data!r:.120}")
    return HistoryEntry(
        _get(data, "id", int, where),
        _get(data, "object", int, where),
        _prompt_from_json(data.get("prompt"), grid, where),
        revision,
    )


def _prompt_from_json(data: Any, grid: Grid, where: str) -> Prompt:
    # The prompt schema knows how to read every kind of prompt, so a prompt is read as a file that holds one.
    wrapped = {"schema": PROMPTS_SCHEMA, "version": PROMPTS_VERSION, "objects": [{"id": 1, "prompts": [data]}]}
    try:
        return PromptSet.from_json(wrapped, grid).objects[0].prompts[0]
    except (PromptError, OverflowError, TypeError, ValueError) as error:
        raise SessionError(f"{where}: {error}") from error


def _state_from_json(data: Any, objects: list[SessionObject], entries: list[HistoryEntry], where: str) -> SessionState:
    if not isinstance(data, Mapping):
        raise SessionError(f"{where} is {{objects, entries, overlap, options}}, got {data!r:.120}")
    state = SessionState(
        _rows(data, "objects", objects, where),
        _rows(data, "entries", entries, where),
        _choice(OverlapPolicy, data.get("overlap"), where),
        options_from_json(data.get("options", {}), where),
    )
    object_ids = [item.object_id for item in state.objects]
    entry_ids = [entry.entry_id for entry in state.history]
    if len(set(object_ids)) != len(object_ids) or len(set(entry_ids)) != len(entry_ids):
        raise SessionError(f"{where}: an object or prompt occurs twice")
    strangers = {entry.object_id for entry in state.history} - set(object_ids)
    if strangers:
        raise SessionError(f"{where}: prompts speak of objects {sorted(strangers)}, which it does not hold")
    return state


Row = TypeVar("Row")


def _rows(data: Mapping[str, Any], key: str, table: list[Row], where: str) -> tuple[Row, ...]:
    indices = _get(data, key, list, where)
    for index in indices:
        if not is_whole(index) or not 0 <= index < len(table):
            raise SessionError(f"{where}: {key} point to one of {len(table)} rows, from 0; got {index!r:.40}")
    return tuple(table[index] for index in indices)


def _choice(kind: type[Choice], value: Any, where: str) -> Choice:
    try:
        return kind(value)
    except ValueError as error:
        raise SessionError(f"{where}: expected one of {', '.join(kind)}, got {value!r:.40}") from error


def _get(data: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SessionError(f"{where}: {key!r} is missing or of the wrong type, got {value!r:.80}")
    return value
