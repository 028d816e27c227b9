"""``volseg models``: what scripts read, and the exit status of refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from volseg.cli import app
from volseg.cli.exit_codes import ExitCode
from volseg.models.checkpoints.hashing import file_sha256
from volseg.models.registry import load_model
from volseg.networks.sam2 import Sam2Spec
from volseg.networks.sam2.network import Sam2Network


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOLSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "mine.safetensors"
    save_file({key: tensor.half() for key, tensor in Sam2Network(Sam2Spec.nano(64)).weights().items()}, path)
    return path


def run(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def test_check(nano: Path, tmp_path: Path) -> None:
    told = json.loads(run("check", nano, "--image-size", 64, "--json").stdout)
    assert (told["layout"], told["variant"], told["image_size"]) == ("volseg-nano", "nano", 64)
    assert told["complete"]
    assert told["sha256"] == file_sha256(nano)
    refused = run("check", nano, "--commercial")
    assert refused.exit_code == ExitCode.MODEL
    assert "licence is not known" in refused.stderr
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    other = run("check", tmp_path / "other.pt")
    assert other.exit_code == ExitCode.MODEL
    assert "no SAM 2 checkpoint" in other.stderr


def test_convert_into_the_cache_list_and_info(nano: Path, cache: Path) -> None:
    done = run(
        "convert", nano, "--name", "mine", "--image-size", 64, "--license", "MIT", "--attribution", "Me", "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["license"] == {"spdx": "MIT", "commercial": True, "attribution": "Me"}
    assert json.loads(done.stdout)["folder"] == str(cache / "models" / "mine")
    listed = json.loads(run("list", "--json").stdout)
    names = [model["name"] for model in listed["models"]]
    assert names == ["random-walker", "sam2-nano", "text-nano", "mine", "text-then-clicks"]
    assert "sam2.1-tiny" in [model["name"] for model in listed["downloadable"]]
    told = json.loads(run("info", "mine", "--commercial", "--json").stdout)
    assert told["origin"]["sha256"] == file_sha256(nano)
    again = run("convert", nano, "--name", "mine", "--image-size", 64)
    assert again.exit_code == ExitCode.MODEL
    assert "is there already" in again.stderr


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", ""])
def test_names_that_are_no_folder_names(name: str, nano: Path, cache: Path) -> None:
    assert run("convert", nano, "--name", name).exit_code == ExitCode.MODEL
    assert not cache.exists()


def test_commercial_refusals_write_nothing(nano: Path, tmp_path: Path, cache: Path) -> None:
    refused = run("convert", nano, "-o", tmp_path / "out", "--license", "CC-BY-NC-4.0", "--commercial")
    assert refused.exit_code == ExitCode.MODEL
    assert "CC-BY-NC-4.0" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert run("download", "medsam2", "--commercial").exit_code == ExitCode.MODEL
    assert not cache.exists()


def test_info_of_models_without_weights_and_of_nothing() -> None:
    assert "random walker" in run("info", "random-walker").stdout
    assert run("info", "nothing").exit_code == ExitCode.MODEL


def test_info_of_every_model_that_is_listed() -> None:
    names = [card["name"] for card in json.loads(run("list", "--json").stdout)["models"]]
    assert {"sam2-nano", "text-nano", "text-then-clicks"} <= set(names)
    for name in names:
        told = run("info", name)
        assert told.exit_code == ExitCode.OK, told.output
        assert name in told.stdout
    assert "hippocampus (Dice" in run("info", "text-nano").stdout


def test_a_copy_for_monai_label_has_the_same_weights_as_tensors_only(nano: Path, tmp_path: Path) -> None:
    bundle, copy = tmp_path / "bundle", tmp_path / "copy"
    run("convert", nano, "-o", bundle, "--image-size", 64, "--license", "MIT", "--attribution", "Me")
    done = run("monai-label", bundle, "-o", copy)
    assert done.exit_code == 0, done.output
    state = torch.load(copy / "models" / "model.pt", weights_only=True)
    network = load_model(copy, device="cpu").network  # type: ignore[attr-defined]
    assert network.load_state_dict(state, strict=True)
    weights = load_file(bundle / "models" / "model.safetensors")
    assert set(state) == {f"model.{key}" for key in weights}
    assert all(torch.equal(state[f"model.{key}"], value.float()) for key, value in weights.items())
    assert run("monai-label", bundle, "-o", copy).exit_code == ExitCode.MODEL  # it is there already
