"""Every reader puts the phantom where the library that wrote the file has it, in all 48 orientations and obliquely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import write_series
from phantom import Phantom, centroids_ras_mm, make_phantom, sitk_centroids_ras_mm, sitk_image

from volseg.data import read_image, read_labelmap
from volseg.geometry import Grid, all_orientations

ORIENTATIONS = list(all_orientations())


def by_nibabel(suffix: str, *, qform_only: bool = False, order: str = "<") -> Callable[[Phantom, Path], Path]:
    def write(phantom: Phantom, folder: Path) -> Path:
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(np.int16)
        image = nibabel.Nifti1Image(phantom.array, phantom.affine_ras, header)
        if qform_only:
            image.set_qform(phantom.affine_ras, code=1)
            image.set_sform(None, code=0)
        image.to_filename(folder / f"phantom{suffix}")
        return folder / f"phantom{suffix}"

    return write


def by_nibabel_2(phantom: Phantom, folder: Path) -> Path:
    nibabel.Nifti2Image(phantom.array, phantom.affine_ras).to_filename(folder / "phantom.nii")
    return folder / "phantom.nii"


def by_sitk(suffix: str, *, compress: bool = True) -> Callable[[Phantom, Path], Path]:
    def write(phantom: Phantom, folder: Path) -> Path:
        image = sitk_image(phantom)
        phantom.check(sitk_centroids_ras_mm(image))
        SimpleITK.WriteImage(image, str(folder / f"phantom{suffix}"), useCompression=compress)
        return folder / f"phantom{suffix}"

    return write


def by_pynrrd(space: str) -> Callable[[Phantom, Path], Path]:
    signs = {"right-anterior-superior": (1, 1, 1), "LAS": (-1, 1, 1), "left-posterior-superior": (-1, -1, 1)}[space]

    def write(phantom: Phantom, folder: Path) -> Path:
        import nrrd

        affine = np.diag((*signs, 1)) @ phantom.affine_ras
        header = {"space": space, "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
        nrrd.write(str(folder / "phantom.nrrd"), phantom.array, header, compression_level=1)
        return folder / "phantom.nrrd"

    return write


def by_pydicom(*, reverse: bool) -> Callable[[Phantom, Path], Path]:
    def write(phantom: Phantom, folder: Path) -> Path:
        # Stored as unsigned numbers, as CT scanners do: 1024 is a value of 0.
        stored = (phantom.array + 1024).astype(np.uint16)
        write_series(
            folder, stored, phantom.affine_ras, reverse=reverse, BitsStored=12, HighBit=11, RescaleSlope=1,
            RescaleIntercept=-1024,
        )  # fmt: skip
        return folder

    return write


WRITERS: dict[str, Callable[[Phantom, Path], Path]] = {
    "nii": by_nibabel(".nii"),
    "nii.gz": by_nibabel(".nii.gz"),
    "nii qform": by_nibabel(".nii", qform_only=True),
    "nii big endian": by_nibabel(".nii", order=">"),
    "nii 2": by_nibabel_2,
    "nii.gz by ITK": by_sitk(".nii.gz"),
    "nrrd": by_sitk(".nrrd"),
    "nhdr": by_sitk(".nhdr", compress=False),
    "nrrd RAS": by_pynrrd("right-anterior-superior"),
    "nrrd LAS": by_pynrrd("LAS"),
    "nrrd LPS": by_pynrrd("left-posterior-superior"),
    "mha": by_sitk(".mha"),
    "mhd": by_sitk(".mhd", compress=False),
    "dicom": by_pydicom(reverse=False),
    "dicom reversed": by_pydicom(reverse=True),
}


# Writing DICOM is slow, so its two kinds share the work.
CASES = [
    (kind, oblique)
    for kind in WRITERS
    for oblique in (False, True)
    if (kind, oblique) not in (("dicom", True), ("dicom reversed", False))
]


@pytest.mark.parametrize(("kind", "oblique"), CASES)
def test_image_lies_where_its_writer_put_it(kind: str, oblique: bool, tmp_path: Path) -> None:
    for axcodes in ORIENTATIONS:
        phantom = make_phantom(axcodes, oblique=oblique)
        folder = tmp_path / axcodes
        folder.mkdir()
        image = read_image(WRITERS[kind](phantom, folder))
        assert image.dtype.is_signed
        assert not image.dtype.is_floating_point
        phantom.check(centroids_ras_mm(image[0].numpy(), image.affine))
        grid = Grid.of(image)
        if "dicom" in kind:  # slices have no order of their own: only the way along k may differ
            assert grid.axcodes[:2] == axcodes[:2]
            assert grid.spacing_mm == pytest.approx(phantom.grid.spacing_mm, abs=1e-6)
        else:
            assert grid.axcodes == axcodes
            assert grid.same_as(phantom.grid)
            np.testing.assert_array_equal(image[0].numpy(), phantom.array)


@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "nrrd RAS", "mha"])
def test_labels_lie_where_their_writer_put_them(kind: str, tmp_path: Path) -> None:
    for axcodes in ORIENTATIONS:
        phantom = make_phantom(axcodes, oblique=True)
        folder = tmp_path / axcodes
        folder.mkdir()
        labelmap = read_labelmap(WRITERS[kind](phantom, folder))
        phantom.check(centroids_ras_mm(labelmap.array, labelmap.grid.affine_ras))
        assert labelmap.array.dtype == np.uint8


def test_dicom_agrees_with_itk(tmp_path: Path) -> None:
    for oblique in (False, True):
        for axcodes in ("LPS", "RAS", "PIR", "SAL"):
            phantom = make_phantom(axcodes, oblique=oblique)
            folder = by_pydicom(reverse=True)(phantom, tmp_path / f"{axcodes}{oblique}")
            compare_with_itk(read_image(folder), folder)


@pytest.mark.shared
@pytest.mark.parametrize("series", ["CT", "MR_T1"])
def test_real_dicom_agrees_with_itk(series: str, shared_data: Path) -> None:
    folder = shared_data / "dicom" / "STS_003" / series / "image"
    image = read_image(folder)
    assert str(image.meta["modality"]) == series[:2]
    compare_with_itk(image, folder)


def compare_with_itk(image: Any, folder: Path) -> None:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    expected = reader.Execute()
    np.testing.assert_array_equal(image[0].numpy(), SimpleITK.GetArrayViewFromImage(expected).T)
    for index in Grid.of(image).corners_ijk().astype(int).tolist():
        point = np.array(expected.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(Grid.of(image).to_ras_mm(index), point, atol=1e-3)
