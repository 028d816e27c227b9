"""Each spatial transform, over all orientations: tissue and prompts stay where they were in the patient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Orientation, SpatialCrop, SpatialResample
from transform_phantom import (
    BLOBS,
    as_simpleitk,
    blob_centroids_ras_mm,
    centroid_ras_mm,
    places_ras_mm,
    prompts_on,
    simpleitk_centroids_ras_mm,
    stored,
)

from volseg.errors import GeometryError, PromptError
from volseg.geometry import Frame, Grid, all_orientations
from volseg.prompts import Box, MaskPrompt, Point, PromptKind, PromptSet, Text
from volseg.transforms import CropAroundPromptsd, ReorientWithPromptsd, ResampleWithPromptsd

KEYS = {"keys": "image", "label_keys": "label", "prompts_key": "prompts"}

SPATIAL = {
    "reorient": (lambda: ReorientWithPromptsd(**KEYS, axcodes="PIR"), 0.0),
    "crop": (lambda: CropAroundPromptsd(**KEYS, margin_mm=3.0), 0.0),
    "finer": (lambda: ResampleWithPromptsd(**KEYS, spacing_mm=0.8), 0.5),
    "coarser": (lambda: ResampleWithPromptsd(**KEYS, spacing_mm=1.7), 0.5),
}
"""Name: (transform, how far in voxels of the coarsest spacing a blob's centroid may be off).

Reorientation and cropping move whole voxels: 0. Resampling puts a blob's border on the nearest of the new voxels:
at most half a voxel on either side.
"""


def phantom(axcodes: str, oblique: bool = True) -> dict:
    image, label = stored(axcodes, oblique)
    return {"image": image, "label": label, "prompts": prompts_on(Grid.of(image))}


def test_the_phantom_has_every_kind_of_prompt() -> None:
    assert phantom("RAS")["prompts"].kinds == set(PromptKind)


@pytest.mark.parametrize(
    ("axcodes", "oblique"),
    [(axcodes, True) for axcodes in all_orientations()]
    + [(axcodes, False) for axcodes in ("RAS", "LPS", "PIR", "SAR")],
)
@pytest.mark.parametrize("name", SPATIAL)
def test_tissue_and_prompts_stay_in_place(name: str, axcodes: str, oblique: bool) -> None:
    make, tolerance_voxels = SPATIAL[name]
    data = phantom(axcodes, oblique)
    result = make()(data)
    grid = Grid.of(result["image"])
    tolerance_mm = tolerance_voxels * max(*Grid.of(data["image"]).spacing_mm, *grid.spacing_mm) + 1e-6

    assert torch.equal(result["label"].affine, result["image"].affine)
    expected = blob_centroids_ras_mm(oblique)
    by_simpleitk = simpleitk_centroids_ras_mm(result["label"])
    for label, centroid in expected.items():
        found = centroid_ras_mm(result["label"], (result["label"][0] == label).numpy())
        np.testing.assert_allclose(found, centroid, atol=tolerance_mm)
        np.testing.assert_allclose(by_simpleitk[label], found, atol=1e-6)
    # The intensities themselves, soft edges included: all blobs' centroids, each by its mass.
    weights = result["image"][0].numpy().astype(np.float64) + 1000
    np.testing.assert_allclose(
        centroid_ras_mm(result["image"], weights), weighted_centroid_ras_mm(expected), atol=tolerance_mm
    )

    assert isinstance(result["prompts"], PromptSet)
    assert result["prompts"].grid.same_as(grid)
    assert np.array_equal(result["prompts"].grid.affine_ras, grid.affine_ras)
    for item in result["prompts"].objects:
        assert getattr(item.prompts[0], "frame", Frame.IJK) is Frame.IJK
    before, after = places_ras_mm(data["prompts"]), places_ras_mm(result["prompts"])
    assert len(before) == len(after)
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if isinstance(old, str):
            assert old == new
        else:
            # Only a mask is made of voxels; all other prompts keep continuous coordinates.
            is_mask = index == len(before) - 2
            np.testing.assert_allclose(new, old, atol=tolerance_mm if is_mask else 1e-6)
    # The prompts that were in the image are still in it.
    result["prompts"].on_grid(grid)


def weighted_centroid_ras_mm(centroids_ras_mm: dict[int, np.ndarray]) -> np.ndarray:
    masses = {label: np.prod(np.subtract(stop, start)) * (1000 + 100 * label) for label, (start, stop) in BLOBS.items()}
    return sum(masses[label] * centroids_ras_mm[label] for label in masses) / sum(masses.values())


def halved(grid: Grid) -> ResampleWithPromptsd:
    """Every second voxel along each axis: label positions lie half-way between two voxels."""
    return ResampleWithPromptsd(**KEYS, spacing_mm=[(3.0, 2.0, 4.0)[ras] for ras in grid.axis_order])


@pytest.mark.parametrize(
    "make",
    [
        lambda grid: ReorientWithPromptsd(**KEYS, axcodes="PIR"),
        lambda grid: CropAroundPromptsd(**KEYS, margin_mm=3.0),
        lambda grid: CropAroundPromptsd(**KEYS, margin_mm=0, min_size=13),
        lambda grid: CropAroundPromptsd(**KEYS, margin_mm=0, min_size=14),
        lambda grid: ResampleWithPromptsd(**KEYS, spacing_mm=0.5),
        halved,
    ],
    ids=["reorient", "crop", "crop grown by odd", "crop grown by even", "finer", "halved"],
)
def test_the_same_patient_gives_the_same_voxels_whatever_the_order_on_disk(make) -> None:
    """Whole new voxels fill the volume at these spacings; else the first face decides, which is documented."""
    to_ras = ReorientWithPromptsd(**KEYS, axcodes="RAS")
    expected = None
    for axcodes in all_orientations():
        data = phantom(axcodes)
        result = to_ras(make(Grid.of(data["image"]))(data))
        expected = expected or result
        assert Grid.of(result["image"]).same_as(Grid.of(expected["image"])), axcodes
        assert torch.equal(result["label"].as_tensor(), expected["label"].as_tensor()), axcodes
        torch.testing.assert_close(
            result["image"].as_tensor().float(), expected["image"].as_tensor().float(), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("axcodes", list(all_orientations()))
def test_reorientation_agrees_with_monai_and_grid(axcodes: str) -> None:
    data = phantom("RAS")
    result = ReorientWithPromptsd(**KEYS, axcodes=axcodes)(data)["image"]
    monai = Orientation(axcodes=axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S")))(data["image"])
    assert torch.equal(result.as_tensor(), monai.as_tensor())
    np.testing.assert_allclose(result.affine.numpy(), monai.affine.numpy(), atol=1e-9)
    assert np.array_equal(result.affine.numpy(), Grid.of(data["image"]).reoriented(axcodes).affine_ras)


@pytest.mark.parametrize("spacing_mm", [0.7, (2.0, 1.3, 3.1)])
@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "PIR", "SAL"])
def test_resampling_agrees_with_monai_grid_and_simpleitk(
    axcodes: str, spacing_mm: float | tuple[float, float, float]
) -> None:
    import SimpleITK as sitk

    data = phantom(axcodes)
    wanted = Grid.of(data["image"]).with_spacing(np.broadcast_to(spacing_mm, 3))
    result = ResampleWithPromptsd(**KEYS, spacing_mm=spacing_mm)(data)
    assert np.array_equal(result["image"].affine.numpy(), wanted.affine_ras)
    assert result["image"].shape[1:] == wanted.shape
    assert result["image"].dtype == torch.float32
    assert result["label"].dtype == torch.uint8
    monai = SpatialResample(mode="bilinear", padding_mode="border")(
        data["image"], dst_affine=torch.as_tensor(wanted.affine_ras.copy()), spatial_size=wanted.shape
    )
    torch.testing.assert_close(result["image"].as_tensor(), monai.as_tensor(), atol=1e-3, rtol=0)
    np.testing.assert_allclose(result["image"].affine.numpy(), monai.affine.numpy(), atol=1e-9)

    source = as_simpleitk(data["image"], data["image"][0].numpy().astype(np.float32))
    reference = as_simpleitk(result["image"], result["image"][0].numpy())
    sampled = sitk.Resample(source, reference, sitk.Transform(), sitk.sitkLinear, -5000.0)
    expected = sitk.GetArrayFromImage(sampled).transpose(2, 1, 0)
    inside = expected > -4000
    assert inside.mean() > 0.8
    np.testing.assert_allclose(result["image"][0].numpy()[inside], expected[inside], atol=0.05)


def test_resampling_in_slabs_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = phantom("PIR")
    transform = ResampleWithPromptsd(**KEYS, spacing_mm=0.9)
    whole = transform(data)
    monkeypatch.setattr("volseg.transforms.resample.SLAB_VOXELS", 1)
    slabs = transform(data)
    torch.testing.assert_close(slabs["image"].as_tensor(), whole["image"].as_tensor(), atol=1e-3, rtol=0)
    assert torch.equal(slabs["label"].as_tensor(), whole["label"].as_tensor())


def test_a_tiny_change_of_spacing_is_not_taken_for_none() -> None:
    """MONAI's SpatialResample leaves the voxels alone here, which would be half a voxel off at the far end."""
    data = {"image": stored("RAS", oblique=False)[0][:, :, :, :1].repeat(1, 40, 1, 1)}
    data["image"].affine = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    ramp = torch.arange(data["image"].shape[1], dtype=torch.float32)
    data["image"][:] = ramp[None, :, None, None]
    result = ResampleWithPromptsd("image", (1.0007, 1, 1))(data)["image"]
    middle = result.shape[1] // 2
    expected_mm = Grid.of(result).to_ras_mm((middle, 0, 0))[0]
    assert result[0, middle, 0, 0].item() == pytest.approx(expected_mm, abs=1e-3)
    assert abs(expected_mm - middle) > 0.2


@pytest.mark.parametrize("axcodes", ["RAS", "PIR", "LSA"])
@pytest.mark.parametrize(("margin_mm", "min_size"), [(0.0, 1), (2.0, 1), (4.5, (16, 1, 12)), (500.0, 1)])
def test_the_crop_is_the_smallest_block_with_the_margin(
    axcodes: str, margin_mm: float, min_size: int | tuple[int, int, int]
) -> None:
    data = phantom(axcodes)
    grid = Grid.of(data["image"])
    result = CropAroundPromptsd(**KEYS, margin_mm=margin_mm, min_size=min_size)(data)["image"]
    start = np.round(grid.to_ijk(result.affine[:3, 3].numpy())).astype(int)
    stop = start + result.shape[1:]
    assert np.array_equal(result.affine.numpy(), grid.cropped(start, result.shape[1:]).affine_ras)
    by_monai = SpatialCrop(roi_start=start.tolist(), roi_end=stop.tolist())(data["image"])
    assert torch.equal(result.as_tensor(), by_monai.as_tensor())
    np.testing.assert_allclose(result.affine.numpy(), by_monai.affine.numpy(), atol=1e-9)

    # By brute force: every voxel that any prompt covers, and the reach along each axis.
    on_grid = data["prompts"].on_grid(grid)
    voxels = np.concatenate([prompt.voxels_ijk(grid) for item in on_grid.objects for prompt in item.prompts])
    reach = np.ceil(margin_mm / np.array(grid.spacing_mm) - 1e-6).astype(int)
    low = np.maximum(voxels.min(axis=0) - reach, 0)
    high = np.minimum(voxels.max(axis=0) + reach + 1, grid.shape)
    size = np.maximum(high - low, np.minimum(min_size, grid.shape))
    assert (start <= low).all()
    assert (stop >= high).all()
    assert np.array_equal(stop - start, size)


def test_the_crop_does_not_keep_the_volume_in_memory() -> None:
    result = CropAroundPromptsd(**KEYS, margin_mm=0)(phantom("RAS"))
    assert result["image"].untyped_storage().nbytes() == result["image"].numel() * result["image"].element_size()


def test_a_crop_needs_a_place() -> None:
    data = phantom("RAS")
    grid = Grid.of(data["image"])
    crop = CropAroundPromptsd(**KEYS)
    with pytest.raises(PromptError, match="no prompt has a place"):
        crop({**data, "prompts": PromptSet.of(grid, [Text("liver")])})
    with pytest.raises(PromptError, match=r"prompt 1 \(point\) of object 1: lies outside"):
        crop({**data, "prompts": PromptSet.of(grid, [Point((900, 0, 0), Frame.IJK)])})
    with pytest.raises(PromptError, match="decollated"):
        crop({**data, "prompts": [data["prompts"].dumps()]})
    with pytest.raises(PromptError, match="not JSON"):
        crop({**data, "prompts": "{"})


def test_a_mask_that_sticks_out_and_a_box_that_covers_all() -> None:
    data = phantom("RAS")
    grid = Grid.of(data["image"])
    wide = grid.cropped((-4, -4, -4), tuple(n + 8 for n in grid.shape))
    for prompt in (
        MaskPrompt(np.ones(wide.shape, dtype=bool), wide),
        Box((0, 0, 0), tuple(n - 1 for n in grid.shape), Frame.IJK),
    ):
        result = CropAroundPromptsd(**KEYS)({**data, "prompts": PromptSet.of(grid, [prompt])})
        assert Grid.of(result["image"]).same_as(grid)


def test_images_on_other_grids_are_refused() -> None:
    data = phantom("RAS")
    other = ReorientWithPromptsd("label", axcodes="LPS")(data)["label"]
    with pytest.raises(GeometryError, match="'label' does not go with 'image'"):
        ReorientWithPromptsd(**KEYS)({**data, "label": other})
    with pytest.raises(GeometryError, match="MetaTensor"):
        ReorientWithPromptsd("image")({"image": data["image"].as_tensor()})


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReorientWithPromptsd("image", axcodes="RRS"),
        lambda: ResampleWithPromptsd("image", 0),
        lambda: ResampleWithPromptsd("image", (1, 2)),
        lambda: ResampleWithPromptsd("image", float("nan")),
        lambda: CropAroundPromptsd("image", "prompts", margin_mm=-1),
        lambda: CropAroundPromptsd("image", "prompts", min_size=0),
        lambda: CropAroundPromptsd("image", "prompts", min_size=(1, 2)),
    ],
)
def test_settings_that_make_no_sense_are_refused(make) -> None:
    with pytest.raises(GeometryError, match="got"):
        make()
