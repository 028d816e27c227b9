"""text-nano on MNI152, which it was never trained on: left stays left, however the file is stored."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from tests.grid_strategies import ORIENTATIONS
from volseg.cli import app
from volseg.geometry import Grid
from volseg.inferers.windows import SlidingWindows
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


class Remembered:
    """Runs windows over a volume once; where the volume is the same bit for bit, it gives the same logits again.

    Attributes:
        computed: how often windows were computed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computed = 0
        self._answers: dict[tuple[Any, ...], tuple[list[tuple[Tensor, tuple[int, int, int]]], Tensor]] = {}
        self._run = SlidingWindows.run
        monkeypatch.setattr(SlidingWindows, "run", lambda windows, *args, **named: self._again(windows, *args, **named))

    def _again(self, windows: SlidingWindows, image: Tensor, network: Any, sink: Any, **named: Any) -> None:
        key = (sha256(image.contiguous().numpy().tobytes()).digest(), tuple(image.shape), windows.settings,
               windows.pad_values, network.queries)  # fmt: skip
        if key not in self._answers:
            self.computed += 1
            blocks: list[tuple[Tensor, tuple[int, int, int]]] = []
            recorder = SimpleNamespace(take=lambda logits, start: blocks.append((logits.clone(), start)))
            self._run(windows, image, network, recorder, **named)
            self._answers[key] = (blocks, network.presence)
        blocks, network.presence = self._answers[key]
        for logits, start in blocks:
            sink.take(logits.clone(), start)


WORDS = "left hippocampus, right hippocampus, lateral ventricles"


def by_command(image: Any, folder: Path) -> NDArray[np.uint8]:
    """What ``volseg segment --text`` writes: 1, 2 and 3 in the order of the words, on the image's own grid."""
    nibabel.save(image, folder / "image.nii.gz")
    words = ["segment", folder / "image.nii.gz", "-o", folder / "out.nii.gz", "--text", WORDS, "--device", "cpu"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    written = nibabel.load(folder / "out.nii.gz")
    assert written.shape == image.shape
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)
    return np.asarray(written.dataobj).astype(np.uint8)


def check_command(axcodes: str, folder: Path, expected: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Checks sides in the millimetres of the written file, and that voxels are the expected ones in RAS order."""
    image = stored(template(whole=True), axcodes)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axcodes
    labels = by_command(image, folder)
    for value, side in ((1, -1), (2, 1)):
        x = nibabel.affines.apply_affine(image.affine, np.argwhere(labels == value))[:, 0]
        assert len(x) > 1500
        assert np.all(side * x > 2), (axcodes, value)
    ventricles = nibabel.affines.apply_affine(image.affine, np.argwhere(labels == 3))[:, 0]
    assert min(np.sum(ventricles < -2), np.sum(ventricles > 2)) > 3000, axcodes
    back = nibabel.as_closest_canonical(nibabel.Nifti1Image(labels, image.affine))
    in_order: NDArray[np.uint8] = np.asarray(back.dataobj).astype(np.uint8)
    if expected is not None:
        np.testing.assert_array_equal(in_order, expected)
    return in_order


@pytest.mark.accept
def test_left_stays_left_in_every_orientation_of_the_whole_template(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """48 runs of the command. The network is shown the same volume bit for bit, so its windows are computed once."""
    remembered = Remembered(monkeypatch)
    expected = check_command("RAS", tmp_path, None)
    for axcodes in ORIENTATIONS:
        check_command(axcodes, tmp_path, expected)
    assert len(ORIENTATIONS) == 48
    assert remembered.computed == 1


@pytest.mark.accept
def test_whole_templates_computed_anew_give_the_same(tmp_path: Path) -> None:
    expected = check_command("RAS", tmp_path, None)
    for axcodes in ("LPS", "PIR", "SLA"):
        check_command(axcodes, tmp_path, expected)
