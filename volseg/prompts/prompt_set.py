"""Everything a person said about an image: ordered, per object, tied to a grid."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from volseg.errors import GeometryError, PromptError
from volseg.geometry import Grid
from volseg.prompts.base import Prompt, PromptKind
from volseg.prompts.box import Box
from volseg.prompts.lasso import Lasso
from volseg.prompts.mask import MaskPrompt
from volseg.prompts.point import Point
from volseg.prompts.scribble import Scribble
from volseg.prompts.text import Text

SCHEMA = "volseg.prompts"
SCHEMA_VERSION = 1

MAX_OBJECT_ID = 2**31 - 1
"""Ids become label values, and every format that holds larger ones also holds these."""

_TYPES: dict[str, type[Prompt]] = {kind.tag: kind for kind in (Point, Box, Scribble, Lasso, MaskPrompt, Text)}


@dataclass(frozen=True)
class PromptedObject:
    """One object and what was said about it.

    Attributes:
        object_id: from 1; the label value in the result.
        prompts: in the order they were given.
        name: what the person calls it.
    """

    object_id: int
    prompts: tuple[Prompt, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.object_id, bool) or not isinstance(self.object_id, int):
            raise PromptError(f"an object's id is a whole number, got {reprlib.repr(self.object_id)}")
        if not 1 <= self.object_id <= MAX_OBJECT_ID:
            raise PromptError(f"an object's id lies in 1..{MAX_OBJECT_ID}, got {self.object_id}")
        if not isinstance(self.name, str):
            raise PromptError(f"an object's name is a text, got {reprlib.repr(self.name)}")
        object.__setattr__(self, "prompts", tuple(self.prompts))

    @property
    def title(self) -> str:
        """The object's name, or ``object N``."""
        return self.name or f"object {self.object_id}"

    def describe(self, index: int) -> str:
        """Names prompt ``index`` (from 0) for messages, such as ``prompt 2 (point) of liver``."""
        return f"prompt {index + 1} ({self.prompts[index].kind}) of {self.title}"


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one or more objects on one grid.

    Attributes:
        grid: the grid that coordinates in ``Frame.IJK`` refer to.
        objects: in order; ids differ.

    Raises:
        PromptError: two objects share an id.
    """

    grid: Grid
    objects: tuple[PromptedObject, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", tuple(self.objects))
        ids = [item.object_id for item in self.objects]
        if len(set(ids)) != len(ids):
            raise PromptError(f"each object has its own id, got {ids}")

    @classmethod
    def of(cls, grid: Grid, prompts: Iterable[Prompt], name: str = "") -> PromptSet:
        """Prompts of a single object."""
        return cls(grid, (PromptedObject(1, tuple(prompts), name),))

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """The kinds of prompt that occur."""
        return frozenset(prompt.kind for item in self.objects for prompt in item.prompts)

    def moved(self, target: Grid) -> PromptSet:
        """The same places in voxel indices of ``target``, which need not contain them.

        Raises:
            PromptError: a prompt cannot be expressed there; the message names it.
        """
        return PromptSet(target, tuple(self._moved(item, target, check=False) for item in self.objects))

    def on_grid(self, grid: Grid) -> PromptSet:
        """The same places in voxel indices of an image's grid, checked.

        Raises:
            PromptError: an object has no prompt, or a prompt lies outside; the message names it.
        """
        for item in self.objects:
            if not item.prompts:
                raise PromptError(f"{item.title} has no prompt; give it at least one")
        return PromptSet(grid, tuple(self._moved(item, grid, check=True) for item in self.objects))

    def _moved(self, item: PromptedObject, target: Grid, *, check: bool) -> PromptedObject:
        moved = []
        for index, prompt in enumerate(item.prompts):
            try:
                result = prompt.moved(self.grid, target)
                if check:
                    result.check_inside(target)
            except PromptError as error:
                raise PromptError(f"{item.describe(index)}: {error}; it is {prompt!r:.300}") from error
            moved.append(result)
        return replace(item, prompts=tuple(moved))

    # ---- JSON

    def to_json(self) -> dict[str, Any]:
        """Plain data of the versioned prompt schema (``docs/prompts.md``)."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "grid": self.grid.to_json(),
            "objects": [
                {"id": item.object_id, "name": item.name, "prompts": [prompt.to_json() for prompt in item.prompts]}
                for item in self.objects
            ],
        }

    def dumps(self) -> str:
        """One JSON string, as bundles take it."""
        return json.dumps(self.to_json())

    @classmethod
    def from_json(cls, data: Any, grid: Grid | None = None) -> PromptSet:
        """Reads what ``to_json`` wrote.

        Args:
            data: the parsed JSON.
            grid: the grid to assume where the data has none, as in files written by hand.

        Raises:
            PromptError: the data is not of the schema; the message names the prompt.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise PromptError(
                f'expected {{"schema": "{SCHEMA}", "version": {SCHEMA_VERSION}, ...}}, got {reprlib.repr(data):.120}'
            )
        version = data.get("version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise PromptError(
                f"prompts of schema version {reprlib.repr(version)} cannot be read here, only {SCHEMA_VERSION}; "
                "update volseg or the file"
            )
        if "grid" in data:
            try:
                grid = Grid.from_json(data["grid"])
            except GeometryError as error:
                raise PromptError(f"the prompts' grid: {error}") from error
        if grid is None:
            raise PromptError("the prompts have no grid and none was given; add the image's grid")
        objects = data.get("objects")
        if not isinstance(objects, list) or not objects:
            raise PromptError("the prompts hold no object; add one to the list 'objects'")
        return cls(grid, tuple(_object_from_json(item, number) for number, item in enumerate(objects, start=1)))

    @classmethod
    def loads(cls, text: str, grid: Grid | None = None) -> PromptSet:
        """Reads ``dumps``'s string; see ``from_json``."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"the prompts are not JSON: {error}") from error
        return cls.from_json(data, grid)


def _object_from_json(data: Any, number: int) -> PromptedObject:
    if not isinstance(data, Mapping) or not isinstance(data.get("prompts"), list):
        raise PromptError(f"object {number} is {{id, name, prompts}}, got {reprlib.repr(data)}")
    try:
        item = PromptedObject(data.get("id", number), (), data.get("name", ""))
    except PromptError as error:
        raise PromptError(f"object {number}: {error}") from error
    prompts = tuple(
        _prompt_from_json(prompt, f"prompt {index} of {item.title}")
        for index, prompt in enumerate(data["prompts"], start=1)
    )
    return replace(item, prompts=prompts)


def _prompt_from_json(data: Any, where: str) -> Prompt:
    tag = data.get("type") if isinstance(data, Mapping) else None
    if not isinstance(tag, str) or tag not in _TYPES:
        raise PromptError(f"{where}: type is one of {', '.join(_TYPES)}, got {reprlib.repr(tag)}")
    try:
        return _TYPES[tag].from_json(data)
    except PromptError as error:
        raise PromptError(f"{where} ({tag}): {error}") from error
