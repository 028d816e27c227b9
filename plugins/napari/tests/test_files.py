"""Files become layers that know where they are, and label layers become files on the same place."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from napari_volseg.geometry import LayerVolume
from napari_volseg.readers import dicom_reader, read_labels, read_volume, volume_reader
from napari_volseg.samples import draw_phantom, phantom
from napari_volseg.writers import write_label_layer
from phantom import centroids_ras_mm, make_phantom

from volseg.data import Label, LabelMap, read_labelmap, write_labelmap


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("oblique", [False, True])
def test_a_volume_knows_its_place_and_a_label_map_goes_back_to_the_files_grid(tmp_path, axcodes, oblique):
    truth = make_phantom(axcodes, oblique=oblique)
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(truth.array, truth.affine_ras), path)
    (data,) = read_volume(str(path))
    layer = Layer.create(*data)
    assert isinstance(layer, Image)
    assert layer.name == "a"
    volume = LayerVolume.of(layer)
    truth.check(centroids_ras_mm(layer.data, volume.grid.affine_ras))
    # Slices of the thickest spacing first, seen as radiologists do.
    assert volume.grid.spacing_mm[0] == pytest.approx(2.3, abs=1e-4)
    assert volume.grid.axcodes == "SPL"
    metadata = {**layer.metadata}
    written = write_label_layer(
        str(tmp_path / "out.nii.gz"), layer.data.astype(np.int32), {"metadata": metadata, "name": "labels"}
    )
    image = nibabel.load(written[0])
    np.testing.assert_array_equal(np.asarray(image.dataobj), truth.array)
    np.testing.assert_allclose(image.affine, truth.affine_ras, atol=1e-3)


def test_a_layer_made_by_hand_is_written_where_it_is_shown(tmp_path):
    layer = Labels(np.pad(np.ones((1, 1, 1), dtype=int), 2) * 7, scale=(3, 2, 1), translate=(10, 20, 30), units="mm")
    data, attributes, _ = layer.as_layer_data_tuple()
    (path,) = write_label_layer(str(tmp_path / "x.seg.nrrd"), data, attributes)
    labelmap = read_labelmap(path)
    (found,) = centroids_ras_mm(labelmap.array, labelmap.grid.affine_ras).values()
    # World (z, y, x) = (16, 24, 32) of LPS.
    np.testing.assert_allclose(found, (-32, -24, 16), atol=1e-4)


def test_segments_come_with_names_colours_and_layers(tmp_path):
    truth = make_phantom("LPS")
    labels = tuple(Label(value, f"part {value}", (value, 2 * value, 3 * value)) for value in (1, 2, 3, 5))
    write_labelmap(LabelMap(truth.grid, (truth.array.astype(np.uint8),), labels), tmp_path / "s.seg.nrrd")
    assert volume_reader(str(tmp_path / "s.seg.nrrd")) is read_labels
    (data,) = read_labels(str(tmp_path / "s.seg.nrrd"))
    layer = Layer.create(*data)
    assert isinstance(layer, Labels)
    truth.check(centroids_ras_mm(layer.data, LayerVolume.of(layer).grid.affine_ras))
    np.testing.assert_allclose(layer.get_color(5), (5 / 255, 10 / 255, 15 / 255, 1), atol=1e-6)
    write_label_layer(str(tmp_path / "t.seg.nrrd"), layer.data, {"metadata": layer.metadata, "name": "t"})
    again = read_labelmap(tmp_path / "t.seg.nrrd")
    assert [label.name for label in again.labels] == [label.name for label in labels]
    assert again.grid.axcodes == "LPS"
    np.testing.assert_array_equal(again.array, truth.array)


def test_a_dicom_folder_becomes_a_layer(tmp_path):
    from dicom_files import write_series

    truth = make_phantom("LPS")
    write_series(tmp_path / "series", truth.array, truth.affine_ras)
    reader = dicom_reader(str(tmp_path / "series"))
    assert reader is not None
    (data,) = reader(str(tmp_path / "series"))
    layer = Layer.create(*data)
    truth.check(centroids_ras_mm(layer.data, LayerVolume.of(layer).grid.affine_ras), tolerance_mm=1e-2)
    (tmp_path / "empty").mkdir()
    assert dicom_reader(str(tmp_path / "empty")) is None
    assert dicom_reader([str(tmp_path / "series")]) is None


def test_a_name_that_was_typed_without_an_ending_gets_that_of_the_chosen_format(tmp_path):
    from importlib import import_module

    from npe2 import PluginManifest

    contributions = PluginManifest.from_distribution("napari-volseg").contributions
    data, attributes, _ = Labels(np.pad(np.ones((1, 1, 1), dtype=int), 2) * 7, name="liver").as_layer_data_tuple()
    endings = []
    for writer in contributions.writers:
        (command,) = (one for one in contributions.commands if one.id == writer.command)
        module, name = command.python_name.split(":")
        # As napari's dialog calls it: with the name as it was typed.
        for typed in ("liver", "liver 1.5 mm"):
            (path,) = getattr(import_module(module), name)(str(tmp_path / typed), data, attributes)
            assert path == str(tmp_path / typed) + writer.filename_extensions[0]
            assert (read_labelmap(path).array == 7).sum() == 1
        typed = tmp_path / f"typed{writer.filename_extensions[-1]}"
        assert getattr(import_module(module), name)(str(typed), data, attributes) == [str(typed)]
        endings.append(writer.filename_extensions[0])
    assert endings == [".nii.gz", ".seg.nrrd"]


def test_each_kind_of_file_opens_as_what_it_is_where_volseg_is_chosen(tmp_path):
    from dicom_files import write_series
    from napari.plugins import _initialize_plugins, _npe2

    truth = make_phantom("LPS")
    nibabel.save(nibabel.Nifti1Image(truth.array, truth.affine_ras), tmp_path / "a.nii.gz")
    labels = (Label(1, "part", (10, 20, 30)),)
    segments = LabelMap(truth.grid, ((truth.array > 0).astype(np.uint8),), labels)
    write_labelmap(segments, tmp_path / "a.seg.nrrd")
    write_series(tmp_path / "series", truth.array, truth.affine_ras)
    _initialize_plugins()
    for name, kind in (("a.nii.gz", "image"), ("a.seg.nrrd", "labels"), ("series", "image")):
        path = str(tmp_path / name)
        assert _npe2.get_readers(path)["napari-volseg"] == "volseg"
        found = _npe2.read([path], plugin="napari-volseg", stack=False)
        assert found is not None
        assert [data[2] for data in found[0]] == [kind]


def test_the_sample_is_what_it_says():
    (data,) = phantom()
    layer = Layer.create(*data)
    volume = LayerVolume.of(layer)
    assert volume.grid.axcodes == "SPL"
    array, masks = draw_phantom()
    np.testing.assert_array_equal(layer.data, array)
    # The liver is on the patient's right, the spleen on the left.
    for organ, on_right in (("liver", True), ("spleen", False)):
        centre = volume.grid.to_ras_mm(np.argwhere(masks[organ]).mean(axis=0))
        assert (centre[0] > 0) == on_right
        assert abs(array[masks[organ]].mean() - {"liver": 105, "spleen": 115}[organ]) < 1


def test_the_manifest_is_valid_and_names_things_that_exist():
    from importlib import import_module

    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-volseg")
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert hasattr(import_module(module), name), command.python_name
