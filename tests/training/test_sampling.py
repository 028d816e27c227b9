from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from volseg.data import read_image
from volseg.data.modality import Modality
from volseg.geometry import Grid, Plane
from volseg.inferers.slices.crop import Crop
from volseg.inferers.slices.frames import Channels, FrameFormat, make_frames
from volseg.inferers.slices.view import SliceView
from volseg.training.augment import augment
from volseg.training.batches import StepKind, TrainingBatches, prepared
from volseg.training.cases import find_cases
from volseg.training.config import SamplingConfig, TrainConfig
from volseg.training.sampling import ClipSampler, cut_clip, draw_window
from volseg.training.volume import TrainingVolume, build_volume, read_volume
from volseg.transforms.windows import choose_window

CROPS = [Crop(4, 3, 20, 30), Crop(-10, 20, 24, 36), Crop(0, 0, 36, 40)]


@pytest.fixture
def volume(data_folder: Path, tiny_config: TrainConfig) -> TrainingVolume:
    return read_volume(find_cases(data_folder, tiny_config.sources[0])[0])


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("plane", list(Plane))
def test_training_shows_what_an_inferer_shows(
    data_folder: Path, volume: TrainingVolume, plane: Plane, crop: Crop
) -> None:
    image = read_image(data_folder / "scans/P0/image.nii.gz")
    view = SliceView.of(Grid.of(image), plane)
    frame_format = FrameFormat(32, Channels.NEIGHBOURS, (0.0,) * 3, (1.0,) * 3)
    window = choose_window(image, modality=Modality.MR)
    indices = [0, 7, view.count - 1]
    expected = make_frames(view.array(image), indices, crop, window, frame_format)
    clip = cut_clip(volume.planes[plane], volume.objects[0], indices, crop, (0.0, 1.0), 32)
    np.testing.assert_allclose(clip.frames, expected.numpy(), atol=2e-3)  # intensities are kept as float16


def test_targets_lie_where_the_labels_are(volume: TrainingVolume) -> None:
    slices, ball = volume.planes[Plane.AXIAL], volume.objects[0]
    index = int(ball.planes[Plane.AXIAL].indices[2])
    target = cut_clip(slices, ball, [index], Crop(0, 0, 36, 40), (0, 1), 120).targets[0]
    mask = ball.mask(slices.labels[index])
    assert target.mean() == pytest.approx(mask.mean(), rel=0.02)
    rows, columns = np.nonzero(mask)
    y, x = np.indices(target.shape)
    assert (y * target).sum() / target.sum() == pytest.approx((rows.mean() + 0.5) * 120 / 36 - 0.5, abs=0.2)
    assert (x * target).sum() / target.sum() == pytest.approx((columns.mean() + 0.5) * 3 - 0.5, abs=0.2)


def test_clips_start_on_the_object_and_often_run_past_its_end(volume: TrainingVolume) -> None:
    sampler = ClipSampler([volume], SamplingConfig({"scans": 1.0}, small=0), 32)
    rng = np.random.default_rng(0)
    clips = [sampler.draw(rng, 4) for _ in range(150)]
    present = np.array([clip.targets.reshape(4, -1).max(axis=1) > 0 for clip in clips])
    assert present[:, 0].all()
    assert 0.12 < 1 - present.mean() < 0.4
    ends = [bool((one[:-1] & ~one[1:]).any()) for one in present]
    assert 0.2 < np.mean(ends) < 0.8


def test_the_object_fills_the_wanted_part_of_the_frame(volume: TrainingVolume) -> None:
    sampler = ClipSampler([volume], SamplingConfig({"scans": 1.0}, box_fill=(0.4, 0.6), small=0), 64)
    rng = np.random.default_rng(1)
    fills = []
    for _ in range(60):
        rows, columns = np.nonzero(sampler.draw(rng, 1).targets[0] > 0.3)
        fills.append(max(np.ptp(rows) + 1, np.ptp(columns) + 1) / 64)
    # the slice itself bounds the crop, jitter and aspect vary it a little
    assert min(fills) > 0.3
    assert 0.35 < np.median(fills) < 0.75


def test_groups_are_drawn_by_weight(volume: TrainingVolume) -> None:
    black = build_volume(
        "b", "black", Modality.MR, volume.grid, np.zeros(volume.grid.shape, np.float16),
        np.pad(np.ones((10, 10, 8), np.uint8), ((8, 22), (8, 18), (4, 4))), {"block": (1,)},
    )  # fmt: skip
    sampler = ClipSampler([volume, black], SamplingConfig({"scans": 0.8, "black": 0.2}), 16)
    rng = np.random.default_rng(2)
    drawn = [sampler.draw(rng, 1).frames.max() == 0 for _ in range(200)]
    assert 0.1 < np.mean(drawn) < 0.32


def test_windows_vary_around_the_default() -> None:
    rng = np.random.default_rng(3)
    for modality in Modality:
        windows = np.array([draw_window(rng, modality) for _ in range(300)])
        assert (windows[:, 1] > windows[:, 0]).all()
        assert 0.3 < np.mean((windows == (0.0, 1.0)).all(axis=1)) < 0.6
    lung = [(low, high) for low, high in (draw_window(rng, Modality.CT) for _ in range(300)) if low < -2]
    assert lung, "the lung window shows air, 1200 HU below soft tissue"


def test_augmentation_keeps_ranges_and_moves_image_and_target_alike() -> None:
    targets = torch.zeros(60, 2, 32, 32)
    targets[:, :, 6:16, 10:26] = 1
    frames = targets[:, :, None].expand(-1, -1, 3, -1, -1) * 0.8 + 0.1
    varied, moved = augment(frames, targets, torch.Generator().manual_seed(0))
    assert varied.shape == frames.shape
    assert 0 <= varied.min() <= varied.max() <= 1
    assert torch.equal(frames[0, 0, 0], targets[0, 0] * 0.8 + 0.1), "the input stays as it was"
    together = [
        abs(float(torch.corrcoef(torch.stack([v[0, 1].flatten(), m[0].flatten()]))[0, 1]))
        for v, m in zip(varied, moved, strict=True)
    ]
    assert np.median(together) > 0.95
    assert min(together) > 0.5
    changed = [not torch.equal(m, t) for m, t in zip(moved, targets, strict=True)]
    assert 0.4 < np.mean(changed) < 0.95


def test_a_batch_depends_on_its_number_alone(volume: TrainingVolume, tiny_config: TrainConfig) -> None:
    one, other = TrainingBatches([volume], tiny_config), TrainingBatches([volume], tiny_config)
    for step in (3, 0, 2):
        ahead = one[step]
        again = other[step]
        assert ahead.kind is again.kind
        assert torch.equal(ahead.frames, again.frames)
        frames, targets = prepared(ahead, tiny_config, torch.device("cpu"))
        frames_again, targets_again = prepared(again, tiny_config, torch.device("cpu"))
        assert torch.equal(frames, frames_again)
        assert torch.equal(targets, targets_again)
        assert (targets[:, 0].flatten(1).amax(dim=1) > 0).all()
    assert not torch.equal(one[0].frames[0, 0], one[2].frames[0, 0])


def test_the_share_of_clips_grows(volume: TrainingVolume, tiny_config: TrainConfig) -> None:
    schedule = replace(tiny_config.schedule, steps=60, clip_share=(0.0, 1.0), clip_start=0.5, images=1)
    sampling = SamplingConfig({"scans": 1.0})
    batches = TrainingBatches([volume], replace(tiny_config, schedule=schedule, sampling=sampling))
    assert all(batches[step].kind is StepKind.IMAGES for step in range(0, 30, 6))
    assert all(batches[step].kind is StepKind.CLIPS for step in range(30, 60, 6))
    assert batches[30].frames.shape == (1, 3, 3, 64, 64)
