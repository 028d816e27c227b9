"""From prompts in space to voxels in the file, with a network whose answer is known and with real SAM 2 parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.inferers.bright_network import FORMAT, BrightNetwork, CopyNetwork
from volseg.data.object_mask import ObjectMask
from volseg.errors import Cancelled, PromptError
from volseg.geometry import Frame, Grid, Plane, all_orientations
from volseg.inferers.slice_propagation import SlicePropagationInferer
from volseg.inferers.slices.encoding import SliceEncoding
from volseg.inferers.slices.frames import Channels, FrameFormat
from volseg.inferers.slices.plan import plan_object
from volseg.inferers.slices.zoom import ZoomSettings
from volseg.inferers.tracking import TrackSettings
from volseg.networks.sam2.config import Sam2Spec
from volseg.networks.sam2.network import Sam2Network
from volseg.prompts import Box, Lasso, MaskPrompt, Point, Prompt, PromptedObject, PromptKind, PromptSet, Scribble

GRID = Grid((60, 50, 24), np.array([[-1.0, 0, 0, 40], [0, -1.2, 0, 20], [0, 0, 3.0, -26], [0, 0, 0, 1]]))
CENTRE_IJK = np.array([33.0, 22.0, 13.0])
AXES_MM = np.array([12.0, 9.0, 16.0])
"""Half axes of the ellipsoid along x, y, z: no two views look alike."""

WHOLE = ZoomSettings(below=0)


def ellipsoid(grid: Grid) -> NDArray[np.bool_]:
    positions = grid.to_ras_mm(np.stack(np.indices(grid.shape), axis=-1)) - GRID.to_ras_mm(CENTRE_IJK)
    return ((positions / AXES_MM) ** 2).sum(axis=-1) <= 1


def phantom(grid: Grid = GRID):
    from monai.data import MetaTensor

    return MetaTensor(np.where(ellipsoid(grid), 100, 0)[None].astype(np.int16), affine=grid.affine_ras)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def at(*offset: float) -> tuple[float, float, float]:
    i, j, k = CENTRE_IJK + offset
    return float(i), float(j), float(k)


def run(image, *prompts: Prompt, zoom: ZoomSettings = WHOLE, plane: Plane | None = None) -> ObjectMask:
    inferer = SlicePropagationInferer(FORMAT, zoom, window="0,100", plane=plane)
    encoding = inferer.encode(image, BrightNetwork())
    said = PromptSet.of(GRID, prompts).on_grid(encoding.grid)
    return inferer.segment(encoding, said)[0]


KEY_SLICE = np.zeros(GRID.shape, dtype=bool)
KEY_SLICE[:, :, 13] = ellipsoid(GRID)[:, :, 13]

KINDS: dict[str, Prompt] = {
    "point": Point(at(0, 0, 0), Frame.IJK),
    "box_2d": Box(at(-12, -8, 0), at(12, 8, 0), Frame.IJK),
    "box_3d": Box(at(-12, -8, -6), at(12, 8, 6), Frame.IJK),
    "scribble": Scribble((at(-5, 0, 0), at(5, 1, 0)), Frame.IJK),
    "lasso": Lasso((at(-8, -5, 0), at(8, -5, 0), at(0, 6, 0)), Frame.IJK),
    "mask": MaskPrompt(KEY_SLICE, GRID),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_gives_the_bright_object(kind: str) -> None:
    assert KINDS[kind].kind == PromptKind(kind)
    found = run(phantom(), KINDS[kind]).full()
    truth = ellipsoid(GRID)
    if kind == "lasso":  # a mask prompt is the answer on its own slice
        found, truth = np.delete(found, 13, axis=2), np.delete(truth, 13, axis=2)
    assert dice(found, truth) > 0.93


@pytest.mark.parametrize("axcodes", list(all_orientations()))
def test_the_orientation_on_disk_changes_nothing(axcodes: str) -> None:
    grid = GRID.reoriented(axcodes)
    stored = run(phantom(grid), KINDS["box_2d"])
    reference = run(phantom(), KINDS["box_2d"])
    matrix = GRID.reorientation(axcodes)
    index = np.stack(np.indices(grid.shape), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    expected = reference.full()[tuple(np.moveaxis(index.astype(int), -1, 0))]
    assert np.array_equal(stored.full(), expected)
    assert dice(stored.full(), ellipsoid(grid)) > 0.93


def test_oblique_grids() -> None:
    angle = np.radians(25)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    centre = np.append(GRID.to_ras_mm(CENTRE_IJK), 1)
    shift = np.eye(4)
    shift[:3, 3] = centre[:3] - (turn @ centre)[:3]
    grid = Grid(GRID.shape, shift @ turn @ GRID.affine_ras)
    assert grid.is_oblique
    found = run(phantom(grid), Point(tuple(centre[:3]), Frame.RAS)).full()
    assert dice(found, ellipsoid(grid)) > 0.93


@pytest.mark.parametrize("plane", Plane)
def test_any_plane(plane: Plane) -> None:
    assert dice(run(phantom(), KINDS["point"], plane=plane).full(), ellipsoid(GRID)) > 0.93


def test_a_3d_box_limits_the_slices() -> None:
    low, high = at(-12, -8, -2), at(12, 8, 3)
    found = run(phantom(), Box(low, high, Frame.IJK)).full()
    occupied = np.flatnonzero(found.any(axis=(0, 1)))
    assert (occupied[0], occupied[-1]) == (11, 16)
    assert dice(found[:, :, 11:17], ellipsoid(GRID)[:, :, 11:17]) > 0.93


def test_slices_beyond_the_object_are_not_encoded() -> None:
    inferer = SlicePropagationInferer(FORMAT, WHOLE, TrackSettings(stop_after_empty=2), window="0,100")
    encoding = inferer.encode(phantom(), BrightNetwork())
    inferer.segment(encoding, PromptSet.of(GRID, [KINDS["point"]]))
    occupied = int(ellipsoid(GRID).any(axis=(0, 1)).sum())
    assert occupied < encoding.encodes <= occupied + 4 < GRID.shape[2]


def test_the_network_sees_the_click_where_the_tissue_is() -> None:
    network = BrightNetwork()
    inferer = SlicePropagationInferer(FORMAT, WHOLE, window="0,100")
    encoding = inferer.encode(phantom(), network)
    inferer.segment(encoding, PromptSet.of(GRID, [Point(at(3, -2, 0), Frame.IJK)]))
    # Axial display: rows run to posterior (j here), columns to the left (i here); 60 columns and 50 rows fill 128.
    expected = [(CENTRE_IJK[0] + 3 + 0.5) * 128 / 60 - 0.5, (CENTRE_IJK[1] - 2 + 0.5) * 128 / 50 - 0.5]
    np.testing.assert_allclose(network.decoded_points[0].reshape(2), expected, atol=1e-4)


def test_prompts_in_two_planes_are_fused() -> None:
    axial, sagittal = KINDS["box_2d"], Box(at(0, -8, -6), at(0, 8, 6), Frame.IJK)
    inferer = SlicePropagationInferer(FORMAT, WHOLE, window="0,100")
    encoding = inferer.encode(phantom(), BrightNetwork())
    found = inferer.segment(encoding, PromptSet.of(GRID, [axial, sagittal]))[0]
    assert {key[1] for key in encoding._tracks} == {Plane.AXIAL, Plane.SAGITTAL}
    assert dice(found.full(), ellipsoid(GRID)) > 0.95


def test_a_small_object_is_zoomed_and_a_cut_one_widened() -> None:
    grid = Grid((200, 200, 24), GRID.affine_ras)
    settings = ZoomSettings(fill=0.4, below=0.25)
    inferer = SlicePropagationInferer(FORMAT, settings, window="0,100")
    encoding = inferer.encode(phantom(grid), BrightNetwork())
    whole = dice(run(phantom(grid), KINDS["box_2d"]).full(), ellipsoid(grid))
    zoomed = inferer.segment(encoding, PromptSet.of(grid, [KINDS["box_2d"]]))[0]
    crops = [key[2] for key in encoding._tracks]
    assert [(crop.rows, crop.columns) for crop in crops] == [(53, 64)]  # 25 mm fill 0.4 of 64 mm
    assert dice(zoomed.full(), ellipsoid(grid)) > max(0.95, whole)

    small = Box(at(-2, -2, 0), at(2, 2, 0), Frame.IJK)
    widened = inferer.segment(encoding, PromptSet.of(grid, [small]))[0]
    assert dice(widened.full(), ellipsoid(grid)) > 0.95


def test_clicks_alone_choose_the_crop_from_the_first_answer() -> None:
    grid = Grid((200, 200, 24), GRID.affine_ras)
    inferer = SlicePropagationInferer(FORMAT, ZoomSettings(), window="0,100")
    encoding = inferer.encode(phantom(grid), BrightNetwork())
    found = inferer.segment(encoding, PromptSet.of(grid, [KINDS["point"]]))[0]
    assert {(key[2].rows, key[2].columns) for key in encoding._tracks} == {(53, 64)}
    assert dice(found.full(), ellipsoid(grid)) > 0.95


def test_an_object_that_is_not_there_gives_an_empty_mask_and_says_so() -> None:
    from monai.data import MetaTensor

    nothing = MetaTensor(np.zeros((1, *GRID.shape), dtype=np.int16), affine=GRID.affine_ras)
    found = run(nothing, KINDS["box_2d"])
    assert found.voxels == 0
    assert found.presence is not None
    assert found.presence < 0.01
    assert run(phantom(), KINDS["box_2d"]).presence > 0.99


def test_only_negative_prompts_are_refused() -> None:
    with pytest.raises(PromptError, match="object 1 has only negative prompts"):
        run(phantom(), Point(at(0, 0, 0), Frame.IJK, positive=False))


# ---- with real SAM 2 parts and random weights

NANO = FrameFormat(128, Channels.NEIGHBOURS, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def nano() -> Sam2Network:
    torch.manual_seed(5)
    return Sam2Network(Sam2Spec.nano(128))


def textured(seed: int = 0, grid: Grid = GRID):
    from monai.data import MetaTensor
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 2)
    return MetaTensor((1000 * noise + phantom(grid).numpy()[0])[None].astype(np.int16), affine=grid.affine_ras)


def nano_encoding(nano: Sam2Network, image=None) -> tuple[SlicePropagationInferer, SliceEncoding]:
    inferer = SlicePropagationInferer(NANO, WHOLE, TrackSettings(stop_after_empty=None), window="-200,200")
    return inferer, inferer.encode(textured() if image is None else image, nano)


def said(*prompts: Prompt) -> PromptSet:
    return PromptSet.of(GRID, prompts)


def test_a_click_on_a_tracked_slice_counts_and_undo_restores_the_mask(nano: Sam2Network) -> None:
    inferer, encoding = nano_encoding(nano)
    box, click = KINDS["box_2d"], Point(at(4, 3, 5), Frame.IJK, positive=False)
    before = inferer.segment(encoding, said(box), exact=True)[0].full()
    after = inferer.segment(encoding, said(box, click), exact=True)[0].full()
    assert not np.array_equal(before[:, :, 18], after[:, :, 18])
    undone = inferer.segment(encoding, said(box), exact=True)[0].full()
    assert np.array_equal(before, undone)


def test_an_exact_correction_is_a_fresh_run(nano: Sam2Network) -> None:
    inferer, encoding = nano_encoding(nano)
    prompts = [KINDS["box_2d"], Point(at(4, 3, 5), Frame.IJK), Point(at(-3, 0, -4), Frame.IJK, positive=False)]
    for count in (1, 2, 3):
        corrected = inferer.segment(encoding, said(*prompts[:count]), exact=True)[0]
    fresh_inferer, fresh = nano_encoding(nano)
    assert np.array_equal(corrected.full(), fresh_inferer.segment(fresh, said(*prompts))[0].full())


def test_a_correction_starts_from_the_corrections_before_it() -> None:
    inferer = SlicePropagationInferer(FORMAT, WHOLE, window="0,100")
    encoding = inferer.encode(phantom(), CopyNetwork())
    box = Box(at(-8, -8, 0), at(8, 8, 0), Frame.IJK)
    first, second, away = (48, 34, 15), (15, 34, 17), (48, 34, 18)
    clicks = [Point(first, Frame.IJK), Point(second, Frame.IJK), Point(away, Frame.IJK, positive=False)]
    both = inferer.segment(encoding, said(box, *clicks[:2]))[0].full()
    assert both[first]
    assert both[48, 34, 17]
    assert both[second]
    assert not both[15, 34, 15]
    # What only a correction brought can be taken away again, beyond the slice where it was said.
    without = inferer.segment(encoding, said(box, *clicks))[0].full()
    assert without[48, 34, 17]
    assert not without[48, 34, 18:].any()
    assert without[15, 34, 18:].all()


def test_a_click_in_the_middle_of_a_mask_takes_it_away() -> None:
    inferer = SlicePropagationInferer(FORMAT, WHOLE, window="0,100")
    encoding = inferer.encode(phantom(), CopyNetwork())
    box = Box(at(-8, -8, 0), at(8, 8, 0), Frame.IJK)
    k = int(CENTRE_IJK[2]) + 4
    edge = int(np.flatnonzero(ellipsoid(GRID)[:, 22, 13])[-1])
    middle = inferer.segment(encoding, said(box, Point(at(0, 0, 4), Frame.IJK, positive=False)))[0].full()
    assert not middle[:, :, k:].any()
    assert middle[33, 22, 13]
    rim = inferer.segment(encoding, said(box, Point((float(edge), 22.0, float(k)), Frame.IJK, positive=False)))[
        0
    ].full()
    assert rim[33, 22, k]
    assert not rim[edge, 22, k]


def test_corrections_come_in_the_order_in_which_they_were_said() -> None:
    stroke = Scribble(((30.0, 22.0, 9.0), (30.0, 22.0, 10.0)), Frame.IJK)
    prompts = (KINDS["box_2d"], Point(at(0, 0, 5), Frame.IJK), stroke, Point(at(1, 0, 5), Frame.IJK))
    item = PromptedObject(1, prompts)
    plan = plan_object(item, GRID)[0]
    box_slice = next(iter(plan.anchors))
    forward = [plan.view.count - 1 - box_slice - 5, box_slice + 5]
    assert len(plan.corrections) == 2
    assert plan.corrections[0][0] in forward
    assert len(plan.corrections[1]) == 2


def test_objects_together_are_objects_alone(nano: Sam2Network) -> None:
    one, other = KINDS["box_2d"], Box(at(-20, -10, 2), at(5, 10, 2), Frame.IJK)
    inferer, encoding = nano_encoding(nano)
    both = PromptSet(GRID, (PromptedObject(3, (one,)), PromptedObject(7, (other,))))
    together = inferer.segment(encoding, both)
    assert [mask.object_id for mask in together] == [3, 7]
    for mask, prompt in zip(together, (one, other), strict=True):
        fresh_inferer, fresh = nano_encoding(nano)
        alone = fresh_inferer.segment(fresh, said(prompt))[0]
        assert dice(mask.full(), alone.full()) > 0.999


def test_cancelling_leaves_earlier_tracks_as_they_were(nano: Sam2Network) -> None:
    inferer, encoding = nano_encoding(nano)
    before = inferer.segment(encoding, said(KINDS["box_2d"]))[0].full()
    calls = []

    def stop_soon(fraction: float, text: str) -> bool:
        calls.append(fraction)
        return len(calls) < 5

    with pytest.raises(Cancelled):
        inferer.segment(encoding, said(KINDS["box_2d"], Point(at(4, 3, 5), Frame.IJK)), progress=stop_soon)
    assert calls == sorted(calls)
    assert np.array_equal(before, inferer.segment(encoding, said(KINDS["box_2d"]))[0].full())


def test_masks_are_shown_as_they_grow(nano: Sam2Network) -> None:
    inferer, encoding = nano_encoding(nano)
    shown: list[ObjectMask] = []
    final = inferer.segment(encoding, said(KINDS["box_2d"]), partial=shown.append)[0]
    assert shown[0].block.shape[2] == 1, "the prompted slice comes first"
    key = int(CENTRE_IJK[2])
    assert np.array_equal(shown[0].full()[:, :, key], final.full()[:, :, key])


def test_as_a_monai_inferer(nano: Sam2Network) -> None:
    from monai.data import list_data_collate

    inferer, encoding = nano_encoding(nano)
    prompts = PromptSet(GRID, (PromptedObject(1, (KINDS["box_2d"],)), PromptedObject(2, (KINDS["point"],))))
    expected = np.zeros(GRID.shape)
    for mask in inferer.segment(encoding, prompts):
        expected[mask.full()] = mask.object_id
    collated = list_data_collate([{"image": textured()}])["image"]
    for batch in (collated, textured()[None]):
        labels = inferer(batch, nano, prompts=[prompts.dumps()])
        assert tuple(labels.shape) == (1, 1, *GRID.shape)
        assert np.array_equal(labels[0, 0].numpy(), expected)
    with pytest.raises(PromptError, match="1 images came with 2 prompt strings"):
        inferer(textured()[None], nano, prompts=["{}", "{}"])


def test_encoded_slices_on_disk_serve_another_run(nano: Sam2Network, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        inferer = SlicePropagationInferer(NANO, WHOLE, window="-200,200", spill_folder=tmp_path, weights_sha256="abc")
        encoding = inferer.encode(textured(), nano)
        results.append((inferer.segment(encoding, said(KINDS["box_2d"]))[0].full(), encoding.encodes))
    assert results[0][1] > 0
    assert results[1][1] == 0
    assert np.array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAR"])
def test_a_real_volume_in_four_orientations(nano: Sam2Network, shared_data: Path, axcodes: str) -> None:
    from monai.data import MetaTensor

    from volseg.data import read_image

    image = read_image(shared_data / "small" / "ts_example" / "example_ct_sm.nii.gz")
    grid = Grid.of(image)
    low, high = np.array(grid.shape) // 3, 2 * np.array(grid.shape) // 3
    box = PromptSet.of(grid, [Box(tuple(low), tuple(high), Frame.IJK)])
    inferer = SlicePropagationInferer(NANO, ZoomSettings())
    expected = inferer.segment(inferer.encode(image, nano), box)[0].full()

    other = grid.reoriented(axcodes)
    matrix = grid.reorientation(axcodes)
    index = np.stack(np.indices(other.shape), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    where = tuple(np.moveaxis(index.astype(int), -1, 0))
    stored = MetaTensor(image.numpy()[0][where][None].copy(), affine=other.affine_ras)
    found = inferer.segment(inferer.encode(stored, nano), box.on_grid(other))[0].full()
    assert expected.sum() > 100
    assert dice(found, expected[where]) >= 0.98
