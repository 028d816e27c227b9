"""Which memories a frame reads, against Meta's rules; and where passes go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.inferers.tracking.memory import memory_recipe, nearest_conditioning_frames
from volseg.inferers.tracking.plan import fresh_pass, pass_range
from volseg.inferers.tracking.state import Direction

frame_numbers = st.integers(0, 30)


@given(frame_numbers, st.sets(frame_numbers, min_size=1), st.integers(2, 6))
def test_conditioning_frames_are_those_meta_selects(frame: int, prompted: set[int], limit: int) -> None:
    utils = pytest.importorskip("sam2.modeling.sam2_utils")
    in_order = sorted(prompted - {frame}) or [frame + 1]
    selected, _ = utils.select_closest_cond_frames(frame, dict.fromkeys(in_order), limit)
    assert set(nearest_conditioning_frames(frame, in_order, limit)) == set(selected)
    assert nearest_conditioning_frames(frame, in_order, None) == tuple(in_order)


@given(
    frame_numbers,
    st.sampled_from(list(Direction)),
    st.sets(frame_numbers, min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(2, 4)),
    st.integers(2, 16),
)
def test_recipe_reads_past_frames_within_reach(
    frame: int, direction: Direction, prompted: set[int], limit: int | None, span: int
) -> None:
    prompted -= {frame}
    if not prompted:
        return
    tracked = {other for other in range(31) if (frame - other) * direction > 0 and other not in prompted}
    recipe = memory_recipe(
        frame,
        direction,
        sorted(prompted),
        tracked,
        max_conditioning_frames=limit,
        memory_frames=7,
        pointer_span=span,
    )
    conditioning = [other for offset, other in recipe.spatial if offset == 0]
    assert len(conditioning) == (len(prompted) if limit is None else min(limit, len(prompted)))
    for offset, other in recipe.spatial:
        assert offset == 0 or ((frame - other) * direction == offset and 1 <= offset <= 6)
    near = {o for o in range(31) if 1 <= (frame - o) * direction <= 6 and o not in conditioning}
    assert {other for offset, other in recipe.spatial if offset} == near
    for distance, other in recipe.pointers:
        assert (frame - other) * direction == distance
    past = {o for o in range(31) if (frame - o) * direction > 0}
    reach = {o for o in past if (frame - o) * direction < span}
    assert {other for _, other in recipe.pointers} == reach | (past & set(conditioning))
    assert len({other for _, other in recipe.pointers}) == len(recipe.pointers)


def test_passes_cover_what_lies_beyond_the_first_prompt() -> None:
    assert pass_range(Direction.FORWARD, [3, 7], 0, 9) == (4, 9)
    assert pass_range(Direction.BACKWARD, [3, 7], 0, 9) == (6, 0)
    assert pass_range(Direction.FORWARD, [9], 0, 9) is None
    assert pass_range(Direction.BACKWARD, [5], 5, 9) is None
    assert pass_range(Direction.FORWARD, [2], 5, 9) == (5, 9)


def test_a_fresh_pass_can_start_again_at_every_prompt() -> None:
    plan = fresh_pass(Direction.BACKWARD, [3, 7, 5], 0, 9)
    assert plan is not None
    assert plan.seeds == (6, 5, 3)
    assert plan.end == 0
