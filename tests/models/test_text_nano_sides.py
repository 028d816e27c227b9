"""text-nano on MNI152, which it was never trained on: left stays left, however the file is stored."""

from __future__ import annotations

from functools import cache
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from tests.grid_strategies import ORIENTATIONS
from volseg.geometry import Grid
from volseg.models.registry import load_model
from volseg.prompts import PromptedObject, PromptSet, Text

PHRASES = ("left hippocampus", "right hippocampus", "left lateral ventricle", "right lateral ventricle")


@cache
def template(whole: bool) -> Any:
    """MNI152 at 1 mm; or a block of it that holds what is asked for, and more of the left half than of the right."""
    datasets = pytest.importorskip("nilearn.datasets")
    image = datasets.load_mni152_template(resolution=1)
    if whole:
        return image
    low, high = np.array([-54, -64, -34, 1]), np.array([40, 30, 34, 1])
    first, last = (np.linalg.inv(image.affine) @ corner for corner in (low, high))
    return image.slicer[tuple(slice(round(a), round(b) + 1) for a, b in zip(first[:3], last[:3], strict=True))]


def found(image: Any) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """Masks of the phrases on the image's own grid, and their presences."""
    values = torch.from_numpy(np.ascontiguousarray(image.get_fdata(dtype=np.float32)))[None]
    volume = MetaTensor(values, affine=torch.from_numpy(image.affine))
    model = load_model("text-nano", device="cpu")
    prompts = tuple(PromptedObject(n, (Text(phrase),)) for n, phrase in enumerate(PHRASES, 1))
    with model.encode(volume) as encoding:
        result = model.segment(encoding, PromptSet(Grid.of(volume), prompts))
    return [mask.full() for mask in result.masks], [mask.presence or 0.0 for mask in result.masks]


def stored(image: Any, axcodes: str) -> Any:
    wanted = nibabel.orientations.axcodes2ornt(tuple(axcodes))
    now = nibabel.orientations.io_orientation(image.affine)
    return image.as_reoriented(nibabel.orientations.ornt_transform(now, wanted))


@cache
def in_ras(whole: bool) -> list[NDArray[np.bool_]]:
    return found(template(whole))[0]


def check(axcodes: str, whole: bool) -> None:
    """The same voxels as in RAS order; MNI152's midline is x = 0."""
    image = stored(template(whole), axcodes)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axcodes
    masks, presences = found(image)
    for phrase, mask, presence, expected in zip(PHRASES, masks, presences, in_ras(whole), strict=True):
        back = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask.astype(np.uint8), image.affine))
        np.testing.assert_array_equal(np.asarray(back.dataobj) > 0, expected)
        x = nibabel.affines.apply_affine(image.affine, np.argwhere(mask))[:, 0]
        assert len(x) > 1500, phrase
        assert presence > 0.5, phrase
        away = -x if phrase.startswith("left") else x
        # The two lateral ventricles touch at the thin septum between them.
        assert np.mean(away > -2) > 0.99, phrase
        assert away.mean() > 5, phrase


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SLA"])
def test_left_stays_left(axcodes: str) -> None:
    check(axcodes, whole=False)


@pytest.mark.accept
@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_left_stays_left_in_every_orientation(axcodes: str) -> None:
    check(axcodes, whole=False)


@pytest.mark.accept
@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_left_stays_left_in_every_orientation_of_the_whole_template(axcodes: str) -> None:
    check(axcodes, whole=True)
