from __future__ import annotations

import numpy as np
import torch

from volseg.training import prompts


def disc(x: int, y: int, radius: float, side: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_tight_box_is_on_the_outer_faces() -> None:
    mask = np.zeros((32, 32), bool)
    mask[5:9, 10:20] = True
    np.testing.assert_array_equal(prompts.tight_box(mask), [[9.5, 4.5], [19.5, 8.5]])


def test_boxes_are_exact_or_a_little_off() -> None:
    masks = np.stack([disc(30, 25, 12)] * 300)
    corners, labels = prompts.boxes(np.random.default_rng(0), masks)
    off = corners - prompts.tight_box(masks[0])
    exact = (off == 0).all(axis=(1, 2))
    assert 0.15 < exact.mean() < 0.35
    assert 0.3 < np.abs(off[~exact]).mean() < 3
    assert np.abs(off).max() <= 0.25 * 25 + 1 + 0.02 * 25 + 1e-3
    assert (corners[:, 1] > corners[:, 0]).all()
    np.testing.assert_array_equal(labels, np.tile([2, 3], (300, 1)))


def test_a_box_around_one_pixel_keeps_a_pixel() -> None:
    mask = np.zeros((200, 64, 64), bool)
    mask[:, 63, 0] = True
    corners, _ = prompts.boxes(np.random.default_rng(1), mask)
    assert (corners[:, 1] - corners[:, 0] > 0.999).all()


def test_clicks_lie_inside_and_sharp_ones_in_the_middle() -> None:
    mask = disc(40, 20, 11)
    rng = np.random.default_rng(2)
    for sharpness, most in ((1.0, 9.0), (8.0, 4.0)):
        clicks = np.array([prompts.click(rng, mask, sharpness) for _ in range(200)])
        assert mask[clicks[:, 1].astype(int), clicks[:, 0].astype(int)].all()
        assert np.hypot(*(clicks - (40, 20)).T).mean() < most / 1.4
    thin = np.zeros((64, 64), bool)
    thin[31, 7] = True
    assert prompts.click(rng, thin) == (7.0, 31.0)


def test_corrections_are_in_the_largest_error_and_say_what_is_true() -> None:
    masks = np.stack([disc(20, 20, 10) | disc(50, 50, 4), disc(20, 20, 10), disc(20, 20, 10)])
    found = np.stack([disc(20, 20, 10), disc(20, 20, 10) | disc(45, 30, 8), masks[2]])
    points, labels = prompts.correction_clicks(np.random.default_rng(3), masks, found, 1)
    assert labels[:2, 0].tolist() == [1, 0]
    assert np.hypot(*(points[0, 0] - (50, 50))) <= 4
    assert np.hypot(*(points[1, 0] - (45, 30))) <= 8
    x, y = points[2, 0].astype(int)
    assert labels[2, 0] == masks[2, y, x], "where nothing is wrong a click still tells the truth"


def test_an_absent_object_gets_clicks_outside() -> None:
    masks = np.zeros((2, 64, 64), bool)
    found = np.stack([disc(30, 30, 6), masks[0]])
    points, labels = prompts.correction_clicks(np.random.default_rng(4), masks, found, 2)
    assert (labels == 0).all()
    assert found[0, int(points[0, 0, 1]), int(points[0, 0, 0])]


def test_an_object_that_fills_the_frame_gets_clicks_inside() -> None:
    full = np.ones((8, 64, 64), bool)
    _, labels = prompts.correction_clicks(np.random.default_rng(7), full, full, 2)
    assert (labels == 1).all()


def test_scribbles_stay_inside() -> None:
    ring = disc(32, 32, 28) & ~disc(32, 32, 20)
    points, labels = prompts.scribbles(np.random.default_rng(5), np.stack([ring] * 30), 6)
    at = points.round().astype(int)
    assert ring[at[..., 1], at[..., 0]].all()
    assert (labels == 1).all()


def test_rough_masks_resemble_the_target_and_are_never_empty() -> None:
    targets = torch.from_numpy(np.stack([disc(30, 30, 14)] * 40 + [disc(10, 50, 1)] * 5)).float()
    rough = prompts.rough_masks(np.random.default_rng(6), targets)
    both = (rough * targets).sum(dim=(1, 2))
    dice = 2 * both / (rough.sum(dim=(1, 2)) + targets.sum(dim=(1, 2)))
    assert (rough.sum(dim=(1, 2)) > 0).all()
    assert float(dice[:40].min()) > 0.6
    assert float(dice[:40].mean()) < 0.98
    assert set(rough.unique().tolist()) == {0.0, 1.0}


def test_a_target_thinner_than_a_pixel_stays() -> None:
    faint = torch.zeros(2, 8, 8)
    faint[0, 3, 3] = 0.2
    assert prompts.solid(faint)[0].sum() == 1
    assert not prompts.solid(faint)[1].any()
