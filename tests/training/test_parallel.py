"""Two processes, as ``torchrun`` starts them, train as one process with both their batches would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from volseg.errors import TrainingError
from volseg.training.batches import StepKind, TrainingBatches
from volseg.training.config import TrainConfig, read_config
from volseg.training.parallel import Ranks, join_ranks
from volseg.training.run import Training, prepare_training
from volseg.training.update import StepUpdate

PROGRAM = """
import sys
from pathlib import Path
import torch
from volseg.training.batches import TrainingBatches
from volseg.training.config import read_config
from volseg.training.parallel import join_ranks
from volseg.training.record import RunRecord
from volseg.training.run import prepare_training
from volseg.training.trainer import build_trainer
from volseg.training.update import StepUpdate

folder = Path(sys.argv[1])
config = read_config(folder / "config.yaml")
ranks = join_ranks("cpu")
output = folder / sys.argv[2]
training = prepare_training(sys.argv[3], output, config, resume=sys.argv[2] == "resumed", ranks=ranks)

class Kept(StepUpdate):
    def __call__(self, engine, batch):
        if batch.step == 1 and ranks.first:
            (folder / "middle.pt").write_bytes((output / "checkpoint.pt").read_bytes())
        numbers = super().__call__(engine, batch)
        parts = {name: one.grad for name, one in training.state.network.named_parameters()}
        torch.save(parts, folder / f"gradients-{batch.step}-{ranks.rank}.pt")
        return numbers

batches = TrainingBatches(training.volumes, config, ranks.rank)
training.run(build_trainer(training, batches, Kept(training), [RunRecord(training)]))
torch.save(training.state.network.state_dict(), folder / f"weights-{output.name}-{ranks.rank}.pt")
"""


def torchrun(folder: Path, word: str, data: Path) -> None:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = ["--standalone", "--nproc_per_node", "2", str(program), str(folder), word, str(data)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


# two steps without clipping, images then clips, so that gradients are those of the losses
CONFIG = """
spec: {variant: nano, image_size: 64, width: 64, memory_layers: 1, feed_forward: 64, draw_prompts: true}
sources: [{group: scans, modality: MR, image: "scans/{case}/image.nii.gz", label: "scans/{case}/label.nii.gz"}]
validation: [P3]
sampling: {}
precision: float32
calibrate: false
validation_slices: 1
validation_cases: 1
schedule:
  {steps: 2, steps_per_epoch: 1, validate_every: 9, images: 1, clips: 1, clip_frames: 3, clip_share: [0.0, 1.0],
   clip_start: 0.5, warm_up: 1, clip_norm: 1.0e+9}
"""


def gradients(training: Training, step: int, rank: int) -> dict[str, torch.Tensor | None]:
    batch = TrainingBatches(training.volumes, training.config, rank)[step]
    StepUpdate(training)(SimpleNamespace(terminate=lambda: None), batch)  # type: ignore[arg-type]
    return {name: one.grad for name, one in training.state.network.named_parameters()}


@pytest.fixture
def weights_of_two(data_folder: Path, tmp_path: Path) -> list[dict[str, torch.Tensor]]:
    """What each of two processes has after a run in tmp_path/whole; both must be the same."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    torchrun(tmp_path, "whole", data_folder)
    weights = [torch.load(tmp_path / f"weights-whole-{rank}.pt") for rank in (0, 1)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    return weights


@pytest.mark.usefixtures("weights_of_two")
def test_two_processes_take_the_mean_gradient_and_stay_identical(data_folder: Path, tmp_path: Path) -> None:
    config = read_config(tmp_path / "config.yaml")
    saved = [torch.load(tmp_path / f"gradients-0-{rank}.pt") for rank in (0, 1)]
    alone = [gradients(prepare_training(data_folder, tmp_path / f"{r}", config, device="cpu"), 0, r) for r in (0, 1)]
    differ = False
    for name, one in alone[0].items():
        other = alone[1][name]
        if one is None and other is None:
            assert saved[0][name] is None, "nobody's gradient stays nobody's"
            continue
        parts = [torch.zeros_like(saved[0][name]) if part is None else part for part in (one, other)]
        torch.testing.assert_close(saved[0][name], (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6)
        assert torch.equal(saved[0][name], saved[1][name])
        differ = differ or not torch.allclose(*parts)
    assert differ, "the processes see different samples"
    # only the first one wrote, and it wrote everything
    assert (tmp_path / "whole/log.jsonl").read_text().count('"final"') == 1
    assert (tmp_path / "whole/configs/metadata.json").is_file()


@pytest.mark.accept
def test_two_processes_go_on_exactly(
    weights_of_two: list[dict[str, torch.Tensor]], data_folder: Path, tmp_path: Path
) -> None:
    """From the checkpoint after the first step."""
    (tmp_path / "resumed").mkdir()
    (tmp_path / "middle.pt").rename(tmp_path / "resumed/checkpoint.pt")
    torchrun(tmp_path, "resumed", data_folder)
    for rank in (0, 1):
        later = torch.load(tmp_path / f"weights-resumed-{rank}.pt")
        assert all(torch.equal(value, later[name]) for name, value in weights_of_two[0].items())


def test_all_processes_see_the_same_kind_of_step_and_other_samples(data_folder: Path, tiny_config: TrainConfig) -> None:
    from volseg.training.cases import split_cases
    from volseg.training.volume import read_volume

    volumes = [read_volume(case) for case in split_cases(data_folder, tiny_config)[0]]
    long = replace(tiny_config, schedule=replace(tiny_config.schedule, steps=40))
    first, second = (TrainingBatches(volumes, long, rank) for rank in (0, 1))
    kinds = [(first[step].kind, second[step].kind) for step in range(8)]
    assert all(one is other for one, other in kinds)
    assert {one for one, _ in kinds} == set(StepKind)
    assert not torch.equal(first[0].frames, second[0].frames)
    assert torch.equal(second[3].frames, second[3].frames)


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join_ranks("cpu")
    assert (ranks.rank, ranks.count, ranks.device, ranks.first) == (0, 1, "cpu", True)
    weight = torch.nn.Parameter(torch.ones(3))
    Ranks().mean_gradients([weight])
    assert weight.grad is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="0 GPUs"):
        join_ranks("cuda")
