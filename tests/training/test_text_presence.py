"""Presence trained once more: it learns where structures cannot be, and masks stay the same to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.training.test_text_training import SPEC, config, write_case
from volseg.data.modality import Modality
from volseg.errors import ModelError, TrainingError
from volseg.networks.text_query.channels import make_channels
from volseg.networks.text_query.config import TextQuerySpec
from volseg.networks.text_query.network import TextQueryNetwork
from volseg.training.text_query.config import GroupConfig, PresenceConfig, TextTrainConfig, ViewConfig
from volseg.training.text_query.paint import recast
from volseg.training.text_query.presence import (
    see_windows,
    settle_presence,
    tune_presence,
    with_presence_layers,
)
from volseg.training.text_query.run import train_text
from volseg.transforms.windows import choose_window

KIDNEYS = ("kidney_left", "kidney_right")
SETTINGS = PresenceConfig({"body": 0.5, "limb": 0.5}, (1.0,), windows=60, steps=300, learning_rate=1e-2, varied=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A body with kidneys, and a limb that is noise as bright as the body and half as fine."""
    write_case(tmp_path, "a")
    write_case(tmp_path, "xb")
    (tmp_path / "limbs").mkdir()
    values = np.random.default_rng(1).normal(100, 30, (24, 20, 16)).astype(np.float32)
    for part, array in (("image", values), ("label", np.zeros(values.shape, np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "limbs" / f"a_{part}.nii.gz")
    return tmp_path


def with_limb() -> TextTrainConfig:
    plain = config(steps=2)
    source = replace(
        plain.groups[0].source,
        group="limb",
        image="limbs/{case}_image.nii.gz",
        label="limbs/{case}_label.nii.gz",
        objects={},
    )
    limb = GroupConfig(source, (ViewConfig(1.0, (16, 16, 16), ()),), nowhere=KIDNEYS, weight=0.0)
    return replace(plain, groups=(*plain.groups, limb), presence=SETTINGS, flip=0.0)


def test_ct_may_be_shown_as_mr() -> None:
    values = torch.from_numpy(np.random.default_rng(0).uniform(-1, 2, (9, 8, 7)).astype(np.float32))
    values[0, 0, :3] = torch.tensor([0.4, 0.4, 0.41])
    shown = [recast(values, np.random.default_rng(seed)) for seed in range(40)]
    assert all(bool((one[values <= 0] == 0).all()) for one in shown)  # air
    assert min(float(one.min()) for one in shown) == 0
    assert max(float(one.max()) for one in shown) <= 1
    assert all(float(one[0, 0, 0]) == float(one[0, 0, 1]) for one in shown)
    falls = [float(one[values > 0.9].mean() - one[(values > 0.3) & (values < 0.5)].mean()) for one in shown]
    assert min(falls) < -0.2 < 0.2 < max(falls)  # bone may be darker than muscle, or brighter


def network_of(path: Path) -> TextQueryNetwork:
    with safe_open(path, "pt") as file:
        spec = TextQuerySpec.from_json(file.metadata()["spec"])
        return TextQueryNetwork(spec, {name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118


def answers(network: TextQueryNetwork, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.from_numpy(nibabel.load(path).get_fdata(dtype=np.float32))
    shown = choose_window(values[None], modality=Modality.MR)
    window = make_channels((values[None, None, 2:18, 2:18] - shown.low) / (shown.high - shown.low))
    with torch.no_grad():
        output = network(window, network.embeddings(KIDNEYS), Modality.MR, 1.0)
    return output.mask_logits, output.presence_logits[0]


def test_it_learns_where_nothing_is(folder: Path, tmp_path: Path) -> None:
    chosen = with_limb()
    first = train_text(replace(chosen, presence=None), folder, tmp_path / "run")
    second = tune_presence(chosen, folder, first, tmp_path / "tuned.safetensors")
    before, after = network_of(first), network_of(second)
    assert (before.spec.presence_layers, after.spec.presence_layers) == (0, 1)
    for name in ("a_image.nii.gz", "limbs/a_image.nii.gz"):
        assert torch.equal(answers(before, folder / name)[0], answers(after, folder / name)[0])
    assert answers(after, folder / "a_image.nii.gz")[1].min() > 0
    assert answers(after, folder / "limbs/a_image.nii.gz")[1].max() < 0
    # And again from there, now that the layers are there.
    third = tune_presence(chosen, folder, second, tmp_path / "again.safetensors")
    assert network_of(third).spec == after.spec


def test_a_scout_learns_what_the_frozen_features_do_not_show(folder: Path, tmp_path: Path) -> None:
    plain = with_limb()
    chosen = replace(
        plain, seed=3, presence=replace(SETTINGS, scout=(8, 16), learning_rate=3e-3, windows=120, steps=500)
    )
    first = train_text(replace(chosen, presence=None), folder, tmp_path / "run")
    second = tune_presence(chosen, folder, first, tmp_path / "tuned.safetensors")
    before, after = network_of(first), network_of(second)
    assert after.spec.scout_widths == (8, 16)
    for name in ("a_image.nii.gz", "limbs/a_image.nii.gz"):
        assert torch.equal(answers(before, folder / name)[0], answers(after, folder / name)[0])
    assert answers(after, folder / "a_image.nii.gz")[1].min() > 0
    assert answers(after, folder / "limbs/a_image.nii.gz")[1].max() < 0
    assert after.scout is not None
    with torch.no_grad():  # it is listened to
        after.scout.out.weight.zero_()
    assert (
        answers(after, folder / "limbs/a_image.nii.gz")[1].max()
        > answers(network_of(second), folder / "limbs/a_image.nii.gz")[1].max()
    )


@pytest.mark.parametrize("widths", [(12,), (0, 8), (8, 4)])
def test_scouts_that_cannot_be_built_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="divide by 8"):
        replace(SPEC, presence_layers=1, scout_widths=widths)
    with pytest.raises(ModelError, match="layers of presence"):
        replace(SPEC, presence_layers=0, scout_widths=(8,))


def test_what_it_cannot_learn_from_is_refused(folder: Path, tmp_path: Path) -> None:
    chosen = with_limb()
    weights = train_text(replace(chosen, presence=None), folder, tmp_path / "run")
    with pytest.raises(TrainingError, match="no part 'presence'"):
        tune_presence(replace(chosen, presence=None), folder, weights, tmp_path / "out.safetensors")
    only_limb = replace(chosen, presence=replace(SETTINGS, weights={"limb": 1.0}, windows=3))
    with pytest.raises(TrainingError, match="0 are 'present'"):
        tune_presence(only_limb, folder, weights, tmp_path / "out.safetensors")


def test_without_layers_of_its_own_nothing_new_is_built() -> None:
    plain = TextQueryNetwork(replace(SPEC, concepts=KIDNEYS))
    assert not [name for name in plain.state_dict() if name.startswith("presence_") and "norm" not in name]


def test_windows_of_random_shapes_show_nothing_and_ct_is_told_to_be_mr(folder: Path, tmp_path: Path) -> None:
    chosen = with_limb()
    first = train_text(replace(chosen, presence=None), folder, tmp_path / "run")
    network = with_presence_layers(first, 1)
    settings = replace(SETTINGS, windows=6, phantoms=4, recast=1.0)
    seen = see_windows(network, chosen, settings, folder)
    assert len(seen) == 10
    assert not any(one.present.any() for one in seen[6:])
    assert all(len(one.present) == len(one.seen) >= 2 for one in seen[6:])
    assert {tuple(one.values.shape) for one in seen[6:]} == {(16, 16, 16)}
    assert sum(float(one.values.float().std()) > 0.01 for one in seen[6:]) > 2
    assert {one.modality for one in seen} == {Modality.MR}
    ct = replace(chosen, groups=tuple(_as_ct(group) for group in chosen.groups))
    assert {one.modality for one in see_windows(network, ct, settings, folder)} == {Modality.MR}
    assert Modality.CT in {one.modality for one in see_windows(network, ct, replace(settings, recast=0.0), folder)}


def test_each_structure_is_asked_for_at_the_spacing_it_is_looked_for_at(folder: Path, tmp_path: Path) -> None:
    plain = with_limb()
    body, head, limb = plain.groups
    coarse = ViewConfig(2.0, (16, 16, 16), KIDNEYS, weight=3.0)
    chosen = replace(plain, groups=(replace(body, views=(*body.views, coarse)), head, limb))
    first = train_text(replace(chosen, presence=None), folder, tmp_path / "run")
    network = with_presence_layers(first, 1)
    settings = replace(SETTINGS, weights={"body": 1.0}, spacings_mm=(1.0, 2.0), windows=40, phantoms=2)
    seen = see_windows(network, chosen, settings, folder)
    # In windows where nothing is: the liver at 1 mm, both kidneys and the brain at 2 mm.
    assert [len(one.present) for one in seen[-2:]] == [1, 3]
    # What is there are kidneys, and those are seen at 2 mm only, where a window holds both of them or nearly so.
    there = [int(one.present.sum()) for one in seen[:-2] if bool(one.present.any())]
    assert len(there) > 10
    assert max(there) == 2


def test_presence_is_moved_until_part_of_the_windows_say_no(folder: Path, tmp_path: Path) -> None:
    chosen = with_limb()
    first = train_text(replace(chosen, presence=None), folder, tmp_path / "run")
    network = with_presence_layers(first, 1)
    seen = see_windows(network, chosen, SETTINGS, folder)

    def logits() -> torch.Tensor:
        with torch.no_grad():
            each = [network.present(one.seen[None], one.tokens[None].float())[0][one.present == 1] for one in seen]
        return torch.cat(each)

    before = logits()
    shift = settle_presence(network, seen, 0.25)
    assert torch.allclose(logits(), before - shift, atol=1e-5)
    assert float((logits() < 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    settled = tune_presence(replace(chosen, presence=replace(SETTINGS, missed=0.25)), folder, first, tmp_path / "a.st")
    as_trained = tune_presence(chosen, folder, first, tmp_path / "b.st")
    one, other = (answers(network_of(path), folder / "a_image.nii.gz") for path in (settled, as_trained))
    assert torch.equal(one[0], other[0])
    assert bool((one[1] < other[1]).all())


def _as_ct(group: GroupConfig) -> GroupConfig:
    return replace(group, source=replace(group.source, modality=Modality.CT))
