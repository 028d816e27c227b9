"""`volseg batch` against a shell loop over `volseg segment`: the same cases, prompts, model and threads.

    python benchmarks/batch.py --cases 100

The volumes are hippocampi (MSD Task04) in ../shared/data, the prompts boxes around the reference labels. Both runs give
label maps, which are compared voxel by voxel. Besides the wall time, the processes' own CPU time is given: on a machine
that others use too it says more.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from volseg.data import read_labelmap
from volseg.geometry import Frame
from volseg.prompts import Box, PromptedObject, PromptSet

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY.parent / "shared" / "data" / "hippocampus"
PR_SET_CHILD_SUBREAPER = 36
VOLSEG = Path(sys.executable).parent / "volseg"


def box_prompts(label_path: Path) -> PromptSet:
    labelmap = read_labelmap(label_path)
    objects = []
    for label in labelmap.labels:
        voxels = np.argwhere(labelmap.mask(label.value))
        if len(voxels):
            low, high = voxels.min(axis=0), voxels.max(axis=0)
            objects.append(PromptedObject(label.value, (Box(tuple(low), tuple(high), Frame.IJK),), label.name))
    return PromptSet(labelmap.grid, tuple(objects))


def timed(command: list[str], threads: int) -> tuple[float, float]:
    """Wall and CPU seconds."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **dict.fromkeys(names, str(threads))}, stdout=sys.stderr)
    wall = time.perf_counter() - start
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)  # the server that workers are forked from ends after its parent
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def adopt_orphans() -> None:
    """Processes whose parents have ended become this one's children, so that their CPU time is counted (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument(
        "--loop-cases", type=int, help="the loop does about as many, evenly spaced, and its time is scaled"
    )
    parser.add_argument("--model", default="random-walker")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit("needs the public volumes in ../shared/data")
    adopt_orphans()
    images = sorted((DATA / "images").glob("*.nii.gz"))[: arguments.cases]
    looped = images[:: -(-len(images) // (arguments.loop_cases or len(images)))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop_out, batch_out, prompts = folder / "loop", folder / "batch", folder / "prompts"
        for made in (loop_out, prompts):
            made.mkdir()
        rows, lines = [], ["set -e"]
        for image in images:
            stem = image.name.removesuffix(".nii.gz")
            file = prompts / f"{stem}.json"
            file.write_text(box_prompts(DATA / "labels" / image.name).dumps())
            rows.append({"image": str(image), "prompts": str(file)})
            if image not in looped:
                continue
            lines.append(
                shlex.join(
                    [
                        str(VOLSEG),
                        "segment",
                        str(image),
                        "-o",
                        str(loop_out / f"{stem}_seg.nii.gz"),
                        "--prompts",
                        str(file),
                        "--model",
                        arguments.model,
                        "--device",
                        arguments.device,
                    ]
                )
            )
        (folder / "list.json").write_text(json.dumps(rows))
        (folder / "loop.sh").write_text("\n".join(lines))
        report = folder / "run.json"
        batch = [str(VOLSEG), "batch", str(folder / "list.json"), "-o", str(batch_out), "--model", arguments.model]
        batch += ["--devices", arguments.device, "--workers", str(arguments.workers)]
        batch += ["--threads", str(arguments.threads), "--formats", "nifti", "--report", str(report)]
        batch_wall, batch_cpu = timed(batch, arguments.threads)
        loop_wall, loop_cpu = timed(["bash", str(folder / "loop.sh")], arguments.threads)
        same = 0
        for image in looped:
            written = image.name.removesuffix(".nii.gz") + "_seg.nii.gz"
            same += bool(
                np.array_equal(read_labelmap(loop_out / written).array, read_labelmap(batch_out / written).array)
            )
        scale = len(images) / len(looped)
        busy = json.loads(report.read_text())["compute_busy_part"]
        result = {
            "cases": len(images),
            "model": arguments.model,
            "device": arguments.device,
            "workers": arguments.workers,
            "threads": arguments.threads,
            "looped": len(looped),
            "identical": same,
            "loop": {"wall_s": round(loop_wall, 1), "cpu_s": round(loop_cpu, 1)},
            "batch": {"wall_s": round(batch_wall, 1), "cpu_s": round(batch_cpu, 1), "compute_busy_part": busy},
            "ratio": {
                "wall": round(scale * loop_wall / batch_wall, 2),
                "cpu": round(scale * loop_cpu / batch_cpu, 2),
            },
        }
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
