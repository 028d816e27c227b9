from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from volseg.cli import app
from volseg.errors import TrainingError
from volseg.networks.sam2.network import Sam2Network
from volseg.training.batches import prompt_rng
from volseg.training.calibrate import SCORE_BIAS
from volseg.training.cases import find_cases
from volseg.training.config import Precision, ScheduleConfig, TrainConfig
from volseg.training.ema import WeightAverage
from volseg.training.export import CARD, WEIGHTS
from volseg.training.pace import learning_rate
from volseg.training.record import LOG
from volseg.training.run import train
from volseg.training.start import read_start
from volseg.training.steps import clip_step, image_step
from volseg.training.travel import Travel
from volseg.training.validate import Validator, dice, ellipse
from volseg.training.volume import TrainingVolume, read_volume


def disc_frames(count: int, length: int, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright discs of different size and place on dark ground, gone in the last frame of a clip."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    targets = torch.stack(
        [
            torch.stack(
                [
                    ((columns - 24 - 4 * n) ** 2 + (rows - 30) ** 2 < (10 + 2 * n - t) ** 2).float()
                    for t in range(length)
                ]
            )
            for n in range(count)
        ]
    )
    if length > 1:
        targets[:, -1] = 0
    frames = (targets[:, :, None].expand(-1, -1, 3, -1, -1) - 0.5) * 3
    return frames, targets


@pytest.fixture
def network(tiny_config: TrainConfig) -> Sam2Network:
    torch.manual_seed(0)
    return Sam2Network(tiny_config.spec).train()


def parts_without_gradient(network: Sam2Network) -> set[str]:
    return {
        name.split(".")[0]
        for name, parameter in network.model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    }


def test_image_steps_reach_encoder_prompts_and_decoder(network: Sam2Network, tiny_config: TrainConfig) -> None:
    frames, targets = disc_frames(2, 1)
    for step in range(4):
        tally = image_step(network, frames[:, 0], targets[:, 0], prompt_rng(tiny_config, step), Precision.FLOAT32)
        tally.mean().backward()
    for name, parameter in network.model.named_parameters():
        if name.startswith(("vision_encoder.backbone", "mask_decoder.transformer")):
            assert parameter.grad is not None, name
    assert "dice box" in tally.numbers()
    assert {"mask", "iou", "presence"} <= set(tally.numbers())


def test_clip_steps_train_memory(network: Sam2Network, tiny_config: TrainConfig) -> None:
    frames, targets = disc_frames(2, 4)
    for step in range(3):
        travel = Travel(torch.ones(2), torch.zeros(2), torch.full((2,), torch.nan))
        tally = clip_step(network, frames, targets, travel, prompt_rng(tiny_config, step), Precision.FLOAT32)
        tally.mean().backward()
    assert "dice tracked" in tally.numbers()
    assert not parts_without_gradient(network) & {"memory_attention", "memory_encoder", "object_pointer_proj"}
    encoder = network.model.memory_temporal_positional_encoding
    assert encoder.grad is not None
    used = encoder.grad.flatten(1).abs().sum(dim=1) > 0
    # offset n reads entry n - 1; offset 0, the prompted frame, the last; clips of four frames use offsets 0, 1 and 2
    assert used.tolist() == [True, True, False, False, False, False, True]


def test_a_network_learns_discs(network: Sam2Network, tiny_config: TrainConfig) -> None:
    frames, targets = disc_frames(4, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for step in range(25):
        tally = image_step(network, frames[:, 0], targets[:, 0], prompt_rng(tiny_config, step), Precision.FLOAT32)
        optimizer.zero_grad()
        tally.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(tally.mean().detach()))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_the_learning_rate_warms_up_and_falls() -> None:
    schedule = ScheduleConfig(1000, warm_up=100, learning_rate=1e-3)
    rates = [learning_rate(step, schedule) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)


def test_the_average_forgets_its_start_and_follows() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    average = WeightAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    expected = 5.0
    for step in range(1, 30):
        average.update(layer)
        expected += (1 - min(0.9, (1 + step) / (10 + step))) * (1.0 - expected)
    assert float(average.weights()["weight"]) == pytest.approx(expected, rel=1e-5)


# ---- whole runs


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def test_a_run_that_was_stopped_goes_on_exactly(data_folder: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    train(tiny_config, data_folder, tmp_path / "whole", device="cpu")
    whole = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validator, "scores", stop)
        halves = replace(tiny_config, schedule=replace(tiny_config.schedule, validate_every=1))
        with pytest.raises(Stopped):
            train(halves, data_folder, tmp_path / "parts", device="cpu")
    part = torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)
    assert part["step"] == 2
    train(tiny_config, data_folder, tmp_path / "parts", resume=True, device="cpu")
    parts = torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)
    assert parts["step"] == whole["step"] == 4
    for name, value in whole["network"].items():
        assert torch.equal(value, parts["network"][name]), name
    for name, value in whole["average"]["average"].items():
        assert torch.equal(value, parts["average"]["average"][name]), name
    changed = [not torch.equal(value, part["network"][name]) for name, value in whole["network"].items()]
    assert np.mean(changed) > 0.5

    # what a run leaves behind
    entries = [json.loads(line) for line in (tmp_path / "whole" / LOG).read_text().splitlines()]
    assert [(entry["kind"], entry["step"]) for entry in entries] == [("train", 2), ("train", 4), ("final", 4)]
    scores = entries[-1]
    assert {"scans ellipse", "scans box", "scans blank box", "scans click", "scans 3D box"} <= set(scores)
    card = json.loads((tmp_path / "whole" / CARD).read_text())
    assert card["held_out_patients"] == ["P3"]
    assert card["steps"] == 4
    assert card["frame_format"]["channels"] == "neighbours"
    network = Sam2Network(tiny_config.spec, read_start(tmp_path / "whole").state)
    for name, value in whole["average"]["average"].items():
        expected = value - scores["presence shift"] if name == SCORE_BIAS else value
        torch.testing.assert_close(network.model.state_dict()[name], expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(TrainingError, match="--resume"):
        train(tiny_config, data_folder, tmp_path / "whole", device="cpu")
    wider = replace(tiny_config, spec=replace(tiny_config.spec, feed_forward=128))
    with pytest.raises(TrainingError, match="another"):
        train(wider, data_folder, tmp_path / "whole", resume=True, device="cpu")


def test_the_command_line_names_what_is_wrong(data_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("seed: 1\n")
    result = CliRunner().invoke(
        app, ["train", "--config", str(config), "--data", str(data_folder), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code != 0
    assert "sources" in result.output
    assert not (tmp_path / "out").exists()


# ---- validation


def test_the_ellipse_baseline_is_the_ellipse() -> None:
    mask = ellipse(np.array([[9.5, 19.5], [49.5, 39.5]], np.float32), 64)
    assert mask.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 49)


def test_dice_worked_by_hand() -> None:
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0], other[:, 0] = True, True
    assert dice(one, other) == pytest.approx(2 / 8)
    assert dice(one & False, other & False) == 1


@pytest.fixture
def volume(data_folder: Path, tiny_config: TrainConfig) -> TrainingVolume:
    return read_volume(find_cases(data_folder, tiny_config.sources[0])[3])


def test_a_blind_network_scores_the_same_on_a_blank_image(volume: TrainingVolume, tiny_config: TrainConfig) -> None:
    network = Sam2Network(tiny_config.spec)
    with torch.no_grad():
        for parameter in network.model.vision_encoder.parameters():
            parameter.zero_()
    scores = Validator([volume], tiny_config).scores(network)
    assert scores["scans blank box"] == scores["scans box"]
    assert scores["scans blank click"] == scores["scans click"]
    assert 0.85 < scores["scans ellipse"] <= 1, "the phantom's rod is round"
    assert scores["scans 3D ellipse"] == pytest.approx(scores["scans ellipse"], abs=0.06), "and the same on every slice"
