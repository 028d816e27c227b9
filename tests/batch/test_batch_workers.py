"""Worker processes that die, hang, and are told to stop; runs that are killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from batch_cases import SIZES, label_arrays, make_bad, make_case, make_good, points, sidecars

from volseg.batch import CaseOptions, LocalExecutor, ModelChoice, OutputFormat
from volseg.batch.run import run_batch
from volseg.errors import ModelError

TROUBLE = ModelChoice("given", loader="batch_models:trouble")
VOLSEG = Path(sys.executable).parent / "volseg"


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def test_trouble_stays_with_the_case_that_makes_it(inputs, tmp_path, plan_of):
    """One worker, so that good cases are in it when it dies."""
    make_good(inputs, 6)
    for number, trouble in enumerate(("segfault", "hang", "memory")):
        make_case(inputs, trouble, ".nii.gz", 100 + number, points(trouble))
    make_bad(inputs, ["truncated-nrrd"])
    seen = []
    summary = run_batch(
        plan_of(formats=(OutputFormat.NIFTI, OutputFormat.CSV)),
        LocalExecutor(1),
        TROUBLE,
        timeout_s=4,
        progress=seen.append,
    )
    kinds = {record.case_id: str(record.error.kind) for record in summary.failed}
    assert kinds == {"segfault": "worker-died", "hang": "timeout", "memory": "out-of-memory", "truncated-nrrd": "image"}
    assert "SIGSEGV" in sidecars(tmp_path / "out")["segfault"]["error"]["message"]
    assert len(summary.done) == 6
    assert len(label_arrays(tmp_path / "out")) == 6
    assert (seen[-1].done, seen[-1].failed, seen[-1].total, seen[-1].eta_s) == (6, 4, 10, 0)
    with (tmp_path / "out" / "measurements.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["volume_ml"]) for row in rows if row["name"] == "first"] == pytest.approx([48 * 6 / 1000] * 6)
    assert len(rows) == 12


def test_a_model_that_cannot_be_loaded_ends_the_run(inputs, plan_of):
    make_good(inputs, 1)
    with pytest.raises(ModelError, match="its weights are damaged"):
        run_batch(plan_of(), LocalExecutor(1), ModelChoice("given", loader="batch_models:broken"))


def test_an_interrupt_ends_cleanly_and_the_rest_is_done_later(inputs, tmp_path, plan_of):
    make_good(inputs, 2, (".nii.gz",))
    for number in range(4):
        make_case(inputs, f"slow{number}", ".nii.gz", 100 + number, points("slow"))
    done = threading.Event()

    def interrupt(progress):
        if progress.done >= 3 and not done.is_set():
            done.set()
            os.kill(os.getpid(), signal.SIGINT)

    # Jobs that a shell put into the background inherit that they ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        summary = run_batch(plan_of(), LocalExecutor(1), TROUBLE, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert summary.interrupted
    assert len(summary.done) >= 3
    assert summary.unfinished
    assert not list((tmp_path / "out").rglob(".volseg-partial-*"))
    finished = {record.case_id for record in summary.done}
    assert set(sidecars(tmp_path / "out")) == set(label_arrays(tmp_path / "out")) == finished


def command(tmp_path: Path, *more: str, output: str = "out") -> list[str]:
    return [str(VOLSEG), "batch", str(tmp_path / "in"), "-o", str(tmp_path / output), "--threads", "1",
            "--ids", "names", "--report", str(tmp_path / "run.json"), *more]  # fmt: skip


def test_a_run_that_is_killed_goes_on_where_it_was(inputs, tmp_path):
    """The whole command, with the model everybody has; killed once when some cases are done."""
    make_good(inputs, 10)
    expected_errors = make_bad(inputs, ["garbage-nifti", "outside"])
    first = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "out").glob("cases/[!.]*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("cases/[!.]*.json")}
    kept = {path: when for path, when in kept.items() if json.loads(path.read_text())["status"] == "done"}
    second = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=500, check=False)
    assert second.returncode == 10, second.stderr
    report = json.loads((tmp_path / "run.json").read_text())
    assert (report["done"], report["failed"], report["unfinished"]) == (10, len(expected_errors), [])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sorted(side["status"] for side in sidecars(tmp_path / "out").values()) == ["done"] * 10 + ["failed"] * 2
    assert not list((tmp_path / "out").rglob(".volseg-partial-*"))
    # Voxel for voxel what a run gives that nobody killed.
    whole = subprocess.run(command(tmp_path, output="whole"), capture_output=True, text=True, timeout=500, check=False)
    assert whole.returncode == 10, whole.stderr
    arrays, expected = label_arrays(tmp_path / "out"), label_arrays(tmp_path / "whole")
    assert len(arrays) == 10
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(array, expected[name]) for name, array in arrays.items())
    assert set(np.unique(arrays["case000"])) == {0, *SIZES}


def test_options_that_decide_nothing_are_not_in_the_hash():
    assert CaseOptions().sha256 == CaseOptions().sha256
    assert CaseOptions(exact=True).sha256 != CaseOptions().sha256
