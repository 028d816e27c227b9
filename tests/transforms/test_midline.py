"""The plane between left and right: made bodies that are shifted, cut and turned, and what says nothing of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from volseg.geometry import Grid
from volseg.transforms.midline import Midline, find_midline
from volseg.transforms.windows import IntensityWindow

WINDOW = IntensityWindow(0, 1)
SHAPE = (96, 110, 90)
SPACING_MM = 2.0


def head(yaw: float = 0.0, roll: float = 0.0, shift_mm: float = 0.0) -> tuple[torch.Tensor, Grid]:
    """A made head whose halves share most of their texture, turned (in degrees) and moved to the right."""
    rng = np.random.default_rng(3)
    axes = [np.linspace(-1, 1, n) for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2 < 1
    texture = gaussian_filter(rng.normal(size=SHAPE), 5)
    alone = gaussian_filter(rng.normal(size=SHAPE), 5)
    both = texture + texture[::-1] + 0.3 * alone
    values = np.where(inside, 0.55 + 0.15 * both / both.std(), 0).clip(0, 1)
    grid = Grid(SHAPE, np.diag([SPACING_MM] * 3 + [1.0]))
    a, b = np.radians([yaw, roll])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]]
    )
    middle = (np.array(SHAPE) - 1) / 2
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    moved = middle + np.array([shift_mm / SPACING_MM, 0, 0])
    source = (voxels - moved) @ turn + middle
    drawn = map_coordinates(values, source.transpose(3, 0, 1, 2), order=1, mode="constant").astype(np.float32)
    return torch.from_numpy(drawn)[None], grid


def normal(yaw: float, roll: float) -> np.ndarray:
    a, b = np.radians([yaw, roll])
    return np.array([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)])


@pytest.mark.parametrize(
    ("yaw", "roll", "shift_mm"), [(0, 0, 0), (0, 0, 24), (0, 0, -40), (18, 0, 0), (0, -12, 10), (-9, 9, -16)]
)
def test_the_plane_of_a_head_that_is_turned_and_moved(yaw: float, roll: float, shift_mm: float) -> None:
    image, grid = head(yaw, roll, shift_mm)
    found = find_midline(image, grid, WINDOW)
    assert found.sure, found.reason
    angle = np.degrees(np.arccos(min(1.0, found.normal @ normal(yaw, roll))))
    assert angle < 1.5
    centre = grid.to_ras_mm((np.array(SHAPE) - 1) / 2) + np.array([shift_mm, 0, 0])
    assert abs(found.right_of(centre[None])[0]) < 1.0


@pytest.mark.parametrize("cut", [(24, 0), (0, 30), (38, 0)])
def test_the_plane_of_a_head_of_which_one_side_is_cut_off(cut: tuple[int, int]) -> None:
    image, grid = head()
    part = slice(cut[0], SHAPE[0] - cut[1])
    found = find_midline(image[:, part], grid.cropped((cut[0], 0, 0), image[:, part].shape[1:]), WINDOW)
    assert found.sure, found.reason
    assert found.offset_mm == pytest.approx((SHAPE[0] - 1) / 2 * SPACING_MM, abs=1.0)


@pytest.mark.parametrize("part", [slice(0, 44), slice(60, 96)])
def test_one_half_alone_says_nothing(part: slice) -> None:
    image, grid = head()
    found = find_midline(image[:, part], grid.cropped((part.start, 0, 0), image[:, part].shape[1:]), WINDOW)
    assert not found.sure
    assert "unsure" in str(found)


def test_an_empty_image_says_nothing() -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    found = find_midline(torch.zeros(1, 20, 20, 20), grid, WINDOW)
    assert not found.sure
    assert found.offset_mm == pytest.approx(9.5)


def test_distances_are_positive_to_the_right() -> None:
    plane = Midline.at(4.0)
    np.testing.assert_allclose(plane.right_of(np.array([[5.0, 0, 0], [1.0, 9, 9]])), [1.0, -3.0])
