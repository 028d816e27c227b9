"""What all prompts have in common."""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid

MAX_COORDINATE = 1e9
"""Larger coordinates, in millimetres or voxels, are taken for a mistake; far beyond any image."""


class PromptKind(StrEnum):
    """The kinds of prompt a model may or may not serve."""

    POINT = "point"
    BOX_2D = "box_2d"
    BOX_3D = "box_3d"
    SCRIBBLE = "scribble"
    LASSO = "lasso"
    MASK = "mask"
    TEXT = "text"


class Prompt(ABC):
    """One thing a person said about one object.

    Coordinates stay in the frame they were given in. Those in ``Frame.IJK`` refer to a grid that whoever holds the
    prompt knows (``PromptSet.grid``): an integer is a voxel's centre.
    """

    tag: ClassVar[str]
    """Name of the class in JSON."""

    positive: bool
    """Whether the prompt says "this belongs to the object" or "this does not"."""

    @property
    @abstractmethod
    def kind(self) -> PromptKind:
        """The kind, as models declare it."""

    @abstractmethod
    def moved(self, source: Grid, target: Grid) -> Self:
        """The same place in voxel indices of ``target``.

        Args:
            source: the grid that coordinates in ``Frame.IJK`` refer to; mm coordinates do not need it.
            target: the grid that the result's ``Frame.IJK`` coordinates refer to. It need not contain them.
        """

    @abstractmethod
    def voxels_ijk(self, grid: Grid) -> NDArray[np.int64]:
        """The voxels of ``grid`` that the prompt covers, [N, 3], each once; needs coordinates in its ``Frame.IJK``."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain data for the prompt file."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what ``to_json`` wrote."""

    def check_inside(self, grid: Grid) -> None:
        """Raises ``PromptError`` when no voxel of ``grid`` is covered."""
        if len(self.voxels_ijk(grid)) == 0:
            raise PromptError(f"lies outside the volume of {size_text(grid)} voxels")


def as_positions(values: ArrayLike, what: str, at_least: int = 1) -> tuple[tuple[float, float, float], ...]:
    """Checks positions and makes them hashable.

    Args:
        values: [N, 3] numbers.
        what: the prompt's kind, for the error.
        at_least: the smallest N that makes sense.

    Raises:
        PromptError: not N triples of finite numbers.
    """
    items: Any = values
    wrong = f"a {what} takes positions of three numbers, got {reprlib.repr(values)}"
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise PromptError(wrong) from error
    if array.size == 0:
        raise PromptError(f"a {what} with no position is empty; give at least {at_least}")
    if array.ndim != 2 or array.shape[1] != 3:
        raise PromptError(f"{wrong} of shape {array.shape}")
    # numpy would read True as 1 and "2" as 2.
    if array.dtype.kind not in "iuf" or any(isinstance(value, bool | np.bool_) for row in items for value in row):
        raise PromptError(wrong)
    if not np.isfinite(array).all():
        raise PromptError(f"a {what} takes finite coordinates, got {reprlib.repr(array.tolist())}")
    if np.abs(array.astype(np.float64)).max() > MAX_COORDINATE:
        raise PromptError(f"a {what} takes coordinates up to {MAX_COORDINATE:g}, got {reprlib.repr(array.tolist())}")
    if len(array) < at_least:
        raise PromptError(f"a {what} needs at least {at_least} positions, got {len(array)}")
    return tuple((float(x), float(y), float(z)) for x, y, z in array)


def as_frame(value: Any) -> Frame:
    """Reads a frame's name.

    Raises:
        PromptError: not one of ijk, ras, lps.
    """
    try:
        return Frame(value)
    except ValueError as error:
        raise PromptError(f"the frame is one of {', '.join(Frame)}, got {reprlib.repr(value)}") from error


def as_sign(value: Any, what: str) -> bool:
    """Reads whether a prompt is positive.

    Raises:
        PromptError: neither true nor false; ``"false"`` and 0 are mistakes that must not turn a prompt round.
    """
    if not isinstance(value, bool | np.bool_):
        raise PromptError(f"positive of a {what} is true or false, got {reprlib.repr(value)}")
    return bool(value)


def as_radius_mm(value: Any, what: str) -> float:
    """Reads a radius.

    Raises:
        PromptError: not a finite number from 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise PromptError(f"the radius of a {what} is a number of mm, got {reprlib.repr(value)}")
    if not 0 <= value <= MAX_COORDINATE or not math.isfinite(value):
        raise PromptError(f"the radius of a {what} is 0 mm or more, got {reprlib.repr(value)}")
    return float(value)


def size_text(grid: Grid) -> str:
    """A grid's shape for messages, such as ``512x512x90``."""
    return "x".join(map(str, grid.shape))


def require_ijk(frame: Frame, what: str) -> None:
    """Raises ``PromptError`` unless ``frame`` is voxel indices."""
    if frame is not Frame.IJK:
        raise PromptError(f"the {what} is in {frame} mm; move it to a grid first (moved)")


def voxels_inside(voxels: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """The rows of [N, 3] that lie in ``grid``, each once, sorted."""
    inside = ((voxels >= 0) & (voxels < np.array(grid.shape))).all(axis=1)
    # Sorting flat indices is tens of times faster than sorting rows.
    flat = np.unique(np.ravel_multi_index(tuple(voxels[inside].T), grid.shape))
    return np.stack(np.unravel_index(flat, grid.shape), axis=-1).astype(np.int64)
