"""Where a pass goes: its range, what it keeps of an earlier run, and from where it computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from volseg.inferers.tracking.state import Direction, FrameResult, Track


@dataclass(frozen=True)
class PassPlan:
    """One pass of one object.

    Attributes:
        direction: the way it goes.
        end: the last frame it may track.
        seeds: frames from which it computes, in its order; it goes from one to the next where it stops early.
        kept: results of an earlier run that stand until they are computed anew.
        stops_unchanged: whether it stops where masks are as they were.
    """

    direction: Direction
    end: int
    seeds: tuple[int, ...]
    kept: Mapping[int, FrameResult]
    stops_unchanged: bool


def pass_range(direction: Direction, prompted: Collection[int], first: int, last: int) -> tuple[int, int] | None:
    """First and last frame of a pass, in its order, or None if it has none.

    The forward pass runs from the first prompted frame to ``last``, the backward pass from the last prompted frame to
    ``first``: between prompted frames both come by.
    """
    if direction is Direction.FORWARD:
        start, end = max(min(prompted) + 1, first), last
    else:
        start, end = min(max(prompted) - 1, last), first
    return (start, end) if start * direction <= end * direction else None


def fresh_pass(direction: Direction, prompted: Sequence[int], first: int, last: int) -> PassPlan | None:
    """A pass that computes everything; where the object was lost it starts again at the next prompted frame."""
    whole = pass_range(direction, prompted, first, last)
    if whole is None:
        return None
    start, end = whole
    seeds = [start, *(f for f in prompted if start * direction < f * direction < end * direction)]
    return PassPlan(direction, end, tuple(sorted(seeds, key=lambda f: f * direction)), {}, stops_unchanged=False)


def outward_pass(
    direction: Direction, prompted: Sequence[int], first: int, last: int, old: Track, changed: Collection[int]
) -> PassPlan | None:
    """A pass that starts at the frames whose prompts changed and stops where its masks do not.

    A new prompt makes a pass longer: frames on which only the other pass came by before now lie between two prompts.
    There the other pass's results stand in until they are computed, so that the pass stops as soon as it agrees with
    what was shown.

    Args:
        direction: the way it goes.
        prompted: prompted frames now.
        first: first frame to track to.
        last: last one.
        old: the earlier run.
        changed: frames on which prompts came, went or changed.
    """
    whole = pass_range(direction, prompted, first, last)
    if whole is None:
        return None
    start, end = whole
    results, others = (old.forward, old.backward) if direction is Direction.FORWARD else (old.backward, old.forward)
    was = pass_range(direction, old.prompted, old.first, old.last)
    new = {f: r for f, r in others.items() if was is None or f * direction < was[0] * direction}
    inside = range(start, end + direction, direction)
    kept = {f: result for f, result in {**new, **results}.items() if f in inside and f not in prompted}
    seeds = {max(frame * direction, start * direction) * direction for frame in changed}
    if was is None or start * direction < was[0] * direction:
        seeds.add(start)
    elif was[1] * direction < end * direction and (was[1] in results or was[1] in old.prompted):
        seeds.add(was[1] + direction)
    in_order = sorted((seed for seed in seeds if seed in inside), key=lambda frame: frame * direction)
    return PassPlan(direction, end, tuple(in_order), kept, stops_unchanged=True)
