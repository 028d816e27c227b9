"""Labelled cases on disk, and the command line with a model whose answer is known."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from region_model import RegionModel, blocks_image
from typer.testing import CliRunner

from volseg.cli import app


def save(array, path, affine=None):
    """Writes a volume and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    """Pictures of the worst objects take most of a small run's time; one shows that they are there."""
    monkeypatch.setattr("volseg.evaluation.page.WORST", 1)


@pytest.fixture
def blocks():
    """Image and labels of two blocks; the region model finds both exactly from any prompt inside."""
    image = blocks_image()
    voxels = image[0].numpy()
    return voxels, ((voxels == 100) + 2 * (voxels == 200)).astype(np.uint8), image.affine.numpy()


@pytest.fixture
def cases(tmp_path, blocks):
    """cases.csv of three cases in two groups."""
    voxels, labels, affine = blocks
    lines = ["id,image,label,modality,group"]
    for name, group in (("a", "x"), ("b", "x"), ("c", "y")):
        save(voxels, tmp_path / f"images/{name}.nii.gz", affine)
        save(labels, tmp_path / f"labels/{name}.nii.gz", affine)
        lines.append(f"{name},images/{name}.nii.gz,labels/{name}.nii.gz,CT,{group}")
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture
def model(monkeypatch):
    model = RegionModel()
    monkeypatch.setattr("volseg.models.registry.load_model", lambda name, **options: model)
    return model


@pytest.fixture
def run(model):
    """Runs ``volseg`` in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
