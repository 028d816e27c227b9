"""Segmentations and structure sets that are damaged or belong to other images."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import edited, write_patient_series
from phantom import make_phantom

from volseg.data import Label, LabelMap, read_image, read_labelmap
from volseg.data.dicom import read_dicom_seg, read_rtstruct, write_dicom_seg, write_rtstruct
from volseg.errors import GeometryError, ImageReadError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    """Folder, files of the images, and the phantom; a.seg.dcm and a.rtstruct.dcm are sound."""
    folder = tmp_path_factory.mktemp("study")
    phantom = make_phantom("LPS")
    paths = write_patient_series(folder / "ct", phantom.array, phantom.affine_ras)
    labels = LabelMap(
        phantom.grid,
        (phantom.array.astype(np.uint8),),
        tuple(Label(value, f"block {value}", (200, 0, 0)) for value in phantom.centroids_ras_mm),
    )
    write_dicom_seg(labels, folder / "a.seg.dcm", paths)
    write_rtstruct(labels, folder / "a.rtstruct.dcm", paths)
    return folder, paths, phantom


def contour(dataset):
    return dataset.ROIContourSequence[0].ContourSequence[0]


def shifted(contour_, axis: int, by_mm: float) -> None:
    points = np.array(contour_.ContourData, dtype=float).reshape(-1, 3)
    points[:, axis] += by_mm
    contour_.ContourData = [f"{value:.3f}" for value in points.ravel()]


def frame_of_reference(dataset) -> None:
    for item in dataset.StructureSetROISequence:
        item.ReferencedFrameOfReferenceUID = "1.2.3.4.5"


def no_frame_of_reference(dataset) -> None:
    del dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID


def two_points(dataset) -> None:
    contour(dataset).ContourData = ["0", "0", "0", "1", "1", "1"]
    contour(dataset).NumberOfContourPoints = 2


def tilted(dataset) -> None:
    points = np.array(contour(dataset).ContourData, dtype=float).reshape(-1, 3)
    points[:, 2] += 4.0 * np.arange(len(points))
    contour(dataset).ContourData = [f"{value:.3f}" for value in points.ravel()]


BAD_STRUCTURE_SETS = {
    "other frame of reference": (frame_of_reference, r"frame of reference 1\.2\.3\.4\.5"),
    "no frame of reference": (no_frame_of_reference, "does not say which frame of reference"),
    "between slices": (lambda d: shifted(contour(d), 2, 1.0), "between slices"),
    "beyond the series": (lambda d: shifted(contour(d), 2, 2.3 * 40), "outside of the image's 9 slices"),
    "tilted": (tilted, "do not lie on the image's slices|between slices"),
    "open": (lambda d: setattr(contour(d), "ContourGeometricType", "OPEN_PLANAR"), "OPEN_PLANAR"),
    "a point among outlines": (lambda d: setattr(contour(d), "ContourGeometricType", "POINT"), "type POINT"),
    "no type": (lambda d: delattr(contour(d), "ContourGeometricType"), "not stated"),
    "two points": (two_points, "three points"),
    "wrong count": (lambda d: setattr(contour(d), "NumberOfContourPoints", 77), "declares 77"),
    "no data": (lambda d: delattr(contour(d), "ContourData"), "damaged"),
    "undescribed region": (lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", 99), "region 99"),
    "no regions": (lambda d: delattr(d, "StructureSetROISequence"), "not a DICOM structure set"),
}


@pytest.mark.parametrize("case", BAD_STRUCTURE_SETS)
def test_bad_structure_sets(case: str, study, tmp_path: Path) -> None:
    folder, paths, _ = study
    change, message = BAD_STRUCTURE_SETS[case]
    bad = edited(folder / "a.rtstruct.dcm", tmp_path / "bad.dcm", change)
    with pytest.raises(ImageReadError, match=message):
        read_rtstruct(bad, paths)


def test_regions_of_points_are_left_out(study, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, paths, _ = study

    def isocentre(dataset, regions=1):
        for item in dataset.ROIContourSequence[:regions]:
            item.ContourSequence = item.ContourSequence[:1]
            item.ContourSequence[0].ContourGeometricType = "POINT"
            item.ContourSequence[0].ContourData = ["0", "0", "0"]
            item.ContourSequence[0].NumberOfContourPoints = 1

    with caplog.at_level(logging.WARNING):
        labels = read_rtstruct(edited(folder / "a.rtstruct.dcm", tmp_path / "b.dcm", isocentre), paths)
    assert [label.name for label in labels.labels] == ["block 2", "block 3", "block 5"]
    assert "block 1 consists of points" in caplog.text
    bad = edited(folder / "a.rtstruct.dcm", tmp_path / "c.dcm", lambda d: isocentre(d, 4))
    with pytest.raises(ImageReadError, match="no region with outlines"):
        read_rtstruct(bad, paths)


def test_an_outline_beyond_the_edge_is_cut(study, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, paths, phantom = study

    def move(dataset):
        for item in dataset.ROIContourSequence[0].ContourSequence:
            shifted(item, 0, -30.0)

    with caplog.at_level(logging.WARNING):
        labels = read_rtstruct(edited(folder / "a.rtstruct.dcm", tmp_path / "b.dcm", move), paths)
    assert "beyond the image" in caplog.text
    assert not labels.mask(1).any()
    np.testing.assert_array_equal(labels.mask(3), phantom.array == 3)


def test_xor_contours(study, tmp_path: Path) -> None:
    folder, paths, _ = study

    def ring(dataset):
        for item in dataset.ROIContourSequence[2].ContourSequence:
            item.ContourGeometricType = "CLOSEDPLANAR_XOR"
        contours = list(dataset.ROIContourSequence[2].ContourSequence)
        dataset.ROIContourSequence[2].ContourSequence = [*contours, contours[0]]

    before = read_rtstruct(folder / "a.rtstruct.dcm", paths).mask(3)
    after = read_rtstruct(edited(folder / "a.rtstruct.dcm", tmp_path / "b.dcm", ring), paths).mask(3)
    k = int(np.flatnonzero(before.any(axis=(0, 1)))[0])
    assert not after[..., k].any()  # the same outline twice takes itself away
    np.testing.assert_array_equal(after[..., k + 1 :], before[..., k + 1 :])


def no_position(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def no_segment(dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence


def other_segment(dataset) -> None:
    identification = dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0]
    identification.ReferencedSegmentNumber = 9


def moved_frame(dataset) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    x, y, z = position.ImagePositionPatient
    position.ImagePositionPatient = [x, y + 3, z]


def between(dataset) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    x, y, z = position.ImagePositionPatient
    position.ImagePositionPatient = [x, y, z + 1.1]


BAD_SEGMENTATIONS = {
    "other frame of reference": (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.9"), ImageReadError, r"1\.2\.9"),
    "no segments": (lambda d: delattr(d, "SegmentSequence"), ImageReadError, "not a DICOM segmentation"),
    "no position": (no_position, ImageReadError, "frame 1 does not say where"),
    "no segment number": (no_segment, ImageReadError, "does not say to which segment"),
    "undescribed segment": (other_segment, ImageReadError, "segment 9, which is not described"),
    "moved frame": (moved_frame, ImageReadError, "straight behind"),
    "between slices": (between, GeometryError, "between slices"),
    "unknown type": (lambda d: setattr(d, "SegmentationType", "SURFACE"), ImageReadError, "SURFACE"),
    "short pixels": (lambda d: setattr(d, "PixelData", b"ab"), ImageReadError, ""),
}


@pytest.mark.parametrize("case", BAD_SEGMENTATIONS)
def test_bad_segmentations(case: str, study, tmp_path: Path) -> None:
    folder, paths, _ = study
    change, error, message = BAD_SEGMENTATIONS[case]
    bad = edited(folder / "a.seg.dcm", tmp_path / "bad.dcm", change)
    with pytest.raises(error, match=message):
        read_dicom_seg(bad, sources=paths)


def test_another_grid(study) -> None:
    folder, _, phantom = study
    with pytest.raises(GeometryError, match=r"another grid|between slices"):
        read_dicom_seg(folder / "a.seg.dcm", phantom.grid.with_spacing((1.0, 1.0, 2.3)))
    with pytest.raises(GeometryError, match="outside"):
        read_dicom_seg(folder / "a.seg.dcm", phantom.grid.cropped((6, 0, 0), (5, 13, 9)))


def test_kinds_of_files_are_told_by_their_headers(study, tmp_path: Path) -> None:
    folder, paths, phantom = study
    (tmp_path / "RS").write_bytes((folder / "a.rtstruct.dcm").read_bytes())
    (tmp_path / "x.dcm").write_bytes((folder / "a.seg.dcm").read_bytes())
    for name in ("RS", "x.dcm"):
        np.testing.assert_array_equal(read_labelmap(tmp_path / name, sources=paths).array, phantom.array)
        with pytest.raises(ImageReadError, match="holds labels, not an image"):
            read_image(tmp_path / name)
    with pytest.raises(ImageReadError, match="--reference"):
        read_labelmap(tmp_path / "RS")
    with pytest.raises(ImageReadError, match="not a DICOM structure set"):
        read_rtstruct(paths[0], phantom.grid)
    with pytest.raises(ImageReadError, match="not a DICOM segmentation"):
        read_dicom_seg(paths[0])
    # Results in the images' folder are no images.
    (folder / "ct" / "a.seg.dcm").write_bytes((folder / "a.seg.dcm").read_bytes())
    np.testing.assert_array_equal(read_image(folder / "ct")[0].numpy(), phantom.array)
    (folder / "ct" / "a.seg.dcm").unlink()


def test_sources_of_several_series_or_without_identifiers(study, tmp_path: Path) -> None:
    folder, paths, phantom = study
    labels = LabelMap(phantom.grid, (phantom.array.astype(np.uint8),), (Label(1, "a", (1, 2, 3)),))
    other = write_patient_series(tmp_path / "other", phantom.array, phantom.affine_ras, uid="1.9")
    nameless = [edited(path, tmp_path / f"{path.name}", lambda d: delattr(d, "FrameOfReferenceUID")) for path in paths]
    for sources, message in (
        ([*paths, *other], "2 series"),
        ([], "no DICOM images"),
        (nameless, "no FrameOfReferenceUID"),
        (paths[::2] + paths[1:2], "missing|uneven"),
        ([folder / "a.seg.dcm"], "not a DICOM image"),
    ):
        for write in (write_dicom_seg, write_rtstruct):
            with pytest.raises(ImageReadError, match=message):
                write(labels, tmp_path / "x.dcm", sources)
    assert not (tmp_path / "x.dcm").exists()
    assert pydicom.dcmread(paths[0]).PatientName == "Planted^Name"
