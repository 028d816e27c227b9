"""Training of the second look in 3D: drafts, samples, damage, and whole runs through the command line."""

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
from volseg.data.modality import Modality
from volseg.data.object_mask import ObjectMask
from volseg.errors import TrainingError
from volseg.geometry import Frame, Grid
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.models.bundles.metadata import Identity, Sam2Bundle, Weights, read_bundle
from volseg.models.bundles.write import REFINE_FILE, WEIGHTS_FILE, write_bundle
from volseg.models.card import License
from volseg.models.refined import RefinedModel
from volseg.models.registry import load_model
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.network import Sam2Network
from volseg.prompts import Point
from volseg.training.cases import listed_cases
from volseg.training.config import NANO_CONFIG, read_config, read_settings
from volseg.training.refine import run as module
from volseg.training.refine.config import REFINE_CONFIG, REFINE_FINE_TUNE, RefineSampleConfig, RefineTrainConfig
from volseg.training.refine.damage import damaged
from volseg.training.refine.drafts import Draft, first_prompt, load_drafts, save_drafts
from volseg.training.refine.samples import RefineSampler, RefineVolume, add_correction, read_refine_volume
from volseg.training.refine.score import dice, worst_click
from volseg.training.refine.teach import refine_loss
from volseg.training.refine.vary import vary_geometry, vary_inside

SETTINGS = """
sampling: {other_drafts: 2}
spec: {width: 8, blocks_down: [1, 1], blocks_up: [1]}
settings: {samples: 2048}
precision: float32
schedule: {steps: 4, objects: 1, steps_per_epoch: 2, warm_up: 1}
"""
GRID = Grid((30, 28, 12), np.diag([-1.0, -1.2, 3.0, 1.0]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice-wise model with random weights and no second look."""
    folder = tmp_path_factory.mktemp("models") / "slices"
    torch.manual_seed(0)
    spec = replace(Sam2Spec.nano(64), width=64, memory_layers=1, feed_forward=64)
    bundle = Sam2Bundle(
        identity=Identity("slices", "1.0.0", "Slices."),
        license=License("CC-BY-SA-4.0", True, "nobody"),
        weights=Weights(WEIGHTS_FILE, ""),
        network=spec,
        frames=FrameFormat(64, Channels.GREY, (0.5,) * 3, (0.25,) * 3),
        zoom=ZoomSettings(fill=0.4),
    )
    write_bundle(folder, bundle, {name: value.half() for name, value in Sam2Network(spec).weights().items()})
    return folder


@pytest.fixture
def table(data_folder: Path, tmp_path: Path) -> Path:
    """Two patients to train on, one held out."""
    rows = [
        f"c{n},{data_folder}/scans/P{n}/image.nii.gz,{data_folder}/scans/P{n}/label.nii.gz,MR,ball,{split}"
        for n, split in enumerate(["train", "train", "validation"])
    ]
    path = tmp_path / "cases.csv"
    path.write_text("id,image,label,modality,group,split\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "refine.yaml"
    path.write_text(SETTINGS)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["train", *(str(one) for one in arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.output


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / REFINE_FILE)


def test_a_model_gets_a_second_look(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    output = tmp_path / "looks"
    run("--data", table, "-o", output, "--weights", base, "--adapt", "refine", "--config", settings)
    model = load_model(output, device="cpu")
    assert isinstance(model, RefinedModel)
    described = read_bundle(output)
    assert described.license == read_bundle(base).license
    assert described.identity.name == "looks"
    for name, tensor in load_file(base / WEIGHTS_FILE).items():
        assert torch.equal(tensor, load_file(output / WEIGHTS_FILE)[name])
    entries = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in entries] == ["start", "train", "train", "final"]
    assert {"ball draft", "ball looked", "ball + 3 clicks"} <= set(entries[-1])
    card = json.loads((output / "docs" / "card.json").read_text())
    assert card["held_out_patients"] == ["c2"]
    assert card["steps"] == 4


def test_going_on_is_the_same_as_never_having_stopped(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ("--data", table, "--weights", base, "--adapt", "refine")
    run(*common, "-o", whole, "--config", settings)
    stopped = pytest.MonkeyPatch()
    plain = module._save

    class Killed(Exception):
        pass

    def save_and_die(*arguments: object) -> None:
        plain(*arguments)  # type: ignore[arg-type]
        raise Killed

    stopped.setattr(module, "_save", save_and_die)
    result = CliRunner().invoke(app, ["train", *map(str, common), "-o", str(parts), "--config", str(settings)])
    stopped.undo()
    assert result.exit_code != 0
    assert (parts / "checkpoint.pt").exists()
    assert not (parts / REFINE_FILE).exists()
    run(*common, "-o", parts, "--config", settings, "--resume")
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(parts)[name]), name


def test_a_refined_model_is_gone_on_with(base: Path, table: Path, settings: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run("--data", table, "-o", first, "--weights", base, "--adapt", "refine", "--config", settings)
    still = tmp_path / "still.yaml"
    still.write_text(SETTINGS.replace("warm_up: 1", "warm_up: 1, learning_rate: 0.0, weight_decay: 0.0"))
    run("--data", table, "-o", second, "--weights", first, "--adapt", "refine", "--config", still)
    for name, tensor in weights_of(first).items():
        assert torch.allclose(tensor.float(), weights_of(second)[name].float(), atol=2e-3), name


def test_what_does_not_go_together_is_refused(base: Path, table: Path, tmp_path: Path) -> None:
    common = ["train", "--data", str(table), "-o", str(tmp_path / "out"), "--adapt", "refine"]
    assert CliRunner().invoke(app, common).exit_code == 2
    assert CliRunner().invoke(app, [*common, "--weights", str(base), "--lora-rank", "4"]).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_shipped_configurations_can_be_read() -> None:
    shipped = read_settings(REFINE_CONFIG, RefineTrainConfig)
    assert not shipped.go_on
    groups = {source.group for source in read_config(REFINE_CONFIG.parent / shipped.cases).sources}
    assert (REFINE_CONFIG.parent / shipped.cases).resolve() == NANO_CONFIG.resolve()
    groups |= {source.group for source in shipped.more}
    assert set(shipped.sampling.weights) - {"synthetic"} == set(shipped.sampling.drafts) <= groups
    assert read_settings(REFINE_FINE_TUNE, RefineTrainConfig).go_on
    with pytest.raises(TrainingError, match="add up to 1"):
        replace(shipped.sampling, rounds=(0.5, 0.4))
    for scales in ((), (0.0, 1.0), (1.5,)):
        with pytest.raises(TrainingError, match="up to 1"):
            replace(shipped.sampling, scales=scales)


def truth_of(seed: int = 0) -> ObjectMask:
    i, j, k = np.indices(GRID.shape)
    return ObjectMask.of(1, GRID, ((i - 14) / 9) ** 2 + ((j - 12) / 7) ** 2 + ((k - 5.5) / 4) ** 2 < 1)


def test_first_prompts_speak_of_the_object() -> None:
    rng = np.random.default_rng(0)
    truth = truth_of()
    kinds = set()
    for _ in range(200):
        prompt = first_prompt(rng, truth)
        kinds.add(str(prompt.kind))
        voxels = prompt.voxels_ijk(GRID)
        inside = truth.full()[tuple(voxels.T)]
        if prompt.kind in ("point", "scribble", "mask"):
            assert inside.all()
        else:
            assert inside.any()
    assert kinds == {"point", "box_2d", "box_3d", "scribble", "mask"}


def test_drafts_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    drafts = [Draft((1, 2), (first_prompt(rng, truth_of()),), truth_of()) for _ in range(6)]
    save_drafts(tmp_path / "some.npz", drafts, GRID)
    for old, new in zip(drafts, load_drafts(tmp_path / "some.npz", GRID), strict=True):
        assert new.ids == old.ids
        assert new.prompts == old.prompts
        assert np.array_equal(new.mask.full(), old.mask.full())
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(TrainingError, match="delete it"):
        load_drafts(tmp_path / "broken.npz", GRID)


def test_damaged_truths_are_near_and_far() -> None:
    rng = np.random.default_rng(2)
    i, j, k = np.indices((32, 32, 24))
    truth = torch.from_numpy((((i - 16) / 9) ** 2 + ((j - 15) / 8) ** 2 + ((k - 12) / 6) ** 2 < 1).astype(np.float32))
    drafts = [damaged(rng, truth) for _ in range(120)]
    assert all(set(one.unique().tolist()) <= {0.0, 1.0} and one.shape == truth.shape for one in drafts)
    overlap = [float(2 * (one * truth).sum() / (one.sum() + truth.sum())) for one in drafts]
    assert 0.02 < np.mean([value == 0 for value in overlap]) < 0.25
    assert np.mean([value > 0.9 for value in overlap]) > 0.05
    assert np.mean([0.3 < value < 0.9 for value in overlap]) > 0.4
    sizes = [float(one.sum() / truth.sum()) for one in drafts if one.any()]
    assert min(sizes) < 0.7
    assert max(sizes) > 1.2


def test_samples_show_the_object_and_repeat(table: Path) -> None:
    training, _ = listed_cases(table)
    config = RefineTrainConfig(read_settings(REFINE_FINE_TUNE, RefineTrainConfig).schedule)
    truth_volumes = [read_refine_volume(case, ()) for case in training]
    sampler = RefineSampler(truth_volumes, [], config)
    for number in range(12):
        sample, again = sampler[number], sampler[number]
        assert torch.equal(sample.truth, again.truth)
        assert torch.equal(sample.image, again.image)
        assert torch.equal(sample.prompts, again.prompts)
        assert all(side % 8 == 0 and side >= 16 for side in sample.truth.shape)
        assert float(sample.truth.sum()) > 20
        clicked = sample.prompts[0]
        if float(clicked.max()) > 1.9:
            assert float(sample.truth.flatten()[clicked.argmax()]) > 0.2


def test_corrections_click_where_the_answer_is_wrong(table: Path) -> None:
    training, _ = listed_cases(table)
    config = RefineTrainConfig(read_settings(REFINE_FINE_TUNE, RefineTrainConfig).schedule)
    sample = RefineSampler([read_refine_volume(case, ()) for case in training], [], config)[3]
    wanted = sample.truth > 0.5
    rng = np.random.default_rng(0)
    nothing = torch.zeros_like(sample.prompts)
    for _ in range(10):
        missed, _ = add_correction(rng, sample, torch.zeros_like(wanted), nothing)
        assert bool(wanted.flatten()[missed[0].argmax()])
        assert not missed[1].any()
        too_much, _ = add_correction(rng, sample, torch.ones_like(wanted), nothing)
        assert not bool(wanted.flatten()[too_much[1].argmax()])
        assert not too_much[0].any()


def test_blocks_are_shown_as_coarse_as_asked_for(table: Path) -> None:
    training, _ = listed_cases(table)
    schedule = read_settings(REFINE_FINE_TUNE, RefineTrainConfig).schedule
    volumes = [read_refine_volume(case, ()) for case in training]
    sizes = {}
    for scale in (1.0, 0.25):
        config = RefineTrainConfig(schedule, sampling=RefineSampleConfig(scales=(scale,)))
        sampler = RefineSampler(volumes, [], config)
        sizes[scale] = np.mean([sampler[number].truth.numel() for number in range(8)])
    assert 0.15 < sizes[0.25] / sizes[1.0] < 0.5  # the finest step holds small images back


def test_intensities_change_inside_of_the_object_alone() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(0, 1, (24, 20, 16)).astype(np.float32))
    truth = torch.zeros(image.shape)
    truth[5:19, 4:16, 3:13] = 1.0
    parts = []
    for _ in range(20):
        changed = vary_inside(rng, image, truth) != image
        assert not changed[truth == 0].any()
        parts.append(float(changed[truth == 1].float().mean()))
    assert min(parts) < 0.3 < 0.7 < max(parts)


def test_blocks_bend_with_all_their_channels() -> None:
    steps = torch.arange(24, dtype=torch.float32)
    plane = steps[:, None, None].expand(24, 24, 24)
    block = torch.stack([plane, 2 * plane + 1])
    bent = 0
    for seed in range(24):
        image, double = vary_geometry(np.random.default_rng(seed), block)
        assert torch.allclose(double, 2 * image + 1, atol=1e-3)
        turned = [image.diff(n=2, dim=axis)[8:16, 8:16, 8:16].abs().max() for axis in range(3)]
        bent += float(max(turned)) > 1e-3  # a straight ramp stays straight under anything but bending
    assert 1 < bent < 16


def test_strokes_stay_where_the_answer_is_wrong(table: Path) -> None:
    training, _ = listed_cases(table)
    config = RefineTrainConfig(read_settings(REFINE_FINE_TUNE, RefineTrainConfig).schedule)
    sample = RefineSampler([read_refine_volume(case, ()) for case in training], [], config)[3]
    wanted = sample.truth > 0.5
    rng = np.random.default_rng(1)
    lengths = []
    for _ in range(60):
        said, _ = add_correction(rng, sample, torch.zeros_like(wanted), torch.zeros_like(sample.prompts))
        peaks = said[0] > 1.99
        assert bool((wanted | ~peaks).all())
        lengths.append(int((said[0] > 1.7).sum()))  # samples by the way; around a click there is but one
    assert max(lengths) > 2  # strokes
    assert np.mean([length == 1 for length in lengths]) > 0.5  # most are clicks


def test_a_whole_is_shown_more_often_than_its_parts() -> None:
    labels = np.zeros((30, 24, 24), np.uint8)
    labels[5:15, 6:18, 6:18], labels[15:25, 6:18, 6:18] = 1, 2
    grid = Grid(labels.shape, np.eye(4))
    ids = ((1,), (2,), (1, 2))
    drafts = [
        Draft(one, (Point((15.0, 12.0, 12.0), Frame.IJK),), ObjectMask.of(1, grid, np.isin(labels, one))) for one in ids
    ]
    volume = RefineVolume("two", Modality.CT, grid, np.zeros(labels.shape, np.float16), labels, ids, tuple(drafts))
    schedule = read_settings(REFINE_FINE_TUNE, RefineTrainConfig).schedule
    for part in (0.0, 1.0):
        config = RefineTrainConfig(schedule, sampling=RefineSampleConfig(damaged=part, whole=1.0))
        sampler = RefineSampler([volume], [], config)
        sides = [np.ptp(np.argwhere((sampler[n].truth > 0.5).numpy()), axis=0) + 1.0 for n in range(12)]
        assert np.median([side.max() / side.min() for side in sides]) > 1.4  # the whole is longer than wide; no part is


def test_neighbours_are_sometimes_one_object() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    for number, place in enumerate(np.ndindex(3, 3, 3), start=1):
        labels[tuple(slice(5 + 10 * n, 15 + 10 * n) for n in place)] = number
    labels[labels > 18] = 0  # two layers of nine cubes; the others are not labelled
    objects = tuple((number,) for number in range(1, 19))
    grid = Grid((40, 40, 40), np.eye(4))
    volume = RefineVolume("cubes", Modality.CT, grid, np.zeros(labels.shape, np.float16), labels, objects)
    config = RefineTrainConfig(read_settings(REFINE_FINE_TUNE, RefineTrainConfig).schedule)
    sampler = RefineSampler([volume], [], config)
    sides = []
    for number in range(60):
        places = torch.nonzero(sampler[number].truth > 0.5)
        extent = (places.amax(dim=0) - places.amin(dim=0) + 1).float()
        sides.append(float(extent.max() / extent.min()))
    # One cube is as long as wide, turned and stretched a little; two of them are twice as long.
    assert 0.1 < np.mean([side > 1.6 for side in sides]) < 0.6


def test_the_worst_click() -> None:
    truth = truth_of()
    answer = ObjectMask.of(1, GRID, np.zeros((1, 1, 1), bool))
    click = worst_click(answer, truth)
    assert click is not None
    assert click.positive
    assert np.abs(np.array(click.position) - (14, 12, 5.5)).max() <= 1.5
    assert worst_click(truth, truth) is None
    assert dice(answer, truth) == 0
    assert dice(truth, truth) == dice(answer, answer) == 1


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0, -1.0]]])
    truth = torch.tensor([[[1.0, 0.0]]])
    none, clicked = torch.zeros(1, 1, 2), torch.tensor([[[0.0, 1.0]]])
    entropy = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-1))]
    found = [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))]
    overlap = 1 - (2 * found[0] + 1) / (found[0] ** 2 + found[1] ** 2 + 1 + 1)
    assert float(refine_loss(logits, truth, none)) == pytest.approx(2 * np.mean(entropy) + overlap, rel=1e-5)
    weighted = (entropy[0] + 9 * entropy[1]) / 10
    assert float(refine_loss(logits, truth, clicked)) == pytest.approx(2 * weighted + overlap, rel=1e-5)
