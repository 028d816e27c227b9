"""Training of the text-query network: what is known, sides, absent structures, exact resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors import safe_open

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.models.checkpoints.hashing import file_sha256
from volseg.networks.text_query.channels import make_channels, values_of
from volseg.networks.text_query.config import TextQuerySpec
from volseg.networks.text_query.network import QueryOutput, TextQueryNetwork
from volseg.training.config import Precision, SourceConfig
from volseg.training.text_query.bundle import looked_for_at, windows_at
from volseg.training.text_query.config import (
    NANO_CONFIG,
    GroupConfig,
    TextScheduleConfig,
    TextTrainConfig,
    ViewConfig,
    read_text_config,
)
from volseg.training.text_query.losses import text_loss
from volseg.training.text_query.paint import paint_labels
from volseg.training.text_query.run import (
    CHECKPOINT,
    WEIGHTS,
    learning_rate,
    read_sources,
    split_groups,
    train_text,
)
from volseg.training.text_query.samples import Sampler, TextSample
from volseg.training.text_query.start import take_weights
from volseg.training.text_query.validate import CaseScore, dice_table, presence_auc

SPEC = TextQuerySpec(widths=(8, 8, 16), width=16, heads=2, layers=1, mask_levels=2, query_width=8)


def write_case(folder: Path, name: str) -> None:
    """A bright left kidney at low i and a dark right one at high i of a RAS volume, and a liver of unknown parts."""
    values = np.random.default_rng(0).normal(100, 5, (24, 20, 16)).astype(np.float32)
    labels = np.zeros(values.shape, np.uint8)
    labels[3:8, 6:12, 4:10], labels[16:21, 6:12, 4:10], labels[10:13, 14:18, 6:10] = 1, 2, 3
    values[labels == 1], values[labels == 2] = 220, 20
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    for part, array in (("image", values), ("label", labels)):
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}_{part}.nii.gz")


def config(**schedule: object) -> TextTrainConfig:
    view = ViewConfig(1.0, (16, 16, 16), ("kidney_left", "kidney_right", "liver"))
    source = SourceConfig(
        "body", Modality.MR, "{case}_image.nii.gz", "{case}_label.nii.gz",
        {"kidney_left": (1,), "kidney_right": (2,)},
    )  # fmt: skip
    body = GroupConfig(source, (view,), unknown={"liver": (3,)}, absent=("head",))
    head_source = replace(source, group="head", image="x{case}_image.nii.gz", label="x{case}_label.nii.gz", objects={})
    head = GroupConfig(head_source, (ViewConfig(2.0, (16, 16, 16), ("brain",)),), weight=0.0)
    return TextTrainConfig(
        SPEC,
        (body, head),
        (),
        TextScheduleConfig(**{"steps": 4, "steps_per_epoch": 2, "queries": 4, **schedule}),  # type: ignore[arg-type]
        precision=Precision.FLOAT32,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_case(tmp_path, "a")
    write_case(tmp_path, "xb")
    return tmp_path


def samples(folder: Path, count: int, **changes: object) -> list[TextSample]:
    chosen = replace(config(), **changes)  # type: ignore[arg-type]
    sampler = Sampler(read_sources(chosen, folder), chosen)
    return [sampler[number] for number in range(count)]


def test_the_left_kidney_stays_on_the_left(folder: Path) -> None:
    """Also in mirrored windows: there the dark kidney lies at low i, and is called the left one."""
    seen = {False: 0, True: 0}
    for flip, chance in ((False, 0.0), (True, 1.0)):
        for sample in samples(folder, 12, flip=chance):
            rows = {c: row for row, c in enumerate(sample.concepts)}
            if not {"kidney_left", "kidney_right"} <= set(rows):
                continue
            left, right = (sample.targets[rows[f"kidney_{side}"]] for side in ("left", "right"))
            if left.sum() < 30 or right.sum() < 30:
                continue
            assert torch.argwhere(left)[:, 0].float().mean() < torch.argwhere(right)[:, 0].float().mean()
            bright_is_left = sample.window[0, 1][left].mean() > sample.window[0, 1][right].mean()
            assert bool(bright_is_left) is not flip
            seen[flip] += 1
    assert min(seen.values()) > 0


def test_what_is_not_known_is_not_learnt(folder: Path) -> None:
    for sample in samples(folder, 12):
        for row, concept in enumerate(sample.concepts):
            if concept == "liver" and sample.present[row].isnan():
                assert sample.known is not None
                assert not sample.known[row].all()
                assert not sample.targets[row].any()
                return
    pytest.fail("no window showed the part of which only a wider structure is labelled")


def test_absent_structures_are_asked_for_at_their_own_spacing(folder: Path) -> None:
    asked = [s for s in samples(folder, 60) if "brain" in s.concepts]
    assert asked
    assert {s.spacing_mm for s in asked} == {2.0}
    assert all(not s.targets.any() and not s.present.any() for s in asked)


def test_samples_depend_on_their_number_alone(folder: Path) -> None:
    chosen = config()
    sources = read_sources(chosen, folder)
    a, b = Sampler(sources, chosen), Sampler(sources, chosen)
    _ = [b[n] for n in range(3)]
    assert torch.equal(a[5].window, b[5].window)
    assert a[5].concepts == b[5].concepts
    assert not torch.equal(a[4].window, a[5].window)


def test_what_swells_changes_its_size_and_carries_the_image_along(folder: Path) -> None:
    plain = config()
    body = replace(plain.groups[0], swell=("kidney_left",), painted=0.0)
    sizes: dict[bool, list[int]] = {}
    for swelling, groups in ((False, plain.groups), (True, (body, *plain.groups[1:]))):
        for sample in samples(folder, 40, groups=groups, flip=0.0):
            if "kidney_left" in sample.concepts:
                target = sample.targets[sample.concepts.index("kidney_left")]
                sizes.setdefault(swelling, []).append(int(target.sum()))
                if target.sum() > 100:
                    # The left one is bright; wherever its surface went, the image went, too.
                    assert sample.window[0, 1][target].mean() > sample.window[0, 1][~target].mean() + 0.1
    spread = {swelling: np.percentile(some, 90) for swelling, some in sizes.items()}
    assert spread[True] > 1.15 * spread[False]


def test_concepts_that_cannot_occur_are_asked_for_as_absent(folder: Path) -> None:
    plain = config()
    groups = (replace(plain.groups[0], absent=(), nowhere=("brain",)), *plain.groups[1:])
    asked = [s for s in samples(folder, 40, groups=groups) if "brain" in s.concepts]
    assert asked
    assert all(not s.present[s.concepts.index("brain")] for s in asked)


def test_an_image_may_end_within_a_window(folder: Path) -> None:
    """What lies beyond is black and nothing; the rest is as it was."""
    whole = samples(folder, 20, flip=0.0)
    beyond = set()
    for before, sample in zip(whole, samples(folder, 20, flip=0.0, ending=1.0), strict=True):
        black = (sample.window[0] == make_channels(torch.zeros(1, 1, 1, 1, 1))[0]).all(dim=0)
        outside = torch.zeros_like(black)
        for axis in range(3):
            ended = black.amin(dim=tuple(other for other in range(3) if other != axis))
            outside.movedim(axis, 0)[ended] = True
            beyond |= {axis} if bool(ended.any()) else set()
        assert bool(outside.any())
        assert torch.equal(sample.window[0][:, ~outside], before.window[0][:, ~outside])
        assert not sample.targets[:, outside].any()
        for row, concept in enumerate(sample.concepts):
            if concept in before.concepts and not sample.present[row].isnan():
                inside = before.targets[before.concepts.index(concept)] & ~outside
                assert torch.equal(sample.targets[row], inside)
                assert bool(sample.present[row]) == bool(inside.any())
    assert beyond == {0, 1, 2}


def test_ct_may_be_learnt_from_as_mr(folder: Path) -> None:
    body, head = config().groups
    ct = replace(body, source=replace(body.source, modality=Modality.CT))
    for part, wanted in ((0.0, {Modality.CT}), (1.0, {Modality.MR}), (0.5, {Modality.CT, Modality.MR})):
        seen = samples(folder, 20, groups=(replace(ct, recast=part), head))
        assert {one.modality for one in seen} == wanted


def test_processes_look_at_the_same_view_in_a_step(folder: Path) -> None:
    body, head = config().groups
    wide = ViewConfig(1.0, (16, 24, 16), ("kidney_left",))
    chosen = replace(config(), groups=(replace(body, views=(*body.views, wide)), head))
    sampler = Sampler(read_sources(chosen, folder), chosen, together=2)
    shapes = [[tuple(sampler[2 * step + rank].window.shape) for rank in range(2)] for step in range(20)]
    assert all(one == other for one, other in shapes)
    assert len({one for one, _ in shapes}) == 2
    assert not torch.equal(sampler[0].window, sampler[1].window)


def test_air_stays_black_where_tissue_is_painted_anew(folder: Path) -> None:
    path = folder / "a_image.nii.gz"
    values = nibabel.load(path).get_fdata(dtype=np.float32)
    values[:, :, :6] = 0
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    body, head = config().groups
    painted = replace(body, painted=1.0, likely=0.0, absent=())
    seen = [values_of(s.window)[0] for s in samples(folder, 40, groups=(painted, head), varied=0.0, flip=0.0)]
    assert np.mean([float(one.quantile(0.15)) < 0.06 for one in seen]) > 0.6
    assert np.mean([float(one.mean()) < 0.06 for one in seen]) < 0.1


def test_the_rate_is_constant_until_the_end() -> None:
    schedule = TextScheduleConfig(steps=100, warm_up=10, cool_down=20)
    rates = [learning_rate(step, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[9:80]) == {1.0}
    assert rates[99] == pytest.approx(0.01 + 0.99 / 20)
    assert all(a > b for a, b in zip(rates[80:], rates[81:], strict=False))
    assert [learning_rate(step, replace(schedule, steps=200)) for step in range(80)] == rates[:80]


def test_a_run_starts_from_weights_of_other_concepts(folder: Path, tmp_path: Path) -> None:
    first = train_text(config(steps=2), folder, tmp_path / "first")
    wanted = config(steps=2)
    view = replace(wanted.groups[0].views[0], concepts=("kidney", "kidney_left", "spleen"))
    source = replace(wanted.groups[0].source, objects={"kidney": (1, 2), "kidney_left": (1,), "spleen": (3,)})
    group = replace(wanted.groups[0], source=source, views=(view,), unknown={}, absent=())
    second = replace(wanted, groups=(group,), start_sha256=file_sha256(first))
    with pytest.raises(TrainingError, match="give their file"):
        train_text(second, folder, tmp_path / "second")
    network = TextQueryNetwork(replace(SPEC, concepts=second.concepts))
    before = network.bank.detach().clone()
    take_weights(network, first, second.start_sha256)
    with safe_open(first, "pt") as weights:
        rows = dict(zip(config().concepts, weights.get_tensor("bank").float(), strict=True))
        assert torch.equal(network.state_dict()["level"], weights.get_tensor("level").float())
    bank = dict(zip(second.concepts, network.bank.detach(), strict=True))
    assert torch.equal(bank["kidney_left"], rows["kidney_left"])
    torch.testing.assert_close(bank["kidney"], (rows["kidney_left"] + rows["kidney_right"]) / 2)
    assert torch.equal(bank["spleen"], before[second.concepts.index("spleen")])
    with pytest.raises(TrainingError, match="is not the file"):
        take_weights(network, first, "0" * 64)
    assert train_text(second, folder, tmp_path / "second", start=first).is_file()


def test_loss_ignores_what_is_not_known() -> None:
    targets = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    targets[0, :2] = True
    known = torch.ones_like(targets)
    known[0, 3] = False
    sample = TextSample(
        "g", torch.zeros(1, 2, 4, 4, 4), ("liver",), targets, known, torch.tensor([float("nan")]),
        torch.tensor([True]), Modality.MR, 1.0,
    )  # fmt: skip
    right = torch.where(targets, 20.0, -20.0)[None]
    wrong = right.clone()
    wrong[0, 0, 3] = 20.0
    presence = torch.zeros(1, 1)
    good, same = (text_loss(QueryOutput(logits, presence), sample) for logits in (right, wrong))
    assert float(good.total) == pytest.approx(0, abs=1e-5)
    assert float(same.total) == pytest.approx(float(good.total), abs=1e-6)
    bad = text_loss(QueryOutput(-right, presence), sample)
    assert float(bad.total) > 1


def test_what_cannot_be_in_a_volume_is_only_learnt_to_be_absent(folder: Path) -> None:
    brain = [s for s in samples(folder, 60) if "brain" in s.concepts]
    assert brain
    for sample in brain:
        assert sample.drawn.tolist() == [concept != "brain" for concept in sample.concepts]
        masks = torch.zeros(1, *sample.targets.shape, requires_grad=True)
        presence = torch.zeros(1, len(sample.concepts), requires_grad=True)
        loss = text_loss(QueryOutput(masks, presence), sample)
        masks_gradient, presence_gradient = torch.autograd.grad(loss.total, (masks, presence))
        moved = masks_gradient[0].flatten(1).abs().sum(dim=1) > 0
        row = sample.concepts.index("brain")
        assert not moved[row]
        assert presence_gradient[0, row] > 0
    # What is in other windows of the volume is drawn, as nothing.
    missing = [s for s in samples(folder, 60) if bool((s.drawn & (s.present == 0)).any())]
    assert missing


def test_painted_twins_look_alike() -> None:
    labels = torch.zeros(12, 12, 12, dtype=torch.uint8)
    labels[:5], labels[7:] = 1, 2
    spread = []
    for seed in range(6):
        image = paint_labels(labels, {2: 1}, None, np.random.default_rng(seed))
        assert torch.isfinite(image).all()
        spread.append(abs(float(image[1:4].mean() - image[8:11].mean())))
    assert np.median(spread) < 0.06


def test_runs_go_on_exactly(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_text(config(), folder, whole)
    train_text(config(), folder, parts, stop=lambda step: step == 2)
    assert torch.load(parts / CHECKPOINT, weights_only=True)["step"] == 2
    train_text(config(), folder, parts, resume=True)
    assert (whole / WEIGHTS).read_bytes() == (parts / WEIGHTS).read_bytes()
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4]
    from safetensors.torch import load_file

    state = {name: value.float() for name, value in load_file(whole / WEIGHTS).items()}
    concepts = config().concepts
    assert concepts == ("kidney_left", "kidney_right", "liver", "brain")
    TextQueryNetwork(replace(SPEC, concepts=concepts), state)
    with pytest.raises(TrainingError, match="another"):
        train_text(replace(config(), spec=replace(SPEC, width=32)), folder, whole, resume=True)


def test_patients_are_on_one_side(folder: Path) -> None:
    write_case(folder, "c")
    held = replace(config(), validation=("c",))
    train = [case.patient for _, cases in split_groups(held, folder, training=True) for case in cases]
    scored = [case.patient for _, cases in split_groups(held, folder, training=False) for case in cases]
    assert "c" in scored
    assert not set(train) & set(scored)
    with pytest.raises(TrainingError, match="nobody"):
        split_groups(replace(config(), validation=("nobody",)), folder, training=True)


def test_the_shipped_configuration() -> None:
    nano = read_text_config(NANO_CONFIG)
    from volseg.training.config import NANO_CONFIG as SAM2_CONFIG
    from volseg.training.config import read_config

    # The same patients are held out as for sam2-nano, so that the two may be used together, and one of the two cords.
    assert set(nano.validation) == {*read_config(SAM2_CONFIG).validation, "t1w"}
    spacings = looked_for_at(nano)
    assert spacings["hippocampus_anterior"] == 1.0
    assert spacings["hippocampus"] == 1.5
    assert set(spacings.values()) <= {one.spacing_mm for one in windows_at(nano)}
    assert set(spacings) == set(nano.concepts)
    for one in windows_at(nano):
        sizes = [view.window for group in nano.groups for view in group.views
                 if view.spacing_mm == one.spacing_mm and group.source.train]  # fmt: skip
        assert one.window == tuple(map(max, zip(*sizes, strict=True)))
        assert one.least == tuple(map(min, zip(*sizes, strict=True)))
    held_out = {"brain_atlas"}
    assert all(not group.source.train for group in nano.groups if group.source.group in held_out)


def test_tables() -> None:
    scores = [
        CaseScore("g", "a", "liver", True, 0.9, 0.8, True),
        CaseScore("g", "b", "liver", True, 0.6, 0.6, True),
        CaseScore("g", "a", "brain", False, 0.7, None, True),
        CaseScore("g", "b", "brain", False, 0.1, None, True),
    ]
    assert dice_table(scores)["g", "liver"] == (pytest.approx(0.7), 2, True)
    # Pairs of a present and an absent one: 0.9 beats both, 0.6 beats 0.1 only.
    assert presence_auc(scores) == (0.75, 2, 2)
