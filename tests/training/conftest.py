"""Small volumes with known objects, on disk and in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from volseg.data.modality import Modality
from volseg.networks.sam2.config import Sam2Spec
from volseg.training.cases import find_cases
from volseg.training.config import SamplingConfig, ScheduleConfig, SourceConfig, TrainConfig
from volseg.training.volume import TrainingVolume, read_volume

SPACING_MM = (1.0, 1.5, 3.0)


def phantom(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (label 1) and a dark rod (label 2) in grey noise, [40, 36, 16] in LPS."""
    i, j, k = np.mgrid[:40, :36, :16]
    labels = np.zeros(i.shape, np.uint8)
    labels[(i - 22) ** 2 + (j * 1.5 - 24) ** 2 + (k * 3.0 - 24) ** 2 < 11**2] = 1
    labels[(i - 6) ** 2 + (j - 8) ** 2 < 9] = 2
    image = 100 + 10 * rng.standard_normal(i.shape) + 150 * (labels == 1) - 80 * (labels == 2)
    return image.astype(np.float32), labels


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, stored in LPS: ``scans/P0/{image,label}.nii.gz`` to P3."""
    folder = tmp_path_factory.mktemp("data")
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    for number in range(4):
        image, labels = phantom(np.random.default_rng(number))
        case = folder / "scans" / f"P{number}"
        case.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(image, affine), case / "image.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), case / "label.nii.gz")
    return folder


@pytest.fixture
def source() -> SourceConfig:
    """Where the patients of ``data_folder`` lie."""
    return SourceConfig("scans", Modality.MR, "scans/{case}/image.nii.gz", "scans/{case}/label.nii.gz")


@pytest.fixture
def tiny_config(source: SourceConfig) -> TrainConfig:
    """A run of four steps, images and clips, on the smallest network."""
    spec = replace(Sam2Spec.nano(64), width=64, memory_layers=1, feed_forward=64)
    return TrainConfig(
        spec=spec,
        sources=(source,),
        validation=("P3",),
        sampling=SamplingConfig({"scans": 0.7, "synthetic": 0.3}, synthetic_volumes=2, synthetic_renewal=2),
        schedule=ScheduleConfig(
            4, steps_per_epoch=2, validate_every=2, images=2, clips=1, clip_frames=3, clip_share=(0.5, 0.5), warm_up=1
        ),
        validation_slices=3,
        validation_cases=1,
    )


@pytest.fixture
def painted_volume(data_folder: Path, source: SourceConfig) -> TrainingVolume:
    """The first patient in memory."""
    return read_volume(find_cases(data_folder, source)[0])
