"""Two processes train a text-query network as one process with both their windows would; also from the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from volseg.models.bundles.folders import carried_folder
from volseg.training.parallel import Ranks
from volseg.training.text_query.config import read_text_config
from volseg.training.text_query.run import WEIGHTS, train_text

BUNDLE = carried_folder() / "text_prompted_segmentation"

# One step without clipping, so that gradients are those of the losses.
SETTINGS = """
spec: {widths: [8, 8, 16], width: 16, heads: 2, layers: 1, mask_levels: 2, query_width: 8}
precision: float32
groups:
  - source:
      group: body
      modality: MR
      image: "{case}_image.nii.gz"
      label: "{case}_label.nii.gz"
      objects: {liver: [1], spleen: [2]}
    views: [{spacing_mm: 1.0, window: [16, 16, 16], concepts: [liver, spleen]}]
validation: []
schedule: {steps: 2, steps_per_epoch: 1, queries: 2, clip_norm: 1.0e+9}
"""

PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path
import torch
from volseg.training.parallel import Ranks, join_ranks
from volseg.training.text_query.config import read_text_config
from volseg.training.text_query.run import train_text

folder = Path(sys.argv[1])
steps = []

@dataclass(frozen=True)
class Kept(Ranks):
    def mean_gradients(self, parameters):
        given = list(parameters)
        super().mean_gradients(given)
        torch.save([one.grad for one in given], folder / f"gradients-{len(steps)}-{self.rank}.pt")
        torch.save([one.detach() for one in given], folder / f"weights-{len(steps)}-{self.rank}.pt")
        steps.append(self.rank)

ranks = join_ranks("cpu")
config = read_text_config(folder / "settings.yaml")
train_text(config, folder, folder / "out", ranks=Kept(ranks.rank, ranks.count, ranks.device))
"""


@dataclass(frozen=True)
class Alone(Ranks):
    """Sees what one of two processes sees, and keeps its gradients of the first step."""

    kept: list[list[torch.Tensor | None]] = field(default_factory=list)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        self.kept.append([None if one.grad is None else one.grad.clone() for one in parameters])

    def share(self, tensors: Iterable[torch.Tensor]) -> None: ...

    def agree(self, number: float, device: torch.device) -> float:
        return number

    def wait(self) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        values = rng.normal(100, 5, (20, 20, 20)).astype(np.float32)
        labels = np.zeros(values.shape, np.uint8)
        labels[3:10, 5:12, 5:12], labels[12:17, 5:12, 5:12] = 1, 2
        for part, array in (("image", values + 80 * labels), ("label", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}_{part}.nii.gz")
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    return tmp_path


def torchrun(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_take_the_mean_gradient_and_stay_identical(folder: Path, tmp_path: Path) -> None:
    (folder / "program.py").write_text(PROGRAM)
    torchrun(folder, "program.py", str(folder))
    config = read_text_config(folder / "settings.yaml")
    alone = []
    for rank in (0, 1):
        ranks = Alone(rank, 2)
        train_text(config, folder, tmp_path / f"alone-{rank}", ranks=ranks)
        alone.append(ranks.kept[0])
    shared = [torch.load(folder / f"gradients-0-{rank}.pt") for rank in (0, 1)]
    differ = False
    for first, second, mean, other in zip(*alone, *shared, strict=True):
        if first is None and second is None:
            assert mean is None, "nobody's gradient stays nobody's"
            continue
        parts = [torch.zeros_like(mean) if part is None else part for part in (first, second)]
        torch.testing.assert_close(mean, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6)
        assert torch.equal(mean, other)
        differ = differ or not torch.allclose(*parts)
    assert differ, "the processes see different windows"
    after = [torch.load(folder / f"weights-1-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(*after, strict=True))
    steps = [json.loads(line)["step"] for line in (folder / "out/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2], "one process writes"
    assert (folder / "out" / WEIGHTS).is_file()
    assert not (tmp_path / "alone-1" / WEIGHTS).exists()


def test_two_processes_from_the_command_line(folder: Path) -> None:
    configs = [str(BUNDLE / "configs" / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    arguments = ["-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", str(BUNDLE)]
    arguments += ["--dataset_dir", str(folder), "--output_dir", str(folder / "out"), "--processes", "cpu"]
    torchrun(folder, *arguments)
    steps = [json.loads(line)["step"] for line in (folder / "out/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert (folder / "out" / WEIGHTS).is_file()
