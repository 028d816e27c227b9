from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.training.bones import bone_labels
from volseg.training.cases import find_cases
from volseg.training.config import Pseudo, SourceConfig
from volseg.training.volume import read_arrays

SPACING_MM = (1.0, 1.0, 3.0)


def _limb(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A thigh in HU with a femur, a thinner bone and a vessel with contrast medium; and where bones are."""
    x, y, _ = np.meshgrid(np.arange(80), np.arange(70), np.arange(30), indexing="ij")
    image = np.where((x - 40) ** 2 + (y - 35) ** 2 < 33**2, 50.0, -1000.0)
    far = np.hypot(x - 35, y - 30)
    thin = np.hypot(x - 58, y - 40)
    image[far < 14] = 900
    image[far < 9] = -40
    image[thin < 6] = 700
    image[np.hypot(x - 20, y - 40) < 2] = 150
    return image + rng.normal(0, 20, image.shape), far < 14, thin < 6


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_bones_come_with_their_marrow_the_largest_first() -> None:
    image, femur, thin = _limb(np.random.default_rng(0))
    labels = bone_labels(image, SPACING_MM)
    assert set(np.unique(labels)) == {0, 1, 2}
    assert _dice(labels == 1, femur) > 0.95
    assert _dice(labels == 2, thin) > 0.9


def test_axes_may_be_in_any_order() -> None:
    image, *_ = _limb(np.random.default_rng(1))
    labels = bone_labels(image, SPACING_MM)
    turned = bone_labels(image.transpose(2, 0, 1)[::-1], (3.0, 1.0, 1.0))
    assert (turned == labels.transpose(2, 0, 1)[::-1]).all()


def test_without_bones_nothing_is_labelled() -> None:
    assert not bone_labels(np.full((20, 20, 10), 40.0), SPACING_MM).any()


def test_a_source_can_have_its_labels_made(tmp_path: Path) -> None:
    image, femur, _ = _limb(np.random.default_rng(2))
    affine = np.diag([*SPACING_MM, 1.0])
    (tmp_path / "ct").mkdir()
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), tmp_path / "ct" / "a.nii.gz")
    source = SourceConfig(
        "bone", Modality.CT, "ct/{case}.nii.gz", "ct/{case}.nii.gz", expert=False, pseudo=Pseudo.BONES
    )
    (case,) = find_cases(tmp_path, source)
    voxels, labels, grid = read_arrays(case)
    assert voxels.shape == labels.shape == grid.shape
    assert _dice(labels == 1, femur) > 0.95


@pytest.mark.parametrize(("label", "expert"), [("ct/{case}_seg.nii.gz", False), ("ct/{case}.nii.gz", True)])
def test_made_labels_are_of_the_image_and_never_scored(label: str, expert: bool) -> None:
    with pytest.raises(TrainingError, match="labels made from the image"):
        SourceConfig("bone", Modality.CT, "ct/{case}.nii.gz", label, expert=expert, pseudo=Pseudo.BONES)
