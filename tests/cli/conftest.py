"""A small image on disk, and the command line with a model whose answer is known."""

from __future__ import annotations

import pytest
from region_model import RegionModel, blocks_image
from typer.testing import CliRunner

from volseg.cli import app


@pytest.fixture
def image_path(tmp_path):
    import nibabel

    image = blocks_image()
    path = tmp_path / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image[0].numpy(), image.affine.numpy()), path)
    return path


@pytest.fixture
def model(monkeypatch):
    model = RegionModel()
    monkeypatch.setattr("volseg.models.registry.load_model", lambda name, **options: model)
    return model


@pytest.fixture
def run(model):
    """Runs ``volseg`` in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
