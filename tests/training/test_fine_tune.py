"""From a trained model and a table of cases to another model, through the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from volseg.cli import app
from volseg.data import read_labelmap
from volseg.errors import TrainingError
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.models.bundles.metadata import Identity, Sam2Bundle, Weights, read_bundle
from volseg.models.bundles.trust import foreign_code
from volseg.models.bundles.write import write_bundle
from volseg.models.card import License
from volseg.models.registry import load_model
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.network import Sam2Network
from volseg.training.cases import listed_cases
from volseg.training.config import Adapt, ScheduleConfig
from volseg.training.export import WEIGHTS
from volseg.training.frames import normalised
from volseg.training.pace import is_over, learning_rate
from volseg.training.run import choose_config, prepare_fine_tuning
from volseg.training.start import read_start

SPEC = replace(Sam2Spec.nano(64), width=64, memory_layers=1, feed_forward=64)
SETTINGS = """
sources: []
validation: []
sampling: {}
validation_slices: 2
validation_cases: 1
calibrate: false
schedule: {steps: 2, steps_per_epoch: 1, validate_every: 9, images: 1, clips: 1, clip_frames: 3, warm_up: 1}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights in half precision, whose frames and licence are its own."""
    folder = tmp_path_factory.mktemp("models") / "little"
    torch.manual_seed(0)
    state = {name: value.half() for name, value in Sam2Network(SPEC).weights().items()}
    bundle = Sam2Bundle(
        identity=Identity("little", "3.0.0", "A little one."),
        license=License("CC-BY-SA-4.0", True, "the makers of the little one"),
        weights=Weights(WEIGHTS, ""),
        network=SPEC,
        frames=FrameFormat(64, Channels.GREY, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        zoom=ZoomSettings(fill=0.4),
    )
    write_bundle(folder, bundle, state)
    return folder


@pytest.fixture
def table(data_folder: Path, tmp_path: Path) -> Path:
    """Four patients, the last one for validation."""
    rows = [
        f"c{n},{data_folder}/scans/P{n}/image.nii.gz,{data_folder}/scans/P{n}/label.nii.gz,MR,ball,{split}"
        for n, split in enumerate(["train", "train", "train", "validation"])
    ]
    path = tmp_path / "cases.csv"
    path.write_text("id,image,label,modality,group,split\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS)
    return path


def volseg(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code != 0
    return " ".join(result.output.split())


def test_lora_makes_a_model_that_segments(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "better"
    common = ("--data", table, "-o", out, "--config", settings, "--device", "cpu")
    said = volseg("train", *common, "--weights", base, "--adapt", "lora", "--lora-rank", "2")
    assert said.strip().endswith("better")
    model = load_model(out, device="cpu")
    assert model.card.name == "better"
    assert foreign_code(out) == ()

    made, old = read_bundle(out), read_bundle(base)
    assert (made.license, made.frames, made.zoom, made.network) == (old.license, old.frames, old.zoom, old.network)
    assert (made.origin.file, made.origin.sha256) == ("little", old.weights.sha256)
    readme = (out / "docs/README.md").read_text()
    assert old.weights.sha256 in readme
    assert "CC-BY-SA-4.0" in readme
    assert "3 of ball" in readme
    assert "| ball box |" in readme
    card = json.loads((out / "docs/card.json").read_text())
    assert card["trained_on"] == ["ball/c0", "ball/c1", "ball/c2"]
    assert card["held_out_patients"] == ["c3"]
    assert card["adapt"] == {"kind": "lora", "rank": 2}
    assert card["base"] == {"name": "little", "sha256": old.weights.sha256, "licence": "CC-BY-SA-4.0"}
    assert card["before"]["ball ellipse"] == card["validation"]["ball ellipse"]

    before, after = load_file(base / WEIGHTS), load_file(out / WEIGHTS)
    assert set(before) == set(after)
    assert all(after[name].dtype is torch.float16 for name in after)
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed <= {"vision_encoder", "memory_attention", "mask_decoder"}
    assert "mask_decoder" in changed

    image = next(iter(table.read_text().splitlines()[1:])).split(",")[1]
    volseg("segment", image, "-o", tmp_path / "seg.nii.gz", "--model", out, "--frame", "ijk",
           "--point", "22,16,8", "--device", "cpu")  # fmt: skip
    assert read_labelmap(tmp_path / "seg.nii.gz").array.shape == (40, 36, 16)

    # the folder holds a run: nothing is overwritten by mistake, and it goes on only as it began
    assert "--resume" in refused("train", *common, "--weights", base)
    assert "--adapt lora" in refused("train", *common, "--weights", base, "--resume")
    # a finished bundle can be trained further, but not in its own folder
    assert "holds a bundle" in refused("train", "--data", table, "-o", base, "--weights", base, "--config", settings)


def test_a_frozen_encoder_keeps_its_bits(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    volseg("train", "--data", table, "-o", tmp_path / "out", "--config", settings, "--device", "cpu",
           "--weights", base, "--adapt", "frozen-encoder")  # fmt: skip
    before, after = load_file(base / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith("vision_encoder.")]
    assert [name for name in changed if name.startswith("mask_decoder.")]


def test_lora_goes_on_exactly(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    from volseg.training.batches import TrainingBatches
    from volseg.training.record import RunRecord
    from volseg.training.trainer import build_trainer
    from volseg.training.update import StepUpdate

    class Stopped(Exception):
        pass

    class StopsAtOne(StepUpdate):
        def __call__(self, engine: object, batch: object) -> dict[str, object]:
            if batch.step == 1:  # type: ignore[attr-defined]
                raise Stopped
            return super().__call__(engine, batch)  # type: ignore[arg-type]

    def run(name: str, update: type[StepUpdate], resume: bool = False) -> dict[str, torch.Tensor]:
        training = prepare_fine_tuning(
            table, tmp_path / name, base, config=settings, adapt="lora", lora_rank=2, device="cpu", resume=resume
        )
        batches = TrainingBatches(training.volumes, training.config)
        training.run(build_trainer(training, batches, update(training), [RunRecord(training)]))
        return dict(training.state.network.state_dict())

    whole = run("whole", StepUpdate)
    with pytest.raises(Stopped):
        run("parts", StopsAtOne)
    parts = run("parts", StepUpdate, resume=True)
    assert whole.keys() == parts.keys()
    assert any("lora_" in name for name in whole)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "parts" / WEIGHTS).read_bytes()


def test_time_ends_a_run_and_the_learning_rate_falls_with_it(
    base: Path, table: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = SETTINGS.replace("steps: 2", "steps: 1000").replace("steps_per_epoch: 1", "steps_per_epoch: 50")
    settings.write_text(long)
    asked = count(0.0, 6.0)  # the clock moves on by six seconds whenever somebody looks
    monkeypatch.setattr("volseg.training.pace.time", SimpleNamespace(monotonic=lambda: next(asked)))
    arguments = ("train", "--data", table, "-o", tmp_path / "out", "--config", settings, "--device", "cpu")
    volseg(*arguments, "--weights", base, "--minutes", "0.5")
    content = torch.load(tmp_path / "out/checkpoint.pt", weights_only=True)
    assert 1 <= content["step"] < 6
    assert content["seconds"] >= 30
    assert load_model(tmp_path / "out", device="cpu").card.weights_sha256
    # the time is spent: going on only writes the bundle again
    volseg(*arguments, "--weights", base, "--minutes", "0.5", "--resume")
    assert torch.load(tmp_path / "out/checkpoint.pt", weights_only=True)["step"] == content["step"]


def test_pace_by_hand() -> None:
    schedule = ScheduleConfig(1000, minutes=10.0, warm_up=1, learning_rate=1.0)
    assert learning_rate(1, schedule, 0) == pytest.approx(1.0)
    assert learning_rate(1, schedule, 300) == pytest.approx(0.01 + 0.99 / 2)
    assert learning_rate(1, schedule, 600) == pytest.approx(0.01)
    assert learning_rate(999, schedule, 0) == pytest.approx(0.01, rel=1e-2), "steps count where they are further on"
    assert [is_over(5, seconds, schedule) for seconds in (599, 600)] == [False, True]
    assert is_over(1000, 0, schedule)
    assert not is_over(5, 1e9, replace(schedule, minutes=0.0))


def test_the_weights_say_how_frames_look(base: Path) -> None:
    start = read_start(base)
    config = choose_config(None, start, adapt="lora")
    assert config.spec == SPEC
    assert config.frames == read_bundle(base).frames
    assert config.adapt.kind is Adapt.LORA
    assert choose_config(None, start).schedule.learning_rate < config.schedule.learning_rate
    frames = torch.rand(2, 1, 3, 64, 64)
    shown = normalised(frames, config)
    middle = frames[:, :, 1]
    for channel, (mean, std) in enumerate(zip((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), strict=True)):
        torch.testing.assert_close(shown[:, :, channel], (middle - mean) / std)
    larger = choose_config(None, read_start(base, image_size=96))
    assert (larger.spec.image_size, larger.frames.image_size) == (96, 96)


def test_weights_from_a_file(base: Path, tmp_path: Path) -> None:
    """Tensors do not tell the size of the image; volseg's own files say it."""
    state = load_file(base / WEIGHTS)
    path = tmp_path / "mine.safetensors"
    save_file(state, path, metadata={"spec": SPEC.to_json()})
    start = read_start(path)
    assert start.bundle.network == SPEC
    assert start.name == "mine"
    assert not start.bundle.license.commercial, "nobody knows the terms of a file"
    assert all(torch.equal(value, state[name]) for name, value in start.state.items())


# ---- the table


def free_table(data_folder: Path, path: Path, cases: int) -> Path:
    scans = [f"{data_folder}/scans/P{n % 4}" for n in range(cases)]
    rows = [f"c{n},{scan}/image.nii.gz,{scan}/label.nii.gz,MR" for n, scan in enumerate(scans)]
    path.write_text("id,image,label,modality\n" + "\n".join(rows) + "\n")
    return path


def test_some_patients_are_held_out_where_the_table_says_nothing(
    data_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = free_table(data_folder, tmp_path / "ten.csv", 10)
    training, scored = listed_cases(table, hold_out=0.2)
    assert (len(training), len(scored)) == (8, 2)
    assert not {case.name for case in training} & {case.name for case in scored}
    assert all(case.patient in caplog.text for case in scored)
    assert listed_cases(table, hold_out=0.2) == (training, scored), "the same every time"
    assert len(listed_cases(table, hold_out=0.0)[0]) == 10


def test_too_few_patients_are_all_trained_on_and_a_note_says_so(
    data_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training, scored = listed_cases(free_table(data_folder, tmp_path / "few.csv", 4), hold_out=0.2)
    assert (len(training), len(scored)) == (4, 0)
    assert "column split" in caplog.text


def _case(folder: Path, labels: np.ndarray, affine: np.ndarray) -> Path:
    image = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "label.nii.gz")
    table = folder / "cases.csv"
    table.write_text("id,image,label,modality\nbad one,image.nii.gz,label.nii.gz,MR\n")
    return table


CUBE = np.zeros((20, 20, 20), np.float32)
CUBE[5:15, 5:15, 5:15] = 1


@pytest.mark.parametrize(
    ("labels", "affine", "said"),
    [
        (CUBE, np.diag([1.0, 1.0, 2.0, 1.0]), "different grids"),
        (CUBE * 0.7, np.eye(4), "whole numbers"),
        (CUBE * 0, np.eye(4), "no object"),
    ],
    ids=["grids", "fractions", "empty"],
)
def test_a_bad_case_is_named(
    base: Path, settings: Path, tmp_path: Path, labels: np.ndarray, affine: np.ndarray, said: str
) -> None:
    table = _case(tmp_path, labels, affine)
    message = refused("train", "--data", table, "-o", tmp_path / "out", "--weights", base, "--config", settings)
    assert "bad one" in message
    assert said in message
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_trained_is_said(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "empty.csv"
    empty.write_text("id,image,label,modality\n")
    assert "none to train on" in refused("train", "--data", empty, "-o", out, "--weights", base)
    assert "CSV" in refused("train", "--data", tmp_path, "-o", out, "--weights", base)
    assert "--weights" in refused("train", "--data", table, "-o", out, "--adapt", "lora")
    assert "expected one of" in refused("train", "--data", table, "-o", out, "--weights", base, "--adapt", "half")
    assert "nowhere" in refused("train", "--data", table, "-o", out, "--weights", "nowhere")
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    (damaged / WEIGHTS).write_bytes((damaged / WEIGHTS).read_bytes()[:-1] + b"x")
    assert "SHA-256" in refused("train", "--data", table, "-o", out, "--weights", damaged)
    settings.write_text(SETTINGS + "spec: {variant: nano, image_size: 64, width: 128}\n")
    assert "do not fit" in refused("train", "--data", table, "-o", out, "--weights", base, "--config", settings)
    with pytest.raises(TrainingError, match="expected one of"):
        choose_config(None, None, adapt="half")
    assert not out.exists()
