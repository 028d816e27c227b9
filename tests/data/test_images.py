"""What comes in from good files."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from dicom_files import write_series
from phantom import make_phantom, sitk_image

from volseg.data import Modality, describe_image, image_sha256, list_series, read_image
from volseg.errors import ImageReadError

PHANTOM = make_phantom("PIR")


def saved(path: Path, array: np.ndarray, **scaling: float) -> Path:
    image = nibabel.Nifti1Image(array, PHANTOM.affine_ras, dtype=array.dtype)
    if scaling:
        image.header.set_slope_inter(scaling["slope"], scaling["inter"])
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("int8", torch.int8), ("uint8", torch.uint8), ("int16", torch.int16), ("uint16", torch.int32),
        ("int32", torch.int32), ("uint32", torch.int64), ("int64", torch.int64), ("uint64", torch.int64),
        ("float32", torch.float32), ("float64", torch.float32),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_types(stored: str, expected: torch.dtype, suffix: str, tmp_path: Path) -> None:
    array = PHANTOM.array.astype(stored)
    array[0, 0, 0] = np.iinfo(stored).max if stored in ("int8", "uint8", "int16", "uint16", "int32", "uint32") else 77
    path = tmp_path / f"image{suffix}"
    if suffix.startswith(".nii"):
        nibabel.Nifti1Image(array, PHANTOM.affine_ras, dtype=stored).to_filename(path)
    else:
        SimpleITK.WriteImage(sitk_image(PHANTOM, array), str(path), useCompression=suffix == ".mha")
    image = read_image(path)
    assert image.dtype is expected
    assert image.shape == (1, *array.shape)
    assert image.affine.dtype is torch.float64
    np.testing.assert_array_equal(image[0].numpy(), array.astype(np.int64))


def test_uint64_beyond_int64_is_refused(tmp_path: Path) -> None:
    array = np.full((2, 2, 2), 2**63, dtype=np.uint64)
    with pytest.raises(ImageReadError, match="fits no signed 64 bit"):
        read_image(saved(tmp_path / "image.nii", array))


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [(1, -1024, torch.int16), (2, 0, torch.int16), (1000, 0, torch.int32), (0.5, 3, torch.float32)],
)
def test_scaling_keeps_integers_where_it_can(slope: float, inter: float, expected: torch.dtype, tmp_path: Path) -> None:
    array = PHANTOM.array + 60
    path = tmp_path / "image.nii.gz"
    read = read_image(saved(path, array, slope=slope, inter=inter))
    np.testing.assert_allclose(read[0].numpy(), nibabel.load(path).get_fdata())
    assert read.dtype is expected
    np.testing.assert_allclose(read[0].numpy(), array.astype(np.int64) * slope + inter)


def test_dicom_keeps_hu_in_int16_and_rescales_each_slice(tmp_path: Path) -> None:
    stored = (PHANTOM.array + 1000).astype(np.uint16)
    write_series(tmp_path / "ct", stored, PHANTOM.affine_ras, RescaleSlope=1, RescaleIntercept=-1024)
    ct = read_image(tmp_path / "ct")
    assert ct.dtype is torch.int16
    assert ct.meta["modality"] is Modality.CT
    assert int(ct.min()) == -24
    slopes = [0.5 * (k + 1) for k in range(stored.shape[2])]
    write_series(
        tmp_path / "pet", stored, PHANTOM.affine_ras, RescaleSlope=slopes, RescaleIntercept=1, Modality="PT", uid="9"
    )
    pet = read_image(tmp_path / "pet")
    assert pet.dtype is torch.float32
    assert pet.meta["modality"] is Modality.OTHER
    # The phantom's k runs against the slices' normal or along it; either way each slice has its own slope.
    minima = sorted(pet[0].amin(dim=(0, 1)).tolist())
    np.testing.assert_allclose(minima, [1000 * slope + 1 for slope in slopes])


def test_dicom_values_beyond_int16_widen(tmp_path: Path) -> None:
    stored = PHANTOM.array.astype(np.uint16)
    stored[3, 4, 5] = 60000
    write_series(tmp_path, stored, PHANTOM.affine_ras)
    image = read_image(tmp_path)
    assert image.dtype is torch.int32
    assert int(image.max()) == 60000


def test_one_slice_stands_for_its_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, PHANTOM.array, PHANTOM.affine_ras, uid="1.2.3")
    write_series(tmp_path / "other", PHANTOM.array, PHANTOM.affine_ras, uid="1.2.4")
    assert read_image(paths[2]).shape == (1, *PHANTOM.array.shape)
    assert describe_image(paths[2]).grid is not None
    series = list_series(tmp_path)
    assert [(item.uid, item.slices) for item in series] == [("1.2.3", 11), ("1.2.4", 11)]
    description = describe_image(tmp_path)
    assert description.grid is None
    assert description.series == series
    assert "Doe" not in repr(description)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_channels(suffix: str, tmp_path: Path) -> None:
    stack = np.stack([PHANTOM.array + n for n in (0, 10, 20)], axis=-1)
    path = saved(tmp_path / f"stack{suffix}", stack)
    for n in range(3):
        np.testing.assert_array_equal(read_image(path, channel=n)[0].numpy(), stack[..., n])
    with pytest.raises(ImageReadError, match="no channel 3"):
        read_image(path, channel=3)
    assert describe_image(path).channels == 3
    vector = saved(tmp_path / f"vector{suffix}", stack[:, :, :, None, :])
    np.testing.assert_array_equal(read_image(vector, channel=2)[0].numpy(), stack[..., 2])
    single = saved(tmp_path / f"single{suffix}", PHANTOM.array[..., None, None])
    np.testing.assert_array_equal(read_image(single)[0].numpy(), PHANTOM.array)


# ITK writes time as a fourth dimension of space in NRRD, which no other reader understands: no (.nrrd, False).
@pytest.mark.parametrize(("suffix", "interleaved"), [(".nrrd", True), (".mha", True), (".mha", False)])
def test_itk_channels(suffix: str, interleaved: bool, tmp_path: Path) -> None:
    parts = [sitk_image(PHANTOM, PHANTOM.array + n) for n in (0, 10)]
    path = tmp_path / f"stack{suffix}"
    if interleaved:
        SimpleITK.WriteImage(SimpleITK.Compose(parts), str(path))
    else:
        SimpleITK.WriteImage(SimpleITK.JoinSeries(parts), str(path))
    np.testing.assert_array_equal(read_image(path, channel=1)[0].numpy(), PHANTOM.array + 10)
    with pytest.raises(ImageReadError, match="2 channels"):
        read_image(path)
    assert read_image(path, channel=0).affine.numpy() == pytest.approx(PHANTOM.affine_ras)


def test_a_2d_image_is_one_slice(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "slice.nii", PHANTOM.array[..., 4]))
    assert image.shape == (1, *PHANTOM.array.shape[:2], 1)
    plane = SimpleITK.GetImageFromArray(PHANTOM.array[..., 4].T)
    plane.SetSpacing((0.5, 0.75))
    for suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(plane, str(tmp_path / f"plane{suffix}"))
        image = read_image(tmp_path / f"plane{suffix}")
        np.testing.assert_array_equal(image[0, ..., 0].numpy(), PHANTOM.array[..., 4])
        assert np.abs(image.affine.numpy()[:3, :3]).sum(axis=0) == pytest.approx((0.5, 0.75, 1.0))


def test_unset_orientation_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nibabel.Nifti1Image(PHANTOM.array, None)
    image.header.set_zooms((1, 2, 3))
    image.to_filename(tmp_path / "image.nii")
    with caplog.at_level(logging.WARNING):
        read = read_image(tmp_path / "image.nii")
    assert "left and right are a guess" in caplog.text
    np.testing.assert_allclose(read.affine.numpy(), nibabel.load(tmp_path / "image.nii").affine)


def test_metres_become_millimetres(tmp_path: Path) -> None:
    affine = PHANTOM.affine_ras.copy()
    affine[:3] /= 1000
    image = nibabel.Nifti1Image(PHANTOM.array, affine)
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "image.nii")
    np.testing.assert_allclose(read_image(tmp_path / "image.nii").affine.numpy(), PHANTOM.affine_ras, rtol=1e-5)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    raw = saved(tmp_path / "plain.nii", PHANTOM.array).read_bytes()
    half = len(raw) // 2
    path = tmp_path / "members.nii.gz"
    path.write_bytes(gzip.compress(raw[:half]) + gzip.compress(raw[half:]))
    np.testing.assert_array_equal(read_image(path)[0].numpy(), PHANTOM.array)


def test_hash_knows_voxels_grid_and_nothing_else(tmp_path: Path) -> None:
    one = image_sha256(read_image(saved(tmp_path / "a.nii", PHANTOM.array)))
    assert one == image_sha256(read_image(saved(tmp_path / "b.nii.gz", PHANTOM.array)))
    SimpleITK.WriteImage(sitk_image(PHANTOM), str(tmp_path / "c.mha"))
    assert one == image_sha256(read_image(tmp_path / "c.mha"))
    image = read_image(tmp_path / "c.mha")
    assert one == image_sha256(image.contiguous())
    changed = PHANTOM.array.copy()
    changed[-1, -1, -1] += 1
    assert one != image_sha256(read_image(saved(tmp_path / "d.nii", changed)))
    other = read_image(tmp_path / "a.nii")
    other.affine[0, 3] += 0.01
    assert one != image_sha256(other)


def test_meta_has_no_header_texts(tmp_path: Path) -> None:
    write_series(tmp_path / "Doe_Jane", PHANTOM.array, PHANTOM.affine_ras)
    meta = repr(read_image(tmp_path / "Doe_Jane").meta)
    assert "Doe" not in meta
    assert "4711" not in meta


def test_given_modality_wins(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii", PHANTOM.array)
    assert "modality" not in read_image(path).meta
    assert read_image(path, modality=Modality.MR).meta["modality"] is Modality.MR


def test_description(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.nii.gz", PHANTOM.array)
    description = describe_image(path, values=True).to_json()
    assert description["shape"] == list(PHANTOM.array.shape)
    assert description["axcodes"] == "PIR"
    assert description["spacing_mm"] == pytest.approx([1.1, 2.3, 0.7])
    assert (description["dtype"], description["channels"]) == ("int16", 1)
    assert description["value_range"] == [0, 5]
    assert description["format"] == "NIfTI"
    assert description["oblique"] is False


def test_importing_is_cheap() -> None:
    code = "import sys, volseg.data; print({'torch','monai','nibabel','SimpleITK','pydicom','nrrd'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
