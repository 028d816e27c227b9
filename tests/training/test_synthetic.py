from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from volseg.geometry import Grid
from volseg.training.synthetic import (
    RandPaintLabels,
    SyntheticDataset,
    SyntheticVolumes,
    deform,
    paint,
    random_shapes,
)
from volseg.training.volume import TrainingVolume


def test_shapes_have_tissues_and_objects_of_every_id() -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        labels, tissues, objects = random_shapes(rng, (20, 48, 48))
        found = set(np.unique(labels).tolist())
        assert found <= set(range(1, tissues + objects + 1))
        assert found & set(range(tissues + 1, tissues + objects + 1)), "at least one object shows"


def test_paint_gives_every_label_its_own_grey() -> None:
    labels = np.zeros((8, 60, 60), np.uint8)
    labels[:, 20:, :30], labels[:, 20:, 30:] = 1, 2
    contrasts = []
    for seed in range(12):
        image = paint(np.random.default_rng(seed), labels, 3)
        assert image.shape == labels.shape
        assert np.isfinite(image).all()
        within = np.mean([image[labels == one].std() for one in range(3)])
        contrasts.append(np.ptp([image[labels == one].mean() for one in range(3)]) / within)
    assert np.median(contrasts) > 2, "labels differ more than the noise within them"


def test_deform_bends_but_keeps_whole_labels() -> None:
    labels = np.zeros((16, 48, 48), np.uint8)
    labels[4:12, 10:30, 15:40] = 7
    moved = deform(np.random.default_rng(1), labels)
    assert set(np.unique(moved)) == {0, 7}
    dice = 2 * ((moved == 7) & (labels == 7)).sum() / ((moved == 7).sum() + (labels == 7).sum())
    assert 0.4 < dice < 0.98


def test_a_number_always_gives_the_same_volume() -> None:
    one, again = SyntheticVolumes(5)[3], SyntheticVolumes(5)[3]
    other = SyntheticVolumes(5)[4]
    slices = one.planes[one.acquired]
    np.testing.assert_array_equal(slices.voxels, again.planes[again.acquired].voxels)
    assert slices.voxels.shape != other.planes[other.acquired].voxels.shape or not np.array_equal(
        slices.voxels, other.planes[other.acquired].voxels
    )
    assert one.objects


def test_slices_are_as_thick_as_they_are_said_to_be() -> None:
    volume = SyntheticVolumes(0)[1]
    slices = volume.planes[volume.acquired]
    assert slices.voxels.shape[1:] == (96, 96)
    assert volume.grid.spacing_mm[2] >= max(slices.pixel_spacing_mm)


def test_real_label_maps_are_painted_anew(painted_volume: TrainingVolume) -> None:
    volumes = SyntheticVolumes(1, [painted_volume])
    anew = [volume for volume in (volumes[number] for number in range(8)) if volume.objects[0].name in ("1", "2")]
    assert 1 <= len(anew) <= 7
    real = painted_volume.planes[painted_volume.acquired]
    for volume in anew:
        slices = volume.planes[volume.acquired]
        assert slices.pixel_spacing_mm == pytest.approx(real.pixel_spacing_mm)
        assert volume.grid.spacing_mm[2] == pytest.approx(painted_volume.grid.spacing_mm[2])
        for item in volume.objects:
            of_real = next(one for one in painted_volume.objects if one.name == item.name)
            ratio = item.mask(slices.labels).sum() / of_real.mask(real.labels).sum()
            assert 0.3 < ratio < 2.5


def test_the_monai_transform_paints_and_is_random_by_seed() -> None:
    labels = torch.zeros(1, 6, 20, 20)
    labels[:, :, 5:15, 5:15] = 2
    affine = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
    transform = Compose([RandPaintLabels()]).set_random_state(3)
    image = transform(MetaTensor(labels, affine=affine))
    assert isinstance(image, MetaTensor)
    assert Grid.of(image).spacing_mm == pytest.approx((2, 2, 5))
    assert image.std() > 0
    again = Compose([RandPaintLabels()]).set_random_state(3)(labels)
    assert torch.equal(torch.as_tensor(again), image.as_tensor())
    assert not torch.equal(transform(labels), torch.as_tensor(again))
    assert torch.equal(RandPaintLabels(prob=0.0)(labels), labels)


def test_the_dataset_serves_any_monai_pipeline() -> None:
    dataset = SyntheticDataset(2, seed=1)
    item = dataset[1]
    assert len(dataset) == 2
    assert item["image"].shape == item["label"].shape
    assert Grid.of(item["image"]).same_as(Grid.of(item["label"]))
    assert Grid.of(item["image"]).axcodes == "SPL"
    with pytest.raises(IndexError):
        dataset[2]
