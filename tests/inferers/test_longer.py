"""Long thin answers that end abruptly are made longer and looked at once more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grid_strategies import ORIENTATIONS, make_grid

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Frame, Grid
from volseg.inferers.refine.longer import is_longer, prolonged
from volseg.inferers.refine.refiner import Refiner
from volseg.inferers.refine.settings import RefineSettings
from volseg.networks.refine.config import RefineSpec
from volseg.networks.refine.network import Channel
from volseg.prompts import Box, Point
from volseg.transforms.windows import IntensityWindow

GRID = make_grid((30, 28, 80), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
BOX_2D = Box((10, 9, 40), (20, 19, 40), Frame.IJK)


def tube(first: int, last: int, grid: Grid = GRID) -> np.ndarray:
    i, j, k = np.indices(grid.shape)
    return ((i - 15) ** 2 + (j - 14) ** 2 < 25) & (k >= first) & (k <= last)


def of(mask: np.ndarray, grid: Grid = GRID) -> ObjectMask:
    return ObjectMask.of(4, grid, mask, 0.9)


def test_abrupt_ends_go_on_straight() -> None:
    longer = prolonged(of(tube(20, 59)), [BOX_2D])
    assert longer is not None
    assert (longer.full() == tube(10, 69)).all()
    assert (longer.object_id, longer.presence) == (4, 0.9)


def test_nothing_goes_on_beyond_the_image() -> None:
    longer = prolonged(of(tube(4, 59)), [BOX_2D])
    assert longer is not None
    assert (longer.full() == tube(0, 73)).all()
    assert prolonged(of(tube(0, 79)), [BOX_2D]) is None


def test_only_the_abrupt_end_goes_on() -> None:
    mask = tube(20, 59)
    i, j, k = np.indices(GRID.shape)
    mask |= (k < 20) & ((i - 15) ** 2 + (j - 14) ** 2 < 25 * (1 - ((20 - k) / 12) ** 2))
    longer = prolonged(of(mask), [BOX_2D])
    assert longer is not None
    grown = longer.full()
    assert (grown[:, :, :60] == mask[:, :, :60]).all()
    assert (grown[:, :, 60:] == tube(60, 59 + round(0.25 * 51))[:, :, 60:]).all()


@pytest.mark.parametrize("radii", [(5, 5, 30), (9, 9, 12), (5, 30, 5)])
def test_what_tapers_stays(radii: tuple[int, int, int]) -> None:
    grid = make_grid((40, 70, 80), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    places = (np.stack(np.indices(grid.shape), axis=-1) - (20, 35, 40)) / radii
    assert prolonged(of((places**2).sum(axis=-1) < 1, grid), [BOX_2D]) is None


def test_what_is_compact_or_boxed_in_stays() -> None:
    assert prolonged(of(tube(35, 44)), [BOX_2D]) is None
    assert prolonged(of(tube(20, 59)), [Box((9, 8, 20), (21, 20, 59), Frame.IJK)]) is None
    assert prolonged(of(np.zeros(GRID.shape, bool)), [BOX_2D]) is None


@pytest.mark.parametrize("axcodes", ORIENTATIONS[::7])
def test_storage_does_not_matter(axcodes: str) -> None:
    turned = GRID.reoriented(axcodes)
    index = np.round(turned.ijk_from(GRID)[:3, :3]).astype(int)
    order = np.abs(index).argmax(axis=1)
    flips = [axis for axis in range(3) if index[axis, order[axis]] < 0]

    def stored(mask: np.ndarray) -> np.ndarray:
        return np.flip(mask.transpose(*order), flips)

    longer = prolonged(of(stored(tube(20, 59)), turned), [])
    assert longer is not None
    assert (longer.full() == stored(tube(10, 69))).all()


def test_specks_beyond_an_end_do_not_count() -> None:
    mask = tube(20, 59)
    mask[15, 14, 2] = True
    longer = prolonged(of(mask), [BOX_2D])
    assert longer is not None
    assert (longer.full() == tube(10, 69)).all()
    assert not is_longer(of(mask), of(tube(20, 59)))


def test_longer_is_two_slices_or_more() -> None:
    assert is_longer(of(tube(18, 59)), of(tube(20, 59)))
    assert not is_longer(of(tube(19, 59)), of(tube(20, 59)))


class Timid(torch.nn.Module):
    """Believes in bright samples of its draft, and in no others."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = RefineSpec()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.looks = 0

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        self.looks += 1
        return torch.minimum(channels[:, Channel.IMAGE, None], channels[:, Channel.DRAFT, None])


@pytest.mark.parametrize("said", [BOX_2D, Point((15, 14, 40), Frame.IJK)])
def test_a_second_look_follows_a_tube_to_its_end(said: Box | Point) -> None:
    image = torch.from_numpy(tube(14, 66).astype(np.float32))
    network = Timid()
    found = Refiner(network, RefineSettings(trust=0)).refine(image, IntensityWindow(0, 1), of(tube(25, 55)), [said])
    ends = np.flatnonzero(found.full().any(axis=(0, 1)))[[0, -1]]
    assert (np.abs(ends - (14, 66)) <= 2).all()
    assert network.looks <= 4
