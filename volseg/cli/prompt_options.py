"""From options of ``volseg segment`` to prompts of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from volseg.errors import GeometryError, ImageReadError, PromptError

if TYPE_CHECKING:
    from volseg.geometry import Frame, Grid
    from volseg.prompts import Prompt, PromptSet


class _Place(TypedDict, total=False):
    """Where labels without a grid of their own are wanted; see ``read_labelmap``."""

    grid: Grid
    sources: Sequence[Path]


NEGATIVE_SUFFIX = ",neg"

PROMPT_OPTIONS = ("object", "prompts", "point", "box", "scribble", "lasso", "mask", "text")
"""Names of the options whose order counts."""


@dataclass(frozen=True)
class PromptOption:
    """One option as it stood on the command line.

    Attributes:
        name: one of ``PROMPT_OPTIONS``.
        text: its value.
    """

    name: str
    text: str

    def __str__(self) -> str:
        """For messages."""
        return f"--{self.name} {self.text}"


@dataclass(frozen=True)
class OpenObject:
    """From here on prompts speak of another object, called ``name``."""

    name: str


@dataclass(frozen=True)
class PromptFile:
    """Prompts in a file that is still to be read."""

    path: Path


@dataclass(frozen=True)
class MaskFile:
    """A rough mask that is still to be read.

    Attributes:
        path: a label map; every voxel that is not 0 counts.
        positive: whether the voxels belong to the object.
    """

    path: Path
    positive: bool


Statement: TypeAlias = "OpenObject | PromptFile | MaskFile | Prompt"
"""What one option says."""


def parse_options(options: Sequence[PromptOption], frame: Frame, radius_mm: float) -> tuple[Statement, ...]:
    """Reads the options, without the image and without large files.

    Args:
        options: in the order of the command line.
        frame: of all coordinates.
        radius_mm: of all scribbles.

    Raises:
        PromptError: a value is malformed, or nothing is said about an object; the message names the option.
    """
    statements = tuple(_parse(option, frame, radius_mm) for option in options)
    if not any(not isinstance(statement, OpenObject) for statement in statements):
        raise PromptError("no prompt was given; say where the object is, such as with --point, --box or --prompts")
    within = [statement for statement in statements if not isinstance(statement, PromptFile)]
    for index, statement in enumerate(within):
        if isinstance(statement, OpenObject) and all(
            isinstance(item, OpenObject) for item in within[index : index + 2]
        ):
            raise PromptError(f"--object {statement.name} has no prompt; give at least one after it")
    return statements


def assemble(statements: Sequence[Statement], grid: Grid, sources: Sequence[Path] = ()) -> PromptSet:
    """Applies the grammar: which prompt belongs to which object. Reads the files.

    Objects of prompt files come first and keep their numbers. Prompts before the first ``--object`` belong to
    object 1; each ``--object`` opens the next one.

    Args:
        statements: from ``parse_options``.
        grid: the image's; voxel indices refer to it.
        sources: the files of a DICOM image; masks in DICOM are checked to belong to it.

    Raises:
        PromptError: a file cannot be read, or its prompts cannot be expressed on the image's grid.
    """
    from volseg.prompts import PromptedObject, PromptSet

    names: dict[int, str] = {}
    said: dict[int, list[Prompt]] = {}
    for statement in statements:
        if isinstance(statement, PromptFile):
            for item in _read_prompts(statement, grid, sources).objects:
                if item.object_id in said:
                    raise PromptError(f"{statement.path}: another file has an object {item.object_id} too; merge them")
                names[item.object_id], said[item.object_id] = item.name, list(item.prompts)
    current = 1
    for statement in statements:
        match statement:
            case PromptFile():
                continue
            case OpenObject(name):
                current = max(said, default=0) + 1
                names[current], said[current] = name, []
            case MaskFile():
                said.setdefault(current, []).append(_read_mask(statement, grid, sources))
            case _:
                said.setdefault(current, []).append(statement)
    return PromptSet(
        grid, tuple(PromptedObject(number, tuple(said[number]), names.get(number, "")) for number in sorted(said))
    )


def _parse(option: PromptOption, frame: Frame, radius_mm: float) -> Statement:
    from volseg.prompts import Box, Lasso, Point, Scribble, Text

    try:
        text, positive = _sign(option.text)
        match option.name:
            case "object":
                if not option.text.strip():
                    raise PromptError("an object's name is not blank")
                return OpenObject(option.text)
            case "text":
                return Text(option.text)
            case "prompts":
                return PromptFile(_existing(option.text))
            case "mask":
                return MaskFile(_existing(text), positive)
            case "point":
                (position,) = _positions(text, "X,Y,Z", per_group=3)
                return Point(position, frame, positive)
            case "box":
                low, high = _positions(text, "X0,Y0,Z0,X1,Y1,Z1", per_group=6)
                return Box(low, high, frame, positive)
            case "scribble":
                return Scribble(_positions(text, "X,Y,Z;X,Y,Z;..."), frame, positive, radius_mm)
            case "lasso":
                return Lasso(_positions(text, "X,Y,Z;X,Y,Z;X,Y,Z;..."), frame, positive)
            case _:
                raise AssertionError(option.name)
    except PromptError as error:
        raise PromptError(f"{option}: {error}") from error


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise PromptError("there is no such file")
    return path


def _read_prompts(file: PromptFile, grid: Grid, sources: Sequence[Path]) -> PromptSet:
    from volseg.sessions import read_prompts

    prompts = read_prompts(file.path, grid, sources=sources)
    return prompts if prompts.grid.same_as(grid) else prompts.moved(grid)


def _read_mask(mask: MaskFile, grid: Grid, sources: Sequence[Path]) -> Prompt:
    from volseg.data import read_mask
    from volseg.prompts import MaskPrompt

    try:
        return MaskPrompt(*read_mask(mask.path, **_place(mask.path, grid, sources)), mask.positive)
    except (ImageReadError, GeometryError, PromptError) as error:
        raise PromptError(f"--mask {mask.path}: {error}") from error


def _place(path: Path, grid: Grid, sources: Sequence[Path]) -> _Place:
    """Outlines need the image they were drawn on; voxels have a grid of their own, which may be another."""
    from volseg.data.formats import FileFormat, format_to_read

    return {"grid": grid, "sources": sources} if format_to_read(path) is FileFormat.RTSTRUCT else {}


def _sign(text: str) -> tuple[str, bool]:
    if text.endswith(NEGATIVE_SUFFIX):
        return text[: -len(NEGATIVE_SUFFIX)], False
    return text, True


def _positions(text: str, form: str, per_group: int | None = None) -> tuple[tuple[float, float, float], ...]:
    """Reads numbers; ``per_group`` of them in one group, or any number of groups of three between semicolons."""
    groups = [group for group in text.split(";") if group.strip()] if per_group is None else [text]
    positions = []
    for group in groups:
        try:
            numbers = [float(part) for part in group.split(",")]
        except ValueError as error:
            raise PromptError(f"expected numbers as {form}[,neg], got {group!r}") from error
        if len(numbers) != (per_group or 3):
            raise PromptError(f"expected {form}[,neg], got {len(numbers)} numbers in {group!r}")
        for start in range(0, len(numbers), 3):
            x, y, z = numbers[start : start + 3]
            positions.append((x, y, z))
    return tuple(positions)
