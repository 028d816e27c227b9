"""DICOM images in the forms scanners and archives have: multi-frame, compressed, the real patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import compressed, edited, write_enhanced, write_patient_series
from phantom import make_phantom
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from volseg.data import describe_image, list_series, read_image
from volseg.data.dicom import source_files
from volseg.errors import ImageReadError, MissingExtraError
from volseg.geometry import Grid


def positions(image, values):
    """Where voxels of each value lie, in RAS mm."""
    grid = Grid.of(image)
    return {v: grid.to_ras_mm(np.argwhere(image[0].numpy() == v).mean(axis=0)) for v in values}


def large_enough(array):
    """The array with margins behind it: openjpeg refuses to write frames of less than 32 voxels a side."""
    return np.pad(array, [(0, max(0, 40 - size)) for size in array.shape[:2]] + [(0, 0)])


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "PIR", "LIA"])
@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("shared_orientation", [False, True])
def test_enhanced_frames_lie_where_they_are(axcodes, oblique, shared_orientation, tmp_path: Path) -> None:
    phantom = make_phantom(axcodes, oblique=oblique)
    order = list(np.random.default_rng(3).permutation(phantom.array.shape[2]))
    path = write_enhanced(
        tmp_path / "image.dcm", phantom.array, phantom.affine_ras, order=order, shared_orientation=shared_orientation
    )
    image = read_image(path)
    phantom.check(positions(image, phantom.centroids_ras_mm))
    assert image[0].numpy().sum() == phantom.array.sum()
    np.testing.assert_array_equal(read_image(tmp_path)[0].numpy(), image[0].numpy())
    assert describe_image(path).series[0].slices == phantom.array.shape[2]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_simpleitk_agrees_on_enhanced_files(modality: str, tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    path = write_enhanced(tmp_path / "image.dcm", phantom.array, phantom.affine_ras, modality=modality)
    theirs = SimpleITK.ReadImage(str(path))
    ours = read_image(path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs).T, ours[0].numpy())
    assert ours.meta["modality"] == modality
    for voxel in ((0, 0, 0), (3, 4, 5)):
        lps = np.array(theirs.TransformIndexToPhysicalPoint(voxel))
        np.testing.assert_allclose(Grid.of(ours).to_ras_mm(voxel), lps * (-1, -1, 1), atol=1e-4)


def test_each_frame_has_its_own_slope(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    slopes = [0.5 * (k + 1) for k in range(phantom.array.shape[2])]
    image = read_image(write_enhanced(tmp_path / "mr.dcm", phantom.array, phantom.affine_ras, slopes=slopes))
    np.testing.assert_allclose(image[0].numpy(), phantom.array * np.array(slopes))


def test_several_volumes_in_one_file_are_refused(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    path = write_enhanced(tmp_path / "echoes.dcm", phantom.array, phantom.affine_ras, order=[0, 1, 2, 0, 1, 2])
    with pytest.raises(ImageReadError, match="duplicates in position"):
        read_image(path)


def test_frames_that_are_not_described_are_refused(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    path = write_enhanced(tmp_path / "image.dcm", phantom.array, phantom.affine_ras)

    def drop(dataset):
        dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence)[:-1]

    with pytest.raises(ImageReadError, match="9 frames and describes 8"):
        read_image(edited(path, tmp_path / "bad.dcm", drop))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_files(syntax, signed, tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    array = large_enough(phantom.array)
    stored = (array * 300 - (700 if signed else 0)).astype(np.int16 if signed else np.uint16)
    paths = write_patient_series(tmp_path / "series", stored, phantom.affine_ras)
    compressed(paths, syntax)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_image(tmp_path / "series")[0].numpy(), stored)
    order = list(range(stored.shape[2]))[::-1]
    path = write_enhanced(tmp_path / "enhanced" / "image.dcm", stored, phantom.affine_ras, order=order)
    compressed([path], syntax)
    np.testing.assert_array_equal(read_image(path)[0].numpy(), stored)


def test_a_missing_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(tmp_path, phantom.array, phantom.affine_ras)
    compressed(paths, JPEGLSLossless)
    decoder = pydicom.pixels.get_decoder(JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(MissingExtraError, match=r"JPEG-LS.*volseg\[dicom\]"):
        read_image(tmp_path)


def test_a_missing_decoder_under_the_gpl_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(tmp_path, phantom.array, phantom.affine_ras)
    compressed(paths, RLELossless)
    for path in paths:
        edited(path, path, lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", JPEGLosslessSV1))
    monkeypatch.setattr(pydicom.pixels.get_decoder(JPEGLosslessSV1), "_available", {})
    with pytest.raises(MissingExtraError, match=r"JPEG Lossless.*pylibjpeg-libjpeg"):
        read_image(tmp_path)


def test_damaged_compressed_pixels_are_not_taken_for_a_missing_decoder(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(tmp_path, large_enough(phantom.array), phantom.affine_ras)
    compressed(paths, JPEG2000Lossless)

    def damage(dataset):
        data = bytearray(dataset.PixelData)
        data[40:60] = bytes(20)
        dataset.PixelData = bytes(data)

    edited(paths[3], paths[3], damage)
    with pytest.raises(ImageReadError):
        read_image(tmp_path)


def test_source_files_come_in_the_order_of_the_slices(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(tmp_path / "a", phantom.array, phantom.affine_ras, reverse=True)
    assert list(source_files(tmp_path / "a")) == paths  # paths[k] holds slice k, whatever its name
    assert list(source_files(paths[4])) == paths
    enhanced = write_enhanced(tmp_path / "b" / "image.dcm", phantom.array, phantom.affine_ras)
    assert source_files(enhanced) == (enhanced,)
    with pytest.raises(ImageReadError, match="series"):
        source_files(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("modality", ["CT", "MR_T1"])
def test_the_real_patient_reads_as_simpleitk_reads_it(modality: str, shared_data: Path) -> None:
    folder = shared_data / "dicom" / "STS_003" / modality / "image"
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    ours = read_image(folder)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs).T, ours[0].numpy())
    for corner in Grid.of(ours).corners_ijk():
        lps = np.array(theirs.TransformContinuousIndexToPhysicalPoint(corner.tolist()))
        np.testing.assert_allclose(Grid.of(ours).to_ras_mm(corner), lps * (-1, -1, 1), atol=1e-3)
    assert len(list_series(folder)) == 1
