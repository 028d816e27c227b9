"""A place on the screen is the same place in millimetres, whatever the layer looks like."""

from __future__ import annotations

import itertools

import dask.array
import numpy as np
import pytest
from napari.layers import Image, Labels
from napari_volseg.geometry import AFFINE_KEY, LayerVolume, overlay_affine, world_from_data
from phantom import centroids_ras_mm, make_phantom

from volseg.errors import GeometryError
from volseg.geometry import all_orientations

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def napari_affine(affine_ras):
    """Data (i, j, k) to napari's world (z, y, x) of LPS."""
    lps = LPS @ affine_ras
    return np.vstack([lps[2], lps[1], lps[0], lps[3]])


def check(layer, phantom):
    """Every block's centre, taken where napari shows it, is the block's centre in mm and in the voxels."""
    volume = LayerVolume.of(layer)
    np.testing.assert_allclose(volume.grid.affine_ras, phantom.affine_ras, atol=1e-6)
    image = volume.read(layer)
    phantom.check(centroids_ras_mm(image[0].numpy(), image.affine.numpy()))
    for value, centre_ras in phantom.centroids_ras_mm.items():
        centre_ijk = np.argwhere(phantom.array == value).mean(axis=0)
        world = layer.data_to_world(centre_ijk)
        np.testing.assert_allclose(volume.ijk_of_world(layer, world), centre_ijk, atol=1e-6)
        np.testing.assert_allclose(volume.grid.to_ras_mm(volume.ijk_of_world(layer, world)), centre_ras, atol=1e-4)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("axcodes", list(all_orientations()))
def test_every_orientation_by_napari_transforms(axcodes, oblique):
    phantom = make_phantom(axcodes, oblique=oblique)
    check(Image(phantom.array, affine=napari_affine(phantom.affine_ras)), phantom)


@pytest.mark.parametrize("axcodes", ["RAS", "PIL", "SAR"])
def test_the_files_affine_counts_more_than_how_the_layer_is_shown(axcodes):
    phantom = make_phantom(axcodes, oblique=True)
    layer = Image(
        phantom.array,
        scale=(2, 3, 4),
        translate=(7, -8, 9),
        rotate=(20, 0, 0),
        shear=(0.1, 0, 0),
        metadata={AFFINE_KEY: phantom.affine_ras},
    )
    check(layer, phantom)


def test_scale_translate_rotate_and_affine_together_by_hand():
    phantom = make_phantom("RAS")
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # by hand: (z, y, x) -> (-y, z, x)
    layer = Image(phantom.array, scale=(2, 3, 4), rotate=turn, translate=(10, 20, 30), affine=np.diag([1, 1, 0.5, 1]))
    volume = LayerVolume.of(layer)
    for voxel in itertools.product((0, 3), repeat=3):
        z, y, x = -3 * voxel[1] + 10, 2 * voxel[0] + 20, 0.5 * (4 * voxel[2] + 30)
        np.testing.assert_allclose(volume.grid.to_ras_mm(voxel), (-x, -y, z), atol=1e-9)
        np.testing.assert_allclose(volume.ijk_of_world(layer, (z, y, x)), voxel, atol=1e-9)


def test_units_become_millimetres():
    layer = Image(np.zeros((4, 5, 6)), scale=(3000, 500, 500), units=("um", "um", "um"))
    assert LayerVolume.of(layer).grid.spacing_mm == pytest.approx((3, 0.5, 0.5))
    assert LayerVolume.of(Image(np.zeros((4, 5, 6)), scale=(3, 2, 1))).grid.spacing_mm == (3, 2, 1)


def test_time_and_channels_are_picked_where_the_viewer_is():
    data = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6).astype(np.float32)
    layer = Image(data, scale=(1, 10, 3, 2, 1))
    volume = LayerVolume.of(layer, (1, 20, 0, 0, 0))
    assert volume.fixed == {0: 1, 1: 2}
    np.testing.assert_array_equal(volume.read(layer)[0].numpy(), data[1, 2])
    assert volume.ijk_of_world(layer, (1, 20, 6, 4, 2)).tolist() == [2, 2, 2]
    overlay = volume.in_layer(np.zeros((4, 5, 6)))
    assert overlay.shape == (1, 1, 4, 5, 6)
    shown = Labels(overlay.astype(int), affine=volume.overlay_affine)
    assert shown.data_to_world((0, 0, 1, 2, 3)) == pytest.approx(layer.data_to_world((1, 2, 1, 2, 3)))


def test_channels_last_by_their_label():
    data = np.arange(4 * 5 * 6 * 2).reshape(4, 5, 6, 2)
    layer = Image(data, scale=(3, 2, 1, 1), axis_labels=("z", "y", "x", "channel"), rgb=False)
    volume = LayerVolume.of(layer, (0, 0, 0, 1))
    assert volume.grid.shape == (4, 5, 6)
    assert volume.grid.spacing_mm == pytest.approx((3, 2, 1))
    np.testing.assert_array_equal(volume.read(layer)[0].numpy(), data[..., 1])
    assert volume.in_layer(np.zeros((4, 5, 6))).shape == (4, 5, 6, 1)


def test_a_2d_image_is_one_slice():
    data = np.arange(30).reshape(5, 6)
    layer = Image(data, scale=(2, 3))
    volume = LayerVolume.of(layer)
    assert volume.grid.shape == (1, 5, 6)
    assert volume.grid.spacing_mm == pytest.approx((1, 2, 3))
    assert volume.ijk_of_world(layer, (4, 9)).tolist() == [0, 2, 3]
    assert volume.data_of([0, 2, 3]).tolist() == [2, 3]
    np.testing.assert_array_equal(volume.read(layer)[0, 0].numpy(), data)
    assert volume.in_layer(np.zeros((1, 5, 6))).shape == (5, 6)


@pytest.mark.parametrize("make", [dask.array.from_array, lambda a: [a, a[::2, ::2, ::2]]])
def test_lazy_and_multiscale_data(make):
    phantom = make_phantom("RAS")
    layer = Image(make(phantom.array), affine=napari_affine(phantom.affine_ras))
    check(layer, phantom)


def test_zarr(tmp_path):
    import zarr

    phantom = make_phantom("LPI")
    stored = zarr.create_array(tmp_path / "a.zarr", shape=phantom.array.shape, dtype="i2", chunks=(4, 4, 4))
    stored[...] = phantom.array
    check(Image(stored, affine=napari_affine(phantom.affine_ras)), phantom)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "int64", "float16", ">i2", ">f4"])
def test_every_type_is_read_and_never_changed(dtype):
    data = (np.arange(4 * 5 * 6).reshape(4, 5, 6) % 2).astype(dtype)
    data.setflags(write=False)
    layer = Image(data)
    before = data.copy()
    np.testing.assert_array_equal(LayerVolume.of(layer).read(layer)[0].numpy(), before)
    np.testing.assert_array_equal(layer.data, before)


def test_flipped_views_are_read():
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)[::-1, :, ::-1]
    layer = Image(data)
    np.testing.assert_array_equal(LayerVolume.of(layer).read(layer)[0].numpy(), data)


def test_numpy_is_not_copied():
    data = np.zeros((4, 5, 6), dtype=np.int16)
    layer = Image(data)
    assert np.shares_memory(LayerVolume.of(layer).read(layer).as_tensor().numpy(), data)


def test_what_cannot_be_a_volume_is_refused_with_the_reason():
    with pytest.raises(GeometryError, match="colour image"):
        LayerVolume.of(Image(np.zeros((8, 9, 3), dtype=np.uint8), rgb=True))
    with pytest.raises(GeometryError, match="mix space"):
        LayerVolume.of(Image(np.zeros((2, 3, 4, 5)), shear=(0, 0.3, 0, 0, 0, 0)))


def test_a_mask_in_another_layer_finds_its_place():
    image = Image(np.zeros((4, 5, 6)), scale=(3, 2, 1), translate=(10, 0, 0))
    labels = Labels(np.zeros((8, 10, 12), dtype=int), scale=(1.5, 1, 0.5), translate=(10, 0, 0))
    matrix = LayerVolume.of(labels).matrix_to(LayerVolume.of(image))
    np.testing.assert_allclose(matrix, np.diag([0.5, 0.5, 0.5, 1]), atol=1e-12)
    np.testing.assert_allclose(overlay_affine(world_from_data(image), {}), world_from_data(image))
