"""The long runs (``make accept``): 200 cases with 10 bad ones, killed 20 times, and on a cluster that loses nodes.

``VOLSEG_ACCEPT_PART=0.1`` runs a tenth of the cases and kills, for machines with little time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from batch_cases import label_arrays, make_bad, make_good, sidecars
from ray_cluster import ray_nodes

pytestmark = pytest.mark.accept

PART = float(os.environ.get("VOLSEG_ACCEPT_PART", "1"))
GOOD = max(4, round(190 * PART))
KILLS = max(2, round(20 * PART))
VOLSEG = Path(sys.executable).parent / "volseg"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A folder of cases in four formats, and how many of them are bad."""
    folder = tmp_path_factory.mktemp("cases")
    make_good(folder, GOOD)
    return folder, len(make_bad(folder))


def run(folder: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command(folder, output), *more], capture_output=True, text=True, check=False)


def command(folder: Path, output: Path) -> list[str]:
    return [str(VOLSEG), "batch", str(folder), "-o", str(output), "--threads", "1", "--timeout", "900",
            "--report", str(output.with_suffix(".json"))]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(cases, tmp_path_factory):
    """The results of one run from beginning to end."""
    folder, bad = cases
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(folder, output)
    assert done.returncode == 10, done.stderr
    return output, bad


def test_mixed_formats_with_bad_ones(cases, undisturbed):
    output, bad = undisturbed
    report = json.loads(output.with_suffix(".json").read_text())
    assert (report["done"], report["failed"], report["unfinished"]) == (GOOD, bad, [])
    failed = [item for item in report["results"] if item["status"] == "failed"]
    assert all(item["error"]["message"] and item["error"]["kind"] in ("image", "prompt") for item in failed)
    assert len({item["id"] for item in failed}) == bad
    assert len(label_arrays(output)) == GOOD
    assert len(sidecars(output)) == GOOD + bad
    again = run(cases[0], output)
    assert again.returncode == 10
    assert json.loads(output.with_suffix(".json").read_text())["computed_in_this_run"] == 0


def test_killed_again_and_again(cases, undisturbed, tmp_path):
    """SIGKILL at random moments, from the first import to the last case; each time the run is begun anew."""
    folder, bad = cases
    expected_output, _ = undisturbed
    output = tmp_path / "out"
    chance = random.Random(7)
    times: dict[Path, int] = {}
    kills = 0
    while kills < KILLS:
        begun = time.monotonic()
        before = len(list(output.glob("cases/[!.]*.json")))
        process = subprocess.Popen(command(folder, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Half of the moments lie before the first case ends, the others between cases.
        wanted = before + chance.choice((0, 0, 1, 2, 5, 9))
        moment = chance.uniform(0.2, 3.0)
        while process.poll() is None:
            there = len(list(output.glob("cases/[!.]*.json")))
            if (wanted == before and time.monotonic() - begun > moment) or (wanted > before and there >= wanted):
                time.sleep(chance.uniform(0, 0.1))
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        for path in output.glob("cases/[!.]*.json"):
            side = json.loads(path.read_text())  # a sidecar is whole at every moment
            for item in side["outputs"]:
                assert (output / item["name"]).is_file()
            if side["status"] == "done":
                assert times.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns, "done again"
    last = run(folder, output)
    assert last.returncode == 10, last.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    compare(output, expected_output, bad)


@pytest.mark.parametrize("executor", ["ray"])
def test_a_cluster_that_loses_a_worker_and_a_node(cases, undisturbed, tmp_path, executor):
    import threading

    folder, bad = cases
    output = tmp_path / "out"
    with ray_nodes(3) as (cluster, nodes):
        lost = []

        def disturb():
            while len(list(output.glob("cases/[!.]*.json"))) < GOOD // 4:
                time.sleep(0.05)
            os.kill(actor_pids()[0], signal.SIGKILL)
            lost.append("worker")
            while len(list(output.glob("cases/[!.]*.json"))) < GOOD // 2:
                time.sleep(0.05)
            cluster.remove_node(nodes[-1], allow_graceful=False)
            lost.append("node")

        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        done = run(folder, output, "--executor", executor, "--address", cluster.address, "--workers", "3")
        thread.join(timeout=5)
    assert lost == ["worker", "node"]
    assert done.returncode == 10, done.stderr
    report = json.loads(output.with_suffix(".json").read_text())
    assert (report["done"], report["failed"], report["unfinished"]) == (GOOD, bad, [])
    assert report["lost_with_a_worker"] >= 1
    compare(output, undisturbed[0], bad)
    shutil.rmtree(output)


def actor_pids() -> list[int]:
    """Actors on the nodes that this process started, and no others' on this machine."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may end meanwhile
            if "ray::RayModel" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def compare(output: Path, expected: Path, bad: int) -> None:
    """The same cases with the same voxels and the same errors."""
    arrays, wanted = label_arrays(output), label_arrays(expected)
    assert sorted(arrays) == sorted(wanted)
    assert all(np.array_equal(arrays[name], wanted[name]) for name in wanted)
    sides, expected_sides = sidecars(output), sidecars(expected)
    assert {name: side["status"] for name, side in sides.items()} == {
        name: side["status"] for name, side in expected_sides.items()
    }
    assert sum(side["status"] == "failed" for side in sides.values()) == bad
    assert not list(output.rglob(".volseg-partial-*"))
