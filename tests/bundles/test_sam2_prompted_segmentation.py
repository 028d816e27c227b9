"""The carried bundle under MONAI: its workflows run on files and agree with ``volseg segment``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.engines import SupervisedEvaluator
from typer.testing import CliRunner

from volseg.cli import app
from volseg.data import read_image, read_labelmap
from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.models.bundles.folders import carried_folder
from volseg.models.registry import load_model
from volseg.prompts import Box, Point, PromptedObject, PromptSet
from volseg.sessions import Session

BUNDLE = carried_folder() / "sam2_prompted_segmentation"
CONFIGS = BUNDLE / "configs"
LPS = np.diag([-1.5, -1.5, 3.0, 1.0])


def config(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def workflow(*names: str, kind: str = "inference", **override: Any) -> ConfigWorkflow:
    """MONAI's runner, without the bundle's logging: it would stay set up for all later tests."""
    return ConfigWorkflow(
        config_file=config(*names),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        device="$torch.device('cpu')",
        **override,
    )


def run(*names: str, **override: Any) -> ConfigWorkflow:
    made = workflow(*names, **override)
    made.initialize()
    made.run()
    made.finalize()
    return made


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Path]:
    """A small CT of two bright boxes, stored as int16 in LPS order, with labels, and prompts for both."""
    voxels = np.random.default_rng(0).normal(-50, 5, (40, 36, 10)).astype(np.int16)
    labels = np.zeros(voxels.shape, dtype=np.uint8)
    labels[8:20, 6:16, 3:7] = 1
    labels[26:34, 20:30, 2:6] = 2
    voxels[labels > 0] = 150
    paths = {name: tmp_path / f"case.{name}.nii.gz" for name in ("image", "label")}
    nibabel.save(nibabel.Nifti1Image(voxels, LPS), paths["image"])
    nibabel.save(nibabel.Nifti1Image(labels, LPS), paths["label"])
    prompts = PromptSet(
        Grid(voxels.shape, LPS),
        (
            PromptedObject(1, (Box((8, 6, 5), (19, 15, 5), frame=Frame.IJK),), "first"),
            PromptedObject(3, (Point((30, 25, 4), frame=Frame.IJK),), "second"),
        ),
    )
    paths["prompts"] = tmp_path / "prompts.json"
    paths["prompts"].write_text(prompts.dumps())
    return paths


def test_identical_to_volseg_segment(case: dict[str, Path], tmp_path: Path) -> None:
    run("inference", image=str(case["image"]), prompts=str(case["prompts"]), output_dir=str(tmp_path / "out"))
    made = read_labelmap(tmp_path / "out" / "case.image_seg.nii.gz")
    result = CliRunner().invoke(
        app,
        ["segment", str(case["image"]), "-o", str(tmp_path / "cli.nii.gz"), "--model", "sam2-nano",
         "--prompts", str(case["prompts"]), "--device", "cpu"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    other = read_labelmap(tmp_path / "cli.nii.gz")
    assert np.array_equal(made.array, other.array)
    assert made.array.any()
    assert made.grid == other.grid
    assert [(one.value, one.name) for one in made.labels] == [(one.value, one.name) for one in other.labels]
    assert [(one.value, one.name) for one in made.labels] == [(1, "first"), (3, "second")]


def test_from_the_command_line_in_any_folder(case: dict[str, Path], tmp_path: Path) -> None:
    """The prompts come as JSON, which MONAI's command line turns into a dictionary."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = ["--config_file", *config("inference"), "--bundle_root", str(BUNDLE), "--image", str(case["image"])]
    arguments += ["--prompts", case["prompts"].read_text(), "--output_dir", "out", "--device", "$torch.device('cpu')"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *arguments],
        cwd=elsewhere, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made = read_labelmap(elsewhere / "out" / "case.image_seg.nii.gz")
    image = read_image(case["image"])
    with Session(load_model("sam2-nano", device="cpu"), image) as session:
        session.add_prompts(PromptSet.loads(case["prompts"].read_text()))
        assert np.array_equal(made.array, session.predict().array)


def test_real_volume(shared_data: Path, tmp_path: Path) -> None:
    image = sorted((shared_data / "hippocampus" / "images").glob("*.nii.gz"))[0]
    label = read_labelmap(shared_data / "hippocampus" / "labels" / image.name)
    voxels = np.argwhere(label.array == 1)
    centre = voxels[len(voxels) // 2]
    prompts = PromptSet.of(label.grid, [Point(tuple(centre.tolist()), frame=Frame.IJK)], "anterior")
    run("inference", image=str(image), prompts=prompts.dumps(), output_dir=str(tmp_path))
    made = read_labelmap(tmp_path / image.name.replace(".nii.gz", "_seg.nii.gz"))
    assert made.grid.same_as(label.grid)
    with Session(load_model("sam2-nano", device="cpu"), read_image(image)) as session:
        session.add_prompts(prompts)
        assert np.array_equal(made.array, session.predict().array)


def test_many_cases(case: dict[str, Path], tmp_path: Path) -> None:
    entry = {"image": "case.image.nii.gz", "prompts": "prompts.json"}
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": [entry]}))
    run("inference", "batch_inference", dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    run("inference", image=str(case["image"]), prompts=str(case["prompts"]), output_dir=str(tmp_path / "one"))
    many, one = (read_labelmap(tmp_path / name / "case.image_seg.nii.gz") for name in ("out", "one"))
    assert np.array_equal(many.array, one.array)


def test_evaluation_is_the_dice_of_the_written_labels(case: dict[str, Path], tmp_path: Path) -> None:
    entry = {"image": "case.image.nii.gz", "label": "case.label.nii.gz"}
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": [entry]}))
    out = tmp_path / "out"
    made = run("inference", "evaluate", dataset_dir=str(tmp_path), output_dir=str(out), num_classes=3)
    predicted = read_labelmap(out / "case.image_seg.nii.gz").array
    truth = read_labelmap(case["label"]).array
    expected = [
        2 * ((predicted == value) & (truth == value)).sum() / ((predicted == value).sum() + (truth == value).sum())
        for value in (1, 2)
    ]
    assert made.evaluator.state.metrics["val_mean_dice"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert (out / "val_mean_dice_raw.csv").is_file()


def test_prompts_travel_with_the_image_where_a_program_passes_nothing_else(case: dict[str, Path]) -> None:
    """As MONAI Label does: it calls ``inferer(image[None], network)``."""
    made = workflow("inference")
    made.initialize()
    data = made.preprocessing({"image": str(case["image"]), "prompts": case["prompts"].read_text()})
    labels = made.inferer(data["image"][None], made.network_def)
    assert set(labels.unique().tolist()) == {0, 1, 3}
    assert torch.equal(labels, made.inferer(data["image"][None], made.network_def, prompts=data["prompts"]))
    with pytest.raises(PromptError, match="1 images came with 0 prompt strings"):
        made.inferer(read_image(case["image"])[None], made.network_def)


def test_window_and_plane_reach_the_inferer(case: dict[str, Path]) -> None:
    made = workflow("inference", image="x", prompts="x", window="bone", plane="coronal", modality="CT")
    made.initialize()
    inferer = made.inferer.model.drafts.inferer
    assert (inferer.window, inferer.plane, inferer.modality) == ("bone", "coronal", "CT")


@pytest.mark.parametrize("prompts", ["", "nowhere.json", '{"schema": "other"}'])
def test_bad_prompts_are_said_to_be_bad(prompts: str, case: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises((PromptError, RuntimeError)) as error:
        run("inference", image=str(case["image"]), prompts=prompts, output_dir=str(tmp_path / "out"))
    causes: list[BaseException] = [error.value]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    assert any(isinstance(cause, PromptError) for cause in causes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("inference",), ("inference", "batch_inference"), ("inference", "evaluate")])
def test_required_properties_are_there(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": []}))
    made = workflow(*names, dataset_dir=str(tmp_path))
    made.initialize()
    assert made.check_properties() == []
    assert isinstance(made.evaluator, SupervisedEvaluator)
    assert made.network_def is made.evaluator.network
    for name in ("bundle_root", "device", "dataset_dir", "dataset", "inferer", "preprocessing", "postprocessing"):
        assert getattr(made, name) is not None
    assert made.version
    assert made.channel_def["1"] == "object"


def test_metadata_follows_the_schema(shared_data: Path, tmp_path: Path) -> None:
    schema = shared_data.parent / "facts" / "meta_schema_20240725.json"
    copy = tmp_path / schema.name
    copy.write_bytes(schema.read_bytes())
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(copy))


def test_network_takes_and_gives_what_the_metadata_says() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=config("inference")[0],
        device="cpu",
        bundle_root=str(BUNDLE),
    )


def test_the_weights_are_small_and_hold_at_most_ten_million_numbers() -> None:
    weights = list((BUNDLE / "models").iterdir())
    assert sum(path.stat().st_size for path in weights) <= 25 << 20
    model = load_model("sam2-nano", device="cpu")
    assert sum(one.numel() for one in model.network.parameters()) <= 10_000_000  # type: ignore[attr-defined]
    assert all(one.dtype is torch.float32 for one in model.network.parameters())  # type: ignore[attr-defined]


def test_the_bundle_carries_no_code() -> None:
    assert sorted(path.name for path in BUNDLE.iterdir()) == ["LICENSE", "configs", "docs", "models"]
    assert not list(BUNDLE.rglob("*.py"))
