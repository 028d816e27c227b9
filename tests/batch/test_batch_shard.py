"""Parts of a job: each case in exactly one, whatever the cluster calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.batch import Case, FileSource, Shard
from volseg.batch.plan import in_shard
from volseg.batch.shard import ShardError


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "1/1"),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}, "4/4"),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, "1/4"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "6",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "2",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            "3/4",
        ),
        ({"RANK": "1", "WORLD_SIZE": "3"}, "2/3"),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "RANK": "2", "WORLD_SIZE": "3"}, "6/6"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "1/1"),
    ],
)
def test_the_part_that_a_cluster_names(variables, expected):
    assert str(Shard.from_environment(variables)) == expected


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "a/b", "1/0", "-1/4"])
def test_parts_that_do_not_exist(text):
    with pytest.raises(ShardError, match="a shard is I/N"):
        Shard.parse(text)
    with pytest.raises(ShardError):
        Shard.from_environment({"RANK": "x", "WORLD_SIZE": "2"})


@given(st.lists(st.text("abc123", min_size=1), unique=True), st.integers(1, 9))
def test_each_case_is_in_one_part_and_others_do_not_move_it(names, count):
    cases = [Case(name, FileSource(Path(name))) for name in names]
    parts = [{case.case_id for case in cases if in_shard(case, index, count)} for index in range(count)]
    assert sum(map(len, parts)) == len(cases)
    assert set().union(*parts) == set(names)
    for case in cases[:3]:
        assert [in_shard(case, index, count) for index in range(count)].count(True) == 1
