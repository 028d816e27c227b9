"""What all prompts have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid


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
            raise PromptError(f"lies outside the volume of {'x'.join(map(str, grid.shape))} voxels; {self!r}")


def as_positions(values: ArrayLike, what: str, at_least: int = 1) -> tuple[tuple[float, float, float], ...]:
    """Checks positions and makes them hashable.

    Args:
        values: [N, 3] numbers.
        what: the prompt's kind, for the error.
        at_least: the smallest N that makes sense.

    Raises:
        PromptError: not N triples of finite numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError(f"a {what} takes positions of three numbers, got {values!r:.200}") from error
    if array.size == 0:
        raise PromptError(f"a {what} with no position is empty; give at least {at_least}")
    if array.ndim != 2 or array.shape[1] != 3:
        raise PromptError(f"a {what} takes positions of three numbers, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise PromptError(f"a {what} takes finite coordinates, got {array.tolist()!r:.200}")
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
        raise PromptError(f"the frame is one of {', '.join(Frame)}, got {value!r}") from error


def require_ijk(frame: Frame, what: str) -> None:
    """Raises ``PromptError`` unless ``frame`` is voxel indices."""
    if frame is not Frame.IJK:
        raise PromptError(f"the {what} is in {frame} mm; move it to a grid first (moved)")


def voxels_inside(voxels: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """The rows of [N, 3] that lie in ``grid``, each once, sorted."""
    inside = ((voxels >= 0) & (voxels < np.array(grid.shape))).all(axis=1)
    result: NDArray[np.int64] = np.unique(voxels[inside], axis=0)
    return result
