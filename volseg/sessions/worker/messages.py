"""What a window's process and the one that computes for it say to each other, as pickles through pipes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from volseg.errors import ModelError
from volseg.geometry import Grid
from volseg.models.options import EncodeOptions
from volseg.prompts import PromptSet
from volseg.sessions.result import ObjectResult


@dataclass(frozen=True)
class Open:
    """An image and the model that is to look at it; the voxels follow, see ``write_voxels``. Answered with the card.

    Attributes:
        engine_id: what later requests call the two together.
        model: see ``load_model``.
        device: see ``load_model``.
        encodings_folder: where encoded images are kept for later sessions; None keeps none.
        grid: of the image.
        dtype: of its voxels.
        modality: as its header states it; empty where it does not.
    """

    engine_id: int
    model: str
    device: str
    encodings_folder: Path | None
    grid: Grid
    dtype: str
    modality: str


@dataclass(frozen=True)
class Encode:
    """See ``Engine.encode``. Answered with None."""

    engine_id: int
    options: EncodeOptions


@dataclass(frozen=True)
class Segment:
    """See ``Engine.segment``. Answered with its results."""

    engine_id: int
    options: EncodeOptions
    prompts: PromptSet
    exact: bool


@dataclass(frozen=True)
class Close:
    """Image and encoding are no longer needed. Answered with None."""

    engine_id: int


@dataclass(frozen=True)
class Cancel:
    """Request ``number`` is no longer wanted. Not answered: the request is, with ``Cancelled`` or as if nothing was."""

    number: int


@dataclass(frozen=True)
class Told:
    """Progress."""

    fraction: float
    text: str


@dataclass(frozen=True)
class Grown:
    """A mask as it grows."""

    result: ObjectResult


@dataclass(frozen=True)
class Answer:
    """A request is done; or ``error`` says why it is not."""

    value: Any = None
    error: Exception | None = None


Request: TypeAlias = Open | Encode | Segment | Close


@dataclass(frozen=True)
class Asked:
    """A request and its number, which only grows."""

    number: int
    request: Request


def write_message(stream: IO[bytes], message: Any) -> None:
    """Sends a message."""
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def read_message(stream: IO[bytes]) -> Any:
    """Waits for a message.

    Raises:
        EOFError: the other side has ended.
    """
    try:
        return pickle.load(stream)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        # Broken off in the middle of a message, or closed from here.
        raise EOFError from error


def write_voxels(stream: IO[bytes], voxels: NDArray[Any]) -> None:
    """Sends voxels [I, J, K] slice by slice, so that no copy of all is made and no other thread is held up."""
    for plane in voxels:
        stream.write(np.ascontiguousarray(plane).tobytes())
    stream.flush()


def read_voxels(stream: IO[bytes], shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    """What ``write_voxels`` sent.

    Raises:
        EOFError: the other side has ended.
    """
    voxels = np.empty(shape, dtype=dtype)
    rest = voxels.reshape(-1).view(np.uint8).data
    while rest:
        count = stream.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
    return voxels


def sendable(error: Exception) -> Exception:
    """The error, or where it cannot be pickled one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign class does when it is pickled
        return ModelError(f"{type(error).__name__}: {error}")
    return error
