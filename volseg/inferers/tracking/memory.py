"""Which memories a frame reads: the rules of SAM 2's memory bank."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from volseg.inferers.tracking.state import Direction


@dataclass(frozen=True)
class MemoryRecipe:
    """The frames whose memories and pointers a frame reads, with their distance in time.

    Attributes:
        spatial: (offset, frame): offset 0 is a conditioning frame, else the number of frames back.
        pointers: (frames back, frame).
    """

    spatial: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]

    @property
    def signature(self) -> tuple[int, int]:
        """The numbers of memories and pointers; memory attention has no mask, so a batch must agree in them."""
        return len(self.spatial), len(self.pointers)


def nearest_conditioning_frames(frame: int, prompted: Sequence[int], limit: int | None) -> tuple[int, ...]:
    """The prompted frames that a frame reads as conditioning frames.

    The nearest before, the nearest at or after, then the nearest of the rest (Meta's ``select_closest_cond_frames``).
    """
    if limit is None or len(prompted) <= limit:
        return tuple(prompted)
    before = [max((other for other in prompted if other < frame), default=None)]
    after = [min((other for other in prompted if other >= frame), default=None)]
    chosen = [other for other in before + after if other is not None]
    rest = sorted((other for other in prompted if other not in chosen), key=lambda other: abs(other - frame))
    return tuple(chosen + rest[: limit - len(chosen)])


def memory_recipe(
    frame: int,
    direction: Direction,
    prompted: Sequence[int],
    tracked: Collection[int],
    *,
    max_conditioning_frames: int | None,
    memory_frames: int,
    pointer_span: int,
) -> MemoryRecipe:
    """What a frame reads.

    Args:
        frame: the current frame.
        direction: the way the pass goes.
        prompted: all prompted frames, before and after.
        tracked: frames that this pass has already tracked.
        max_conditioning_frames: see `TrackSettings`.
        memory_frames: see `Sam2Spec`.
        pointer_span: the most pointers a frame may read.
    """
    selected = nearest_conditioning_frames(frame, prompted, max_conditioning_frames)
    others = set(prompted) - set(selected)
    spatial = [(0, other) for other in selected]
    for offset in range(memory_frames - 1, 0, -1):
        earlier = frame - direction * offset
        if earlier in tracked or earlier in others:
            spatial.append((offset, earlier))
    pointers = [(distance, other) for other in selected if (distance := (frame - other) * direction) >= 0]
    for distance in range(1, pointer_span):
        earlier = frame - direction * distance
        if earlier in tracked or earlier in others:
            pointers.append((distance, earlier))
    return MemoryRecipe(tuple(spatial), tuple(pointers))
