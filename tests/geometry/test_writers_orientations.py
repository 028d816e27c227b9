"""Every writer puts the phantom where another library finds it, in all 48 orientations and obliquely."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from phantom import Phantom, centroids_ras_mm, make_phantom, sitk_centroids_ras_mm

from volseg.data import Label, LabelMap, read_labelmap, write_labelmap
from volseg.geometry import Grid, all_orientations

ORIENTATIONS = list(all_orientations())


def labelmap_of(phantom: Phantom) -> LabelMap:
    labels = tuple(Label(value, f"block {value}", (value, 2, 3)) for value in phantom.centroids_ras_mm)
    return LabelMap(phantom.grid, (phantom.array,), labels)


def found_by_nibabel(path: Path) -> dict[int, np.ndarray]:
    image = nibabel.load(path)
    return centroids_ras_mm(np.asarray(image.dataobj), image.affine)


def found_by_nibabel_qform(path: Path) -> dict[int, np.ndarray]:
    image = nibabel.load(path)
    assert int(image.header["qform_code"]) == 1
    return centroids_ras_mm(np.asarray(image.dataobj), image.get_qform())


def found_by_itk(path: Path) -> dict[int, np.ndarray]:
    image = SimpleITK.ReadImage(str(path))
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    return sitk_centroids_ras_mm(image)


def found_by_slicerio(path: Path) -> dict[int, np.ndarray]:
    slicerio = pytest.importorskip("slicerio", reason="slicerio reads .seg.nrrd as 3D Slicer does")
    segmentation = slicerio.read_segmentation(str(path))
    assert [segment["name"] for segment in segmentation["segments"]] == ["block 1", "block 2", "block 3", "block 5"]
    return centroids_ras_mm(segmentation["voxels"], np.diag((-1, -1, 1, 1)) @ segmentation["ijkToLPS"])


READERS = {
    "nii by nibabel": (".nii", found_by_nibabel),
    "nii qform": (".nii", found_by_nibabel_qform),
    "nii.gz by nibabel": (".nii.gz", found_by_nibabel),
    "nii.gz by ITK": (".nii.gz", found_by_itk),
    "nrrd by ITK": (".nrrd", found_by_itk),
    "mha by ITK": (".mha", found_by_itk),
    "seg.nrrd by ITK": (".seg.nrrd", found_by_itk),
    "seg.nrrd by slicerio": (".seg.nrrd", found_by_slicerio),
}


@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("kind", READERS)
def test_others_find_the_labels(kind: str, oblique: bool, tmp_path: Path) -> None:
    suffix, found = READERS[kind]
    for axcodes in ORIENTATIONS:
        phantom = make_phantom(axcodes, oblique=oblique)
        path = tmp_path / f"{axcodes}{suffix}"
        write_labelmap(labelmap_of(phantom), path)
        phantom.check(found(path))
        again = read_labelmap(path)
        assert again.grid.same_as(phantom.grid)
        np.testing.assert_array_equal(again.array, phantom.array)


def test_sheared_grid_keeps_its_sform(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    affine = phantom.affine_ras.copy()
    affine[:3, 2] += (0.4, -0.3, 0.0)
    sheared = LabelMap(Grid(phantom.grid.shape, affine), (phantom.array,), ())
    for suffix in (".nii.gz", ".nrrd", ".mha", ".seg.nrrd"):
        write_labelmap(sheared, tmp_path / f"sheared{suffix}")
        assert read_labelmap(tmp_path / f"sheared{suffix}").grid.same_as(sheared.grid), suffix
    image = nibabel.load(tmp_path / "sheared.nii.gz")
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
