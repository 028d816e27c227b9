"""A second look in 3D: lattices, what the network is shown, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from grid_strategies import ORIENTATIONS, grids, make_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Frame, Grid
from volseg.inferers.refine.answer import Belief, carried
from volseg.inferers.refine.channels import (
    POINT_PEAK,
    intensity_channels,
    likeness_channels,
    prompt_channels,
    show_image,
    show_mask,
)
from volseg.inferers.refine.lattice import Lattice, choose_lattice
from volseg.inferers.refine.refiner import Refiner
from volseg.inferers.refine.settings import RefineSettings
from volseg.networks.refine.config import RefineSpec
from volseg.networks.refine.network import Channel
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, Scribble
from volseg.transforms.windows import IntensityWindow

GRID = make_grid((40, 36, 20), (1.0, 1.2, 2.5), (-12.0, 4.0, 90.0))
WINDOW = IntensityWindow(0.0, 1.0)
INSIDE, OUTSIDE, BOX, DRAWN = range(4)


def ball(grid: Grid, centre_ijk: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    offset = (np.stack(np.indices(grid.shape), axis=-1) - centre_ijk) * grid.spacing_mm
    return (offset**2).sum(axis=-1) < radius_mm**2


def stored(array: np.ndarray, grid: Grid, axcodes: str) -> tuple[np.ndarray, Grid]:
    """The same voxels with axes towards ``axcodes``, by indexing each voxel's place."""
    turned = grid.reoriented(axcodes)
    index = np.round(turned.ijk_from(grid)[:3, :3]).astype(int)
    order = np.abs(index).argmax(axis=1)
    result = array.transpose(*order)
    return np.ascontiguousarray(np.flip(result, [a for a in range(3) if index[a, order[a]] < 0])), turned


class Threshold(torch.nn.Module):
    """The object is whatever is brighter than the middle of the window."""

    def __init__(self, answer: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.spec = RefineSpec()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.answer = answer or (lambda channels: channels[:, Channel.IMAGE, None])
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(channels.shape))
        return self.answer(channels)


@given(grids(largest=30), st.data())
@settings(max_examples=40, deadline=None)
def test_a_lattice_keeps_what_is_linear(grid: Grid, data: st.DataObject) -> None:
    first = np.array([data.draw(st.integers(0, n - 1)) for n in grid.shape])
    last = np.array([data.draw(st.integers(int(f), n - 1)) for f, n in zip(first, grid.shape, strict=True)])
    lattice = choose_lattice(grid, first, last, RefineSettings(samples=4096), 4)
    assert all(n % 4 == 0 for n in lattice.shape)
    slope = np.array([0.3, -0.7, 0.2])
    values = torch.from_numpy(np.tensordot(np.indices(grid.shape), slope, axes=(0, 0)))
    found = lattice.sample(lambda where: values[where])
    # Each sample's place, by asking where voxel indices go and turning that around.
    corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    to_lattice = lattice.positions(corners)
    matrix = (to_lattice[1:] - to_lattice[0]).T
    places = np.stack(np.indices(lattice.shape), axis=-1).reshape(-1, 3)
    voxels = (places - to_lattice[0]) @ np.linalg.inv(matrix).T
    reach = np.maximum(lattice.steps, 1)
    low, high = [s.start for s in lattice.block], [s.stop - 1 for s in lattice.block]
    inner = ((voxels - reach >= low) & (voxels + reach <= high)).all(axis=1)
    # Where samples are coarser than voxels, the middle of a tent that is not centred on one lies up to 0.086 voxels off
    # (the largest over all widths and offsets, at a width of 1.71).
    tolerance = 1e-3 if (lattice.steps <= 1).all() else 0.086 * np.abs(slope).sum() + 1e-3
    assert np.allclose(found.numpy().reshape(-1)[inner], (voxels @ slope)[inner], atol=tolerance)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_a_lattice_does_not_depend_on_how_the_image_is_stored(axcodes: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal(GRID.shape).astype(np.float32)
    expected = choose_lattice(GRID, np.array([8, 5, 3]), np.array([22, 30, 9]), RefineSettings(), 8)
    turned, grid = stored(image, GRID, axcodes)
    corners = grid.to_ijk(GRID.to_ras_mm(np.array([[8.0, 5, 3], [22, 30, 9]]))).round().astype(int)
    lattice = choose_lattice(grid, corners.min(axis=0), corners.max(axis=0), RefineSettings(), 8)
    assert lattice.shape == expected.shape
    a = expected.sample(lambda where: torch.from_numpy(image[where]))
    b = lattice.sample(lambda where: torch.from_numpy(turned[where]))
    assert torch.allclose(a, b, atol=1e-5)
    assert np.array_equal(found(lattice, b).full(), stored(found(expected, a).full(), GRID, axcodes)[0])
    point = np.array([[12.3, 20.1, 5.2]])
    there = grid.to_ijk(GRID.to_ras_mm(point))
    assert np.allclose(expected.positions(point), lattice.positions(there), atol=1e-6)


@pytest.mark.parametrize(
    ("size_mm", "space_mm"), [((40, 40, 40), (20, 20, 20)), ((10, 10, 80), (5, 5, 40)), ((40, 40, 4), (20, 20, 20))]
)
def test_space_around_an_object_follows_its_shape(
    size_mm: tuple[int, int, int], space_mm: tuple[int, int, int]
) -> None:
    """Half of a side, so that long thin objects keep their samples; flat ones may go on across."""
    grid = make_grid((200, 200, 100), (1.0, 1.0, 2.0))
    spacing = np.array(grid.spacing_mm)
    first = np.array([60, 60, 30])
    last = first + (size_mm / spacing).astype(int) - 1
    lattice = choose_lattice(grid, first, last, RefineSettings(), 8)
    assert np.allclose((first - 0.5 - lattice.low) * spacing, space_mm)
    assert np.allclose((lattice.high - (last + 0.5)) * spacing, space_mm)


@pytest.mark.parametrize("radius_mm", [4.0, 12.0])
def test_a_mask_comes_back_from_a_lattice(radius_mm: float) -> None:
    mask = ObjectMask.of(1, GRID, ball(GRID, (20.4, 15.2, 9.7), radius_mm))
    first, last = np.array(mask.start_ijk), np.array(mask.start_ijk) + mask.block.shape - 1
    lattice = choose_lattice(GRID, first, last, RefineSettings(), 8)
    back = found(lattice, show_mask(lattice, mask) - 0.5)
    dice = 2 * (back.full() & mask.full()).sum() / (back.voxels + mask.voxels)
    assert dice > (0.97 if radius_mm > 5 else 0.93)


def found(lattice: Lattice, values: torch.Tensor) -> ObjectMask:
    inside, start = lattice.above_zero(values)
    return ObjectMask.of(1, lattice.grid, inside, None, start)


def test_only_what_samples_above_zero_have_a_say_in_is_computed() -> None:
    lattice = choose_lattice(GRID, np.array([4, 4, 3]), np.array([34, 30, 15]), RefineSettings(samples=2000), 8)
    values = torch.full(lattice.shape, -1.0)
    assert lattice.above_zero(values)[0].size == 0
    values[3, 4, 2] = 5.0
    inside, _ = lattice.above_zero(values)
    whole = np.prod([one.stop - one.start for one in lattice.block])
    assert 0 < inside.sum() < inside.size < whole / 20


def test_fine_images_are_averaged() -> None:
    grid = make_grid((200, 200, 200), (0.2, 0.2, 0.2))
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(grid.shape).astype(np.float32)
    lattice = choose_lattice(grid, np.zeros(3, int), np.full(3, 199), RefineSettings(samples=8000), 8)
    assert (lattice.steps * grid.spacing_mm > 1).all()
    assert float(lattice.sample(lambda where: torch.from_numpy(noise[where])).std()) < 0.1


def whole_lattice() -> Lattice:
    """One sample a voxel, over all of the grid."""
    shape = (40, 36, 20)
    return Lattice(GRID, (-0.5, -0.5, -0.5), (39.5, 35.5, 19.5), shape)


def shown(*prompts: Prompt) -> np.ndarray:
    return prompt_channels(whole_lattice(), prompts).numpy()


def test_clicks_are_bumps_where_they_lie() -> None:
    channels = shown(Point((12, 30, 7), Frame.IJK), Point((30, 4, 15), Frame.IJK, positive=False))
    assert np.unravel_index(channels[INSIDE].argmax(), GRID.shape) == (12, 30, 7)
    assert np.unravel_index(channels[OUTSIDE].argmax(), GRID.shape) == (30, 4, 15)
    assert channels[INSIDE].max() == channels[OUTSIDE].max() == 2
    assert not channels[BOX:].any()
    assert channels[INSIDE, 15, 30, 7] == pytest.approx(2 * np.exp(-3 / 4))


def test_a_scribble_is_a_ridge() -> None:
    channels = shown(Scribble(((5, 5, 5), (25, 5, 5)), Frame.IJK))
    assert (channels[INSIDE, 5:26, 5, 5] > 1.5).all()
    assert channels[INSIDE, 15, 11, 5] == pytest.approx(2 * np.exp(-6 / 4))


def test_a_flat_box_speaks_of_its_slice_and_a_solid_one_of_everything() -> None:
    flat = shown(Box((10, 8, 6), (20, 18, 6), Frame.IJK))[BOX]
    expected = np.zeros(GRID.shape)
    expected[:, :, 6] = -1
    expected[10:21, 8:19, 6] = 1
    assert np.allclose(flat, expected)
    solid = shown(Box((10, 8, 3), (20, 18, 9), Frame.IJK))[BOX]
    expected = np.full(GRID.shape, -1.0)
    expected[10:21, 8:19, 3:10] = 1
    assert np.allclose(solid, expected)


@pytest.mark.parametrize("turned", [False, True])
def test_two_flat_boxes_do_not_deny_each_other(turned: bool) -> None:
    boxes = [Box((10, 8, 6), (20, 18, 6), Frame.IJK), Box((15, 8, 2), (15, 30, 12), Frame.IJK)]
    both = shown(*boxes[::-1] if turned else boxes)[BOX]
    assert (both[10:21, 8:19, 6] == 1).all()
    assert (both[15, 8:31, 2:13] == 1).all()
    assert both[30, 30, 6] == both[15, 2, 4] == -1
    assert both[30, 30, 10] == 0


def test_a_flat_box_is_seen_on_a_coarse_lattice() -> None:
    lattice = Lattice(GRID, (-0.5, -0.5, -0.5), (39.5, 35.5, 19.5), (8, 8, 8))
    box = prompt_channels(lattice, [Box((10, 8, 6), (20, 18, 6), Frame.IJK)])[BOX]
    assert float(box.max()) == 1
    assert box.amax(dim=(0, 1)).count_nonzero() == 1


def test_what_is_drawn_on_a_slice() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[10:15, 20:30, 4] = True
    assert np.allclose(shown(MaskPrompt(mask, GRID))[DRAWN], mask)
    ring = ((10, 10, 9), (20, 10, 9), (20, 20, 9), (10, 20, 9))
    drawn = shown(Lasso(ring, Frame.IJK))
    assert drawn[DRAWN, 15, 15, 9] == 1
    assert drawn[DRAWN, 30, 30, 9] == drawn[DRAWN, 15, 15, 8] == 0
    taken_away = shown(Lasso(ring, Frame.IJK, positive=False))
    assert taken_away[OUTSIDE, 15, 15, 9] == 2
    assert taken_away[OUTSIDE, 30, 30, 9] < 0.1
    assert not taken_away[DRAWN].any()


def test_a_mask_on_several_slices_is_not_drawn() -> None:
    assert not shown(MaskPrompt(ball(GRID, (20, 15, 9), 8), GRID)).any()


def test_intensities_are_compared_with_those_of_the_draft() -> None:
    image = torch.full((8, 8, 8), 0.2)
    image[:4] = torch.linspace(0.6, 0.8, 256).reshape(4, 8, 8)
    draft = torch.zeros(8, 8, 8)
    draft[:4] = 1
    plain, relative = intensity_channels(image, draft)
    inside = image[:4]
    assert torch.allclose(plain, (image - 0.5) / 0.25)
    spread = inside.std(correction=0)
    assert torch.allclose(relative[:4], (inside - inside.mean()) / spread / 2, atol=1e-5)
    assert float(relative[7, 0, 0]) == -2  # cut off at four standard deviations


def test_places_like_a_clicked_one_are_told() -> None:
    image = torch.zeros(GRID.shape)
    image[10:30, 10:30, 5:15] = 1.0
    image[30:35] = 0.95
    said = prompt_channels(whole_lattice(), [Point((20, 20, 10), Frame.IJK), Point((2, 2, 2), Frame.IJK, False)])
    inside, outside = likeness_channels(image, said[:2]).numpy()
    assert inside[20, 20, 10] == outside[2, 2, 2] == 1
    assert inside[26, 20, 10] == pytest.approx(np.exp(-6 / 16))
    assert inside[32, 20, 10] == pytest.approx(np.exp(-12 / 16 - 0.5), abs=1e-4)  # nearly as bright
    assert inside[20, 20, 2] < 1e-4  # as near, but dark
    assert outside[2, 2, 12] == pytest.approx(np.exp(-10 / 16))
    assert outside[20, 20, 10] < 1e-4
    assert not likeness_channels(image, torch.zeros(2, *GRID.shape)).any()


def test_every_click_of_many_has_its_likeness() -> None:
    image = torch.linspace(0, 1, GRID.shape[0])[:, None, None].expand(GRID.shape).contiguous()
    clicks = [Point((float(i), 18.0, 10.0), Frame.IJK) for i in (5, 20, 35)]
    inside = likeness_channels(image, prompt_channels(whole_lattice(), clicks)[:2])[0]
    assert all(inside[i, 18, 10] == 1 for i in (5, 20, 35))
    assert float(inside[12, 18, 10]) < 0.2


def bright_ball(radius_mm: float = 14.0) -> tuple[np.ndarray, torch.Tensor]:
    mask = ball(GRID, (20.0, 17.0, 10.0), radius_mm)
    return mask, torch.from_numpy(mask.astype(np.float32))


def test_the_block_grows_until_it_holds_the_object() -> None:
    mask, image = bright_ball()
    seed = ObjectMask.of(3, GRID, ball(GRID, (20.0, 17.0, 10.0), 2.0), 0.7)
    network = Threshold()
    found = Refiner(network, RefineSettings(trust=0)).refine(image, WINDOW, seed, [])
    assert len(network.shapes) > 1
    assert 2 * (found.full() & mask).sum() / (found.voxels + mask.sum()) > 0.95
    assert (found.object_id, found.presence) == (3, 0.7)


def test_a_click_alone_finds_an_object() -> None:
    mask, image = bright_ball(8.0)
    nothing = ObjectMask.of(1, GRID, np.zeros((1, 1, 1), bool), 0.1)
    found = Refiner(Threshold()).refine(image, WINDOW, nothing, [Point((20, 17, 10), Frame.IJK)])
    assert 2 * (found.full() & mask).sum() / (found.voxels + mask.sum()) > 0.9
    assert Refiner(Threshold()).refine(image, WINDOW, nothing, []) is nothing


def test_clicked_voxels_are_what_was_said_of_them() -> None:
    mask, image = bright_ball()
    draft = ObjectMask.of(1, GRID, mask)
    said = [Point((20, 17, 10), Frame.IJK, positive=False), Point((34, 32, 10), Frame.IJK)]
    assert mask[20, 17, 10]
    assert not mask[34, 32, 10]
    found = Refiner(Threshold()).refine(image, WINDOW, draft, said).full()
    assert not found[20, 17, 10]
    assert found[34, 32, 10]
    assert found[20, 17, 14]  # what is not near a click stays


def test_the_draft_counts_where_nobody_clicked() -> None:
    mask, image = bright_ball(8.0)
    far = ball(GRID, (34.0, 8.0, 10.0), 4.0)
    draft = ObjectMask.of(1, GRID, mask | far)
    unsure = Threshold(lambda channels: 0.4 * channels[:, Channel.IMAGE, None])  # logits of -0.8 and 0.8
    doubted = Refiner(unsure, RefineSettings(trust=0.5)).refine(image, WINDOW, draft, []).full()
    assert not doubted[34, 8, 10]
    believed = Refiner(unsure, RefineSettings(trust=1.0)).refine(image, WINDOW, draft, []).full()
    assert believed[34, 8, 10]
    click = Point((34, 8, 8), Frame.IJK, positive=False)
    taken = Refiner(unsure, RefineSettings(trust=1.0)).refine(image, WINDOW, draft, [click]).full()
    assert not taken[34, 8, 8]
    assert taken[20, 17, 10]


@pytest.mark.parametrize(("settled", "stays"), [(0.5, False), (8.0, True)])
def test_corrections_leave_what_is_far_from_clicks_as_it_is(settled: float, stays: bool) -> None:
    mask, image = bright_ball(8.0)  # the network's logits are -2 and 2
    far = ball(GRID, (34.0, 8.0, 10.0), 4.0)
    refiner = Refiner(Threshold(), RefineSettings(settled_inside=settled))
    beside = Point((29, 17, 10), Frame.IJK, positive=False)
    left = refiner.refine(image, WINDOW, ObjectMask.of(1, GRID, mask | far), [beside], correcting=True).full()
    assert left[34, 8, 10] == stays
    refiner = Refiner(Threshold(), RefineSettings(settled_outside=settled))
    click = Point((20, 17, 10), Frame.IJK)
    grown = refiner.refine(image, WINDOW, ObjectMask.of(1, GRID, far), [click], correcting=True).full()
    assert grown[20, 17, 10]
    assert grown[13, 17, 10] != stays


@pytest.mark.parametrize("positive", [True, False])
def test_a_correction_only_adds_or_only_takes_away(positive: bool) -> None:
    _mask, image = bright_ball(8.0)  # the network finds all of the ball, whatever the draft was
    shifted = ball(GRID, (24.0, 17.0, 10.0), 8.0)
    draft = ObjectMask.of(1, GRID, shifted)
    place = (15, 17, 10) if positive else (29, 17, 10)
    click = Point(place, Frame.IJK, positive=positive)
    found = Refiner(Threshold()).refine(image, WINDOW, draft, [click], correcting=True).full()
    assert found[place] == positive
    change = found != shifted
    assert change.sum() > 20
    assert (found[change] == positive).all()
    anew = Refiner(Threshold()).refine(image, WINDOW, draft, [click]).full()
    assert (anew & ~shifted).any()
    assert (shifted & ~anew).any()


@pytest.mark.parametrize("axcodes", ["RAS", "PIL"])
@pytest.mark.parametrize("positive", [True, False])
def test_a_correction_is_seen_around_the_click_before_it_is_done(positive: bool, axcodes: str) -> None:
    plain = make_grid((60, 56, 50), (1.0, 1.0, 1.0))
    offset = np.stack(np.indices(plain.shape), axis=-1) - (30, 28, 25)
    bright = np.sqrt((offset**2).sum(axis=-1))
    # What is wrong of the draft is all of a shell, near the click and far from it.
    thick, thin = bright < 20, bright < 17
    place = np.array([30.0, 28, 43.5])
    turned, grid = stored(thick if positive else thin, plain, axcodes)
    draft = ObjectMask.of(4, grid, stored(thin if positive else thick, plain, axcodes)[0], 0.6)
    image = torch.from_numpy(turned.astype(np.float32))
    click = Point(tuple(grid.to_ijk(plain.to_ras_mm(place))), Frame.IJK, positive=positive)
    network = Threshold()
    refiner = Refiner(network, RefineSettings(samples=200_000, settled_outside=0, settled_inside=0, finest=0.9))
    grown: list[ObjectMask] = []
    found = refiner.refine(image, WINDOW, draft, [click], correcting=True, partial=grown.append)
    alone = refiner.refine(image, WINDOW, draft, [click], correcting=True)
    assert np.array_equal(found.full(), alone.full())
    assert found.start_ijk == alone.start_ijk
    (glance,) = grown
    assert (glance.object_id, glance.presence) == (4, 0.6)
    assert np.prod(network.shapes[0]) <= np.prod(network.shapes[1]) / 2
    change, whole = glance.full() != draft.full(), found.full() != draft.full()
    assert (glance.full()[change] == positive).all()
    # The shell is answered around the click and nowhere else; there, as it is in the end.
    away_mm = np.linalg.norm(
        (np.stack(np.indices(grid.shape), axis=-1) - np.array(click.position)) * grid.spacing_mm, axis=-1
    )
    near = away_mm < 8
    assert (change & near).sum() > 100
    assert np.array_equal(change[near], whole[near])
    assert np.ptp(np.argwhere(change), axis=0).max() < 28
    assert np.ptp(np.argwhere(whole), axis=0).max() > 35


def test_a_first_look_and_one_at_little_are_not_seen_before_they_are_done() -> None:
    _mask, image = bright_ball(4.0)
    draft = ObjectMask.of(1, GRID, ball(GRID, (20.0, 17.0, 10.0), 3.0))
    click = Point((20, 17, 11), Frame.IJK)
    grown: list[ObjectMask] = []
    Refiner(Threshold()).refine(image, WINDOW, draft, [click], partial=grown.append)
    # Here a glance would see nearly all of the block, and take nearly as long.
    small = RefineSettings(samples=16_000)
    Refiner(Threshold(), small).refine(image, WINDOW, draft, [click], correcting=True, partial=grown.append)
    assert not grown


def test_an_object_at_the_border_of_the_image_is_kept_whole() -> None:
    grid = make_grid((30, 30, 6), (1.0, 1.0, 4.0))
    mask = np.zeros(grid.shape, bool)
    mask[:12, 10:20, :] = True
    found = Refiner(Threshold()).refine(
        torch.from_numpy(mask.astype(np.float32)), WINDOW, ObjectMask.of(1, grid, mask), []
    )
    assert np.array_equal(found.full(), mask)


def test_values_that_are_not_finite_do_not_spread() -> None:
    image = torch.ones(GRID.shape)
    image[3, 4, 5] = float("nan")
    image[8, 8, 8] = float("inf")
    lattice = choose_lattice(GRID, np.zeros(3, int), np.array(GRID.shape) - 1, RefineSettings(), 8)
    assert torch.isfinite(show_image(lattice, image, WINDOW)).all()


def test_the_more_is_painted_the_less_the_network_counts() -> None:
    image = torch.zeros(16, 16, 16)
    image[4:12, 4:12, 4:12] = 1.0
    logits = torch.where(image > 0.5, 2.0, -2.0)
    logits[8:12, 8:12, 8:12] = -2.0  # the network is wrong about this corner
    belief = Belief(logits, torch.zeros(image.shape))
    found = []
    for painted in (1, 5):
        prompts = torch.zeros(4, *image.shape)
        prompts[0, 4 : 4 + painted, 4 : 4 + painted, 4 : 4 + painted] = POINT_PEAK
        answer = carried(belief, image, prompts, RefineSettings(), correcting=True)
        found.append(float(answer[8:12, 8:12, 8:12].mean()))
    assert found[0] < 0 < found[1]
