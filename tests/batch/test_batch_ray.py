"""The same run on a Ray cluster: small, but real nodes and actors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from batch_cases import SIZES, label_arrays, make_bad, make_case, make_good, points, sidecars
from batch_models import CHATTER
from ray_cluster import ray_nodes

from volseg.batch import ModelChoice, Status
from volseg.batch.ray_executor import RayExecutor, _room
from volseg.batch.run import run_batch
from volseg.errors import ModelError


def test_a_cluster_loses_a_worker_and_a_node_and_no_case(tmp_path, plan_of):
    (tmp_path / "in").mkdir()
    make_good(tmp_path / "in", 12)
    for number in range(4):
        make_case(tmp_path / "in", f"slow{number}", ".nii.gz", 100 + number, points("slow"))
    make_case(tmp_path / "in", "chatty", ".nii.gz", 150, points("chatty"))
    make_case(tmp_path / "in", "killed", ".nii.gz", 200, points("killed"))
    expected = make_bad(tmp_path / "in", ["truncated-nifti"])
    with ray_nodes(2) as (cluster, nodes):
        taken_down = []

        def take_down_a_node(progress):
            if not taken_down and progress.done >= 4:
                taken_down.append(cluster.remove_node(nodes[-1], allow_graceful=False))

        executor = RayExecutor(workers=2)
        choice = ModelChoice("given", loader="batch_models:trouble")
        summary = run_batch(plan_of(workers=2), executor, choice, progress=take_down_a_node)
        logs = [path for path in Path(cluster.head_node.get_logs_dir_path()).rglob("*") if path.is_file()]
        assert logs
        assert not [path.name for path in logs if CHATTER.encode() in path.read_bytes()]
    assert taken_down
    assert summary.unfinished == ()
    errors = {record.case_id: str(record.error.kind) for record in summary.failed}
    assert errors == {"truncated-nifti": expected["truncated-nifti"], "killed": "worker-died"}
    assert len(summary.done) == 17
    assert not list((tmp_path / "out").rglob(".volseg-partial-*"))
    assert all(side["status"] in tuple(Status) for side in sidecars(tmp_path / "out").values())
    for array in label_arrays(tmp_path / "out").values():
        assert {value: int((array == value).sum()) for value in (1, 2)} == SIZES


def test_room_is_counted_in_cores_and_gpus():
    assert _room({"CPU": 8.0, "GPU": 2.0}, threads=2, gpus=0.0) == 4
    assert _room({"CPU": 8.0, "GPU": 2.0}, threads=1, gpus=0.5) == 4
    with pytest.raises(ModelError, match="has 1 cores"):
        _room({"CPU": 1.0}, threads=2, gpus=0.0)


def test_nothing_imports_ray_unless_it_is_asked_for():
    code = "import sys, volseg.batch, volseg.cli, volseg.batch.ray_executor; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
