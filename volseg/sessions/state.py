"""What a session holds at one moment; never changed, only followed by another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from volseg.data.labelmap import OverlapPolicy, default_color_rgb
from volseg.errors import SessionError
from volseg.geometry import Grid
from volseg.models.options import EncodeOptions
from volseg.prompts import Prompt, PromptedObject, PromptSet


@dataclass(frozen=True)
class SessionObject:
    """One object of a session.

    Attributes:
        object_id: from 1; the label value in the result.
        name: what the person calls it; may be empty.
        color_rgb: red, green, blue in 0..255.
        locked: whether changes are refused.

    Raises:
        SessionError: an attribute has a value it cannot have.
    """

    object_id: int
    name: str
    color_rgb: tuple[int, int, int]
    locked: bool = False

    def __post_init__(self) -> None:
        if not is_whole(self.object_id) or self.object_id < 1:
            raise SessionError(f"an object's id is a whole number from 1, got {self.object_id!r}")
        if not isinstance(self.name, str):
            raise SessionError(f"an object's name is a text, got {self.name!r}")
        color = tuple(self.color_rgb) if isinstance(self.color_rgb, tuple | list) else ()
        if len(color) != 3 or not all(is_whole(part) and 0 <= part <= 255 for part in color):
            raise SessionError(f"a colour is red, green, blue in 0..255, got {self.color_rgb!r}")
        if not isinstance(self.locked, bool):
            raise SessionError(f"an object is locked or not, got {self.locked!r}")
        object.__setattr__(self, "color_rgb", color)

    @property
    def title(self) -> str:
        """The object's name, or ``object N``."""
        return self.name or f"object {self.object_id}"


@dataclass(frozen=True)
class HistoryEntry:
    """One prompt in the order of a session.

    Attributes:
        entry_id: stays the same when the prompt is edited.
        object_id: the object the prompt speaks of.
        prompt: in the frame it was given in; voxel indices refer to the session's grid.
        revision: differs for every version of every prompt of a session; results are remembered by it.
    """

    entry_id: int
    object_id: int
    prompt: Prompt
    revision: int = field(repr=False)


@dataclass(frozen=True)
class SessionState:
    """Objects, prompts and choices at one moment.

    Attributes:
        objects: in the order they were added, which is their order for the overlap policy.
        history: prompts of all objects in the order they were given.
        overlap: what becomes of voxels that several objects claim.
        options: how the model looks at the image.
    """

    objects: tuple[SessionObject, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    overlap: OverlapPolicy = OverlapPolicy.LAST_WINS
    options: EncodeOptions = field(default_factory=EncodeOptions)

    def object(self, object_id: int) -> SessionObject:
        """The object of this id.

        Raises:
            SessionError: there is none.
        """
        for item in self.objects:
            if item.object_id == object_id:
                return item
        present = ", ".join(f"{item.object_id} ({item.title})" for item in self.objects) or "none"
        raise SessionError(f"there is no object {object_id}; the session's objects are: {present}")

    def entry(self, entry_id: int) -> HistoryEntry:
        """The prompt of this entry id.

        Raises:
            SessionError: there is none.
        """
        for entry in self.history:
            if entry.entry_id == entry_id:
                return entry
        raise SessionError(f"there is no prompt {entry_id} in the history; it may have been deleted or undone")

    def entries_of(self, object_id: int) -> tuple[HistoryEntry, ...]:
        """The prompts of one object, in order."""
        return tuple(entry for entry in self.history if entry.object_id == object_id)

    def prompted(self, object_id: int) -> PromptedObject:
        """One object as models take it."""
        item = self.object(object_id)
        return PromptedObject(object_id, tuple(entry.prompt for entry in self.entries_of(object_id)), item.name)

    def prompt_set(self, grid: Grid) -> PromptSet:
        """All objects that have prompts, as models and prompt files take them."""
        prompted = (self.prompted(item.object_id) for item in self.objects)
        return PromptSet(grid, tuple(item for item in prompted if item.prompts))

    # ---- what may follow

    def with_object(
        self, name: str = "", color_rgb: tuple[int, int, int] | None = None, object_id: int | None = None
    ) -> SessionState:
        """One object more, at the end; by default with the id after the largest."""
        taken = {item.object_id for item in self.objects}
        if object_id is None:
            object_id = max(taken, default=0) + 1
        if object_id in taken:
            raise SessionError(f"there is already an object {object_id}; choose another id")
        color = default_color_rgb(object_id) if color_rgb is None and is_whole(object_id) else color_rgb
        return replace(self, objects=(*self.objects, SessionObject(object_id, name, color or (0, 0, 0))))

    def with_object_changed(
        self,
        object_id: int,
        *,
        name: str | None = None,
        color_rgb: tuple[int, int, int] | None = None,
        locked: bool | None = None,
    ) -> SessionState:
        """One object changed; None leaves an attribute as it is."""
        old = self.object(object_id)
        if locked is None:
            self.require_unlocked(object_id)
        new = SessionObject(
            object_id,
            old.name if name is None else name,
            old.color_rgb if color_rgb is None else color_rgb,
            old.locked if locked is None else locked,
        )
        return replace(self, objects=tuple(new if item is old else item for item in self.objects))

    def without_object(self, object_id: int) -> SessionState:
        """One object and its prompts less."""
        self.require_unlocked(object_id)
        return replace(
            self,
            objects=tuple(item for item in self.objects if item.object_id != object_id),
            history=tuple(entry for entry in self.history if entry.object_id != object_id),
        )

    def with_entry(self, entry: HistoryEntry) -> SessionState:
        """One prompt more, at the end."""
        self.require_unlocked(entry.object_id)
        return replace(self, history=(*self.history, entry))

    def with_entry_changed(self, entry_id: int, prompt: Prompt, revision: int) -> SessionState:
        """One prompt replaced, at its place."""
        old = self.entry(entry_id)
        self.require_unlocked(old.object_id)
        new = replace(old, prompt=prompt, revision=revision)
        return replace(self, history=tuple(new if entry is old else entry for entry in self.history))

    def without_entry(self, entry_id: int) -> SessionState:
        """One prompt less."""
        old = self.entry(entry_id)
        self.require_unlocked(old.object_id)
        return replace(self, history=tuple(entry for entry in self.history if entry is not old))

    def require_unlocked(self, object_id: int) -> None:
        """Raises ``SessionError`` when the object is locked or not there."""
        item = self.object(object_id)
        if item.locked:
            raise SessionError(f"{item.title} is locked; unlock it to change it")


def is_whole(value: object) -> bool:
    """Whether ``value`` is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)
