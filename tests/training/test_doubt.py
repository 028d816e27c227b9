"""A network that is made to expect errors of its own trusts the image more where the image tells more."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from volseg.errors import TrainingError
from volseg.inferers.refine.answer import Belief, carried
from volseg.inferers.refine.settings import RefineSettings
from volseg.training.config import read_settings
from volseg.training.refine.config import REFINE_CONFIG, DoubtConfig, RefineTrainConfig
from volseg.training.refine.run import RefineRun
from volseg.training.refine.teach import doubted, refine_loss
from volseg.training.start import read_start

SHAPE = (16, 20, 24)
ALWAYS = DoubtConfig(part=1.0, most=6.0)
NEVER = DoubtConfig(part=0.0)


def _ball() -> torch.Tensor:
    i, j, k = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    return (((i - 8) / 5) ** 2 + ((j - 10) / 6) ** 2 + ((k - 12) / 7) ** 2 < 1).float()


def _learnt_trust(doubt: DoubtConfig, *, visible: bool) -> float:
    """What trust in a good belief about a ball comes out of a few steps."""
    truth = _ball()
    rng = np.random.default_rng(0)
    image = (truth if visible else torch.zeros(SHAPE)) + 0.05 * torch.from_numpy(
        rng.standard_normal(SHAPE, dtype=np.float32)
    )
    trust = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([trust], 0.2)
    settings = RefineSettings(walk_trust=0.1)
    for _ in range(25):
        belief = doubted(rng, Belief(4 * truth - 2, trust.expand(SHAPE)), doubt)
        logits = carried(belief, image, torch.zeros(4, *SHAPE), settings, correcting=False)
        optimizer.zero_grad()
        refine_loss(logits, truth, torch.zeros(SHAPE)).backward()
        optimizer.step()
    return float(trust.detach())


def test_doubt_lowers_trust_where_the_image_shows_the_border() -> None:
    assert _learnt_trust(ALWAYS, visible=True) < _learnt_trust(NEVER, visible=True) - 0.3
    assert _learnt_trust(ALWAYS, visible=True) < _learnt_trust(ALWAYS, visible=False) - 0.3


def test_noise_is_as_frequent_and_as_strong_as_asked_for() -> None:
    rng = np.random.default_rng(3)
    belief = Belief(torch.zeros(SHAPE), torch.zeros(SHAPE))
    found = [doubted(rng, belief, DoubtConfig(part=0.5, most=2.0)).logits for _ in range(200)]
    spreads = np.array([float(one.std()) for one in found])
    assert 0.4 < (spreads > 0).mean() < 0.6
    assert 0.3 < spreads[spreads > 0].mean() < 1.2
    assert not belief.logits.any()
    plain = Belief(torch.zeros(SHAPE), None)
    assert doubted(rng, plain, ALWAYS) is plain


@pytest.mark.parametrize("wrong", [{"part": 1.5}, {"belief": -0.1}, {"most": -1.0}, {"cells": (1, 4)}])
def test_what_is_no_doubt_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="parts lie between 0 and 1"):
        DoubtConfig(**wrong)  # type: ignore[arg-type]


def test_further_sources_keep_their_held_out_patients(tmp_path: Path) -> None:
    shipped = read_settings(REFINE_CONFIG, RefineTrainConfig)
    config = tmp_path / "base.yaml"
    config.write_text(
        "sources: [{group: tumour, modality: CT, image: 'P{case}/image.nii.gz', label: 'P{case}/label.nii.gz'}]\n"
        "validation: ['2']\nspec: {variant: nano}\nschedule: {steps: 1}\nsampling: {}\n"
    )
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"cases: {config}\nschedule: {{steps: 1}}\nsampling: {{weights: {{tumour: 1, bone: 1}}}}\n"
        "more: [{group: bone, modality: CT, image: 'P{case}/image.nii.gz', label: 'P{case}/image.nii.gz', "
        "expert: false, pseudo: bones}]\n"
    )
    for patient in "123":
        (tmp_path / f"P{patient}").mkdir()
        for name in ("image", "label"):
            volume = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
            nib.save(volume, tmp_path / f"P{patient}" / f"{name}.nii.gz")
    run = RefineRun(read_settings(settings, RefineTrainConfig), tmp_path, read_start("sam2-nano"), lambda: None)
    training, held_out = run._cases(tmp_path)
    assert [one.name for one in training] == ["tumour/1", "tumour/3", "bone/1", "bone/3"]
    assert [one.name for one in held_out] == ["tumour/2"]
    assert {one.group for one in shipped.more} <= set(shipped.sampling.weights)
