"""Bundles are fine-tuned by their own train.yaml, with one process and with two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer
from safetensors.torch import load_file

from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.models.bundles.metadata import Identity, Sam2Bundle, Weights, read_bundle
from volseg.models.bundles.trust import foreign_code
from volseg.models.bundles.write import WEIGHTS_FILE, write_bundle
from volseg.models.card import License
from volseg.models.registry import load_model
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.network import Sam2Network

SPEC = replace(Sam2Spec.nano(64), width=64, memory_layers=1, feed_forward=64)
SETTINGS = """
sources: []
validation: []
sampling: {}
validation_slices: 2
validation_cases: 1
calibrate: false
schedule: {steps: 9, images: 1, clips: 1, clip_frames: 3, warm_up: 1}
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle as any conversion makes one, with a tiny network, in a folder of its own."""
    torch.manual_seed(0)
    made = Sam2Bundle(
        identity=Identity("little", "1.0.0", "A little one."),
        license=License("CC-BY-SA-4.0", True, "its makers"),
        weights=Weights(WEIGHTS_FILE, ""),
        network=SPEC,
        frames=FrameFormat(64, Channels.NEIGHBOURS, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    )
    write_bundle(tmp_path / "little", made, {k: v.half() for k, v in Sam2Network(SPEC).weights().items()})
    return tmp_path / "little"


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """Three patients with a bright ball, the last one for validation."""
    folder = tmp_path / "data"
    folder.mkdir()
    i, j, k = np.mgrid[:32, :32, :14]
    rows = []
    for number, split in enumerate(["train", "train", "validation"]):
        labels = ((i - 14 - number) ** 2 + (j - 16) ** 2 + 4 * (k - 7) ** 2 < 90).astype(np.uint8)
        image = 100 * labels + np.random.default_rng(number).normal(0, 8, labels.shape)
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / f"{number}_label.nii.gz")
        rows.append(f"p{number},{number}.nii.gz,{number}_label.nii.gz,MR,ball,{split}")
    (folder / "cases.csv").write_text("id,image,label,modality,group,split\n" + "\n".join(rows) + "\n")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def workflow(bundle: Path, dataset_dir: Path, output: Path, **override: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(
        config_file=str(bundle / "configs/train.yaml"),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        dataset_dir=str(dataset_dir),
        output_dir=str(output),
        settings=str(dataset_dir / "settings.yaml"),
        device="$torch.device('cpu')",
        max_epochs=2,
        steps_per_epoch=1,
        **override,
    )
    made.initialize()
    return made


def test_a_bundle_trains_its_own_weights(bundle: Path, dataset_dir: Path, tmp_path: Path) -> None:
    made = workflow(bundle, dataset_dir, tmp_path / "out", adapt="lora", lora_rank=2)
    assert made.check_properties() == []
    assert isinstance(made.trainer, SupervisedTrainer)
    assert made.max_epochs == 2
    assert len(made.train_dataset) == 2
    for name in ("bundle_root", "device", "dataset_dir", "train_inferer", "network_def"):
        assert getattr(made, name) is not None
    made.run()
    made.finalize()
    assert made.trainer.state.iteration == 2

    out = tmp_path / "out"
    assert foreign_code(out) == ()
    assert load_model(out, device="cpu").card.license.spdx == "CC-BY-SA-4.0"
    assert read_bundle(out).origin.sha256 == read_bundle(bundle).weights.sha256
    before, after = load_file(bundle / WEIGHTS_FILE), load_file(out / WEIGHTS_FILE)
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert torch.equal(after["prompt_encoder.point_embed.weight"], before["prompt_encoder.point_embed.weight"])

    # the same again, from the result, which has the same configs
    again = workflow(out, dataset_dir, tmp_path / "again", adapt="frozen-encoder")
    again.run()
    card = json.loads((tmp_path / "again/docs/card.json").read_text())
    assert card["base"]["sha256"] == read_bundle(out).weights.sha256
    # and a run that is over is not run again, only written again
    over = workflow(out, dataset_dir, tmp_path / "again", adapt="frozen-encoder", resume=True)
    over.run()
    assert over.trainer.state.iteration == 2


def test_two_processes_from_the_command_line_in_any_folder(bundle: Path, dataset_dir: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    configs = [str(bundle / "configs" / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    arguments = ["--standalone", "--nproc_per_node", "2", "-m", "monai.bundle", "run", "--config_file", str(configs)]
    arguments += ["--bundle_root", str(bundle), "--dataset_dir", str(dataset_dir), "--output_dir", "out"]
    arguments += ["--settings", str(dataset_dir / "settings.yaml"), "--max_epochs", "1", "--steps_per_epoch", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments, "--processes", "cpu"],
        cwd=elsewhere, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    out = elsewhere / "out"
    assert load_model(out, device="cpu").card.name == "out"
    kinds = [json.loads(line)["kind"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert kinds == ["start", "train", "final"], "one process writes"
