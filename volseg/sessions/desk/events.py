"""What a desk tells its listener."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from volseg.sessions.desk.autosave import FoundAutosave
    from volseg.sessions.session import Session


@dataclass(frozen=True)
class ObjectSummary:
    """One object's mask in numbers, before overlaps.

    Attributes:
        voxels: how many it has.
        volume_ml: their volume.
        presence: see ``ObjectMask``.
        seconds: wall time of the computation.
        exact: whether approximate updates were forgone.
    """

    voxels: int
    volume_ml: float
    presence: float | None
    seconds: float
    exact: bool


@dataclass(frozen=True)
class Opened:
    """The image is read, the model is loaded, and the session takes prompts.

    Attributes:
        session: change it from any thread; the desk follows.
        found: what a crashed or unsaved session of the same image left.
    """

    session: Session = field(repr=False)
    found: FoundAutosave | None = None


@dataclass(frozen=True)
class StateChanged:
    """Objects, prompts or choices changed; ``session.state`` has them."""


@dataclass(frozen=True)
class Working:
    """Something is being computed.

    Attributes:
        fraction: the part done, in [0, 1].
        text: what is done, a few words.
    """

    fraction: float
    text: str


@dataclass(frozen=True)
class Painted:
    """The canvas shows something new.

    Attributes:
        preview: whether the mask of ``object_id`` is still growing.
        object_id: the object that is being computed, None when several may have changed.
        array_replaced: whether the canvas has another array than before, as ids no longer fitted.
    """

    preview: bool
    object_id: int | None
    array_replaced: bool = False


@dataclass(frozen=True)
class Idle:
    """Nothing is left to compute, or ``cancelled`` by the person: then the rest waits for the next change."""

    cancelled: bool = False


@dataclass(frozen=True)
class Failed:
    """Something could not be done; everything said is still there.

    Attributes:
        error: what and why, for people.
        object_id: the object whose prediction failed, if one did.
        fatal: the session could not be opened, so nothing can be done at this desk.
    """

    error: Exception
    object_id: int | None = None
    fatal: bool = False


@dataclass(frozen=True)
class Disconnected:
    """The engine cannot be reached. The desk tries again until it can."""

    error: Exception


@dataclass(frozen=True)
class Connected:
    """The engine can be reached again."""


@dataclass(frozen=True)
class Saved:
    """The session was written to ``path``."""

    path: Path


@dataclass(frozen=True)
class Exported:
    """The label map was written to ``path``."""

    path: Path


@dataclass(frozen=True)
class Autosaved:
    """The session was written where a crash leaves it, to ``path``."""

    path: Path


DeskEvent: TypeAlias = (
    Opened | StateChanged | Working | Painted | Idle | Failed | Disconnected | Connected | Saved | Exported | Autosaved
)
