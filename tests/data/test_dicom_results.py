"""Label maps to DICOM segmentations and structure sets, and back."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import PATIENT, edited, write_enhanced, write_patient_series
from phantom import make_phantom

from volseg.data import Label, LabelMap, Provenance, SnomedCode, read_labelmap, read_mask, write_labelmap
from volseg.data.dicom import (
    SegmentationKind,
    labelmap_prompts,
    read_dicom_seg,
    read_rtstruct,
    read_sources,
    write_dicom_seg,
    write_rtstruct,
)
from volseg.errors import GeometryError, WriteError

# Axial head and feet first, coronal, sagittal, and left-handed arrays, whose slices come in reversed order.
DIRECTIONS = ["LPS", "LPI", "RAS", "LSA", "LIP", "PSR", "AIL", "PIR"]


def awkward_masks(shape):
    """Objects that are hard to outline: holes, islands, single voxels, touching corners, the border, overlap."""
    i, j, k = np.indices(shape)
    ring = (np.abs(i - 4) + np.abs(j - 4) <= 4) & (np.abs(i - 4) + np.abs(j - 4) >= 2) & (k >= 1) & (k <= 6)
    ring[4, 4, 3] = True  # an island in the hole
    border = (i == 0) | (j == shape[1] - 1) | (k == 0)
    checks = ((i + j + k) % 2 == 0) & (i > 5)
    one = np.zeros(shape, dtype=bool)
    one[5, 6, 4] = True
    noise = np.random.default_rng(5).random(shape) < 0.6
    return {2: ring, 3: border, 7: checks, 20: one, 300: noise, 11: np.zeros(shape, dtype=bool)}


def awkward_labelmap(grid):
    masks = awkward_masks(grid.shape)
    layers = tuple(np.where(mask, value, 0).astype(np.uint16) for value, mask in masks.items())
    labels = [
        Label(value, f"object \u00e4 {value} " + "long" * 20, (10 * n, 200, 30), layer, presence=0.25 * n or None)
        for n, (layer, value) in enumerate(enumerate(masks))
    ]
    labels[1] = replace(labels[1], snomed=SnomedCode("10200004", "Liver"))
    origin = Provenance("volseg 1.2", "tiny 3.4", "ab" * 32, "cd" * 32, (("window", "soft"),))
    return LabelMap(grid, layers, tuple(labels), origin)


def assert_same(one: LabelMap, other: LabelMap) -> None:
    assert one.grid.same_as(other.grid)
    assert one.provenance == other.provenance
    assert [replace(label, layer=0) for label in one.labels] == [replace(label, layer=0) for label in other.labels]
    for label in one.labels:
        np.testing.assert_array_equal(one.mask(label.value), other.mask(label.value), err_msg=label.name)


def series(folder: Path, axcodes: str = "LPS", *, oblique: bool = False, reverse: bool = False):
    phantom = make_phantom(axcodes, oblique=oblique)
    return phantom, write_patient_series(folder, phantom.array, phantom.affine_ras, reverse=reverse)


@pytest.mark.parametrize("axcodes", DIRECTIONS)
@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
def test_round_trips_in_all_directions(axcodes: str, oblique: bool, tmp_path: Path) -> None:
    # The label map lies on the array's grid, which for left-handed arrays is not the one the slices are sorted to.
    phantom, paths = series(tmp_path / "ct", axcodes, oblique=oblique, reverse=oblique)
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    assert_same(read_dicom_seg(tmp_path / "a.seg.dcm", phantom.grid), labels)
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", paths)
    assert_same(read_rtstruct(tmp_path / "a.rtstruct.dcm", phantom.grid), labels)
    on_slices = read_rtstruct(tmp_path / "a.rtstruct.dcm", paths)
    assert_same(read_dicom_seg(tmp_path / "a.seg.dcm"), on_slices)
    assert on_slices.grid == read_sources(paths).grid


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "PIR"])
def test_others_find_the_objects_in_the_same_place(axcodes: str, tmp_path: Path) -> None:
    """Centroids in patient coordinates by highdicom (SEG) and by the outlines' own area (RTSTRUCT)."""
    import highdicom

    phantom, paths = series(tmp_path / "ct", axcodes, oblique=True)
    labels = LabelMap(
        phantom.grid,
        (phantom.array.astype(np.uint8),),
        tuple(Label(value, f"block {value}", (255, 0, 0)) for value in phantom.centroids_ras_mm),
    )
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", paths)
    segmentation = highdicom.seg.segread(tmp_path / "a.seg.dcm")
    structures = pydicom.dcmread(tmp_path / "a.rtstruct.dcm")
    for number, (value, centroid) in enumerate(phantom.centroids_ras_mm.items(), start=1):
        volume = segmentation.get_volume(segment_numbers=[number], combine_segments=True)
        lps = volume.affine @ np.append(np.argwhere(volume.array).mean(axis=0), 1)
        np.testing.assert_allclose(lps[:3] * (-1, -1, 1), centroid, atol=1e-3)
        (contours,) = (item for item in structures.ROIContourSequence if item.ReferencedROINumber == value)
        # Blocks: each outline is symmetric around its middle.
        middles = []
        for contour in contours.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            middles.append(points.mean(axis=0))
        np.testing.assert_allclose(np.mean(middles, axis=0) * (-1, -1, 1), centroid, atol=1e-3)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_results_on_a_multiframe_file(modality: str, tmp_path: Path) -> None:
    phantom = make_phantom("LPS", oblique=True)
    order = [3, 1, 0, 2, 4, 8, 7, 6, 5]
    path = write_enhanced(tmp_path / "image.dcm", phantom.array, phantom.affine_ras, order=order, modality=modality)
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", [path])
    assert_same(read_dicom_seg(tmp_path / "a.seg.dcm", phantom.grid), labels)
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", [path])
    assert_same(read_rtstruct(tmp_path / "a.rtstruct.dcm", [path]), labels)
    structures = pydicom.dcmread(tmp_path / "a.rtstruct.dcm")
    contour = next(item for item in structures.ROIContourSequence if item.ReferencedROINumber == 20).ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == order.index(4) + 1
    segmentation = pydicom.dcmread(tmp_path / "a.seg.dcm")
    group = segmentation.PerFrameFunctionalGroupsSequence[0]
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    k = round(float(phantom.grid.to_ijk(group.PlanePositionSequence[0].ImagePositionPatient, "lps")[2]))
    assert source.ReferencedFrameNumber == order.index(k) + 1


def test_labelmap_kind_keeps_values_as_segment_numbers(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    layer = (phantom.array * 100).astype(np.uint16)
    labels = LabelMap(phantom.grid, (layer,), tuple(Label(100 * n, f"{n}", (1, 2, 3)) for n in (1, 2, 3, 5)))
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths, kind=SegmentationKind.LABELMAP)
    dataset = pydicom.dcmread(tmp_path / "a.seg.dcm")
    assert set(np.unique(dataset.pixel_array)) == {0, 100, 200, 300, 500}
    assert_same(read_dicom_seg(tmp_path / "a.seg.dcm"), labels)
    with pytest.raises(WriteError, match="overlap"):
        write_dicom_seg(awkward_labelmap(phantom.grid), tmp_path / "b.seg.dcm", paths, kind=SegmentationKind.LABELMAP)
    assert not (tmp_path / "b.seg.dcm").exists()


def test_probabilities(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct", "RAS")
    generator = np.random.default_rng(1)
    probabilities = {value: generator.random(phantom.grid.shape) for value in (1, 4)}
    layers = tuple(np.where(p >= 0.5, value, 0).astype(np.uint8) for value, p in probabilities.items())
    labels = LabelMap(phantom.grid, layers, tuple(Label(v, f"{v}", (9, 9, 9), n) for n, v in enumerate((1, 4))))
    path = tmp_path / "a.seg.dcm"
    write_dicom_seg(labels, path, paths, kind=SegmentationKind.FRACTIONAL, probabilities=probabilities)
    dataset = pydicom.dcmread(path)
    assert (dataset.SegmentationFractionalType, dataset.MaximumFractionalValue) == ("PROBABILITY", 255)
    read = read_dicom_seg(path, phantom.grid)
    for value, p in probabilities.items():
        surely = np.abs(p - 0.5) > 1 / 255
        np.testing.assert_array_equal(read.mask(value)[surely], (p >= 0.5)[surely])
    stored = sorted(dataset.pixel_array.ravel().tolist())
    expected = sorted(np.round(np.concatenate([p.ravel() for p in probabilities.values()]) * 255).astype(int).tolist())
    assert stored[-len(expected) :] == expected
    for wrong in (None, {1: probabilities[1]}, {1: probabilities[1], 4: probabilities[4] + 1}):
        with pytest.raises(WriteError, match="probabilit"):
            write_dicom_seg(labels, path, paths, kind=SegmentationKind.FRACTIONAL, probabilities=wrong)


def test_only_frames_that_hold_something(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    occupied = sum(int(labels.mask(label.value).any(axis=(0, 1)).sum()) for label in labels.labels)
    assert pydicom.dcmread(tmp_path / "a.seg.dcm").NumberOfFrames == occupied
    nothing = LabelMap(phantom.grid, (np.zeros(phantom.grid.shape, np.uint8),), (Label(3, "spleen", (1, 2, 3)),))
    for name, write in (("e.seg.dcm", write_dicom_seg), ("e.rtstruct.dcm", write_rtstruct)):
        write(nothing, tmp_path / name, paths)
        assert_same(read_labelmap(tmp_path / name, sources=paths), nothing)
    assert pydicom.dcmread(tmp_path / "e.seg.dcm").NumberOfFrames == 1
    with pytest.raises(WriteError, match="no objects"):
        write_rtstruct(replace(nothing, labels=()), tmp_path / "x.rtstruct.dcm", paths)


def test_the_same_input_gives_the_same_bytes_and_another_one_other_uids(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)
    other = replace(labels, layers=(*labels.layers[:-1], np.roll(labels.layers[-1], 1, axis=0)), labels=labels.labels)
    other = replace(other, layers=(np.roll(labels.layers[0], 1, axis=0), *labels.layers[1:]))
    for suffix, write in ((".seg.dcm", write_dicom_seg), (".rtstruct.dcm", write_rtstruct)):
        files = [tmp_path / f"{name}{suffix}" for name in "abc"]
        write(labels, files[0], paths)
        write(labels, files[1], paths[::-1])
        write(other, files[2], paths)
        assert files[0].read_bytes() == files[1].read_bytes()
        one, third = pydicom.dcmread(files[0]), pydicom.dcmread(files[2])
        assert one.SOPInstanceUID != third.SOPInstanceUID
        assert one.SeriesInstanceUID != third.SeriesInstanceUID
        assert (one.StudyInstanceUID, one.FrameOfReferenceUID) == ("1.2.826.1.1", "1.2.826.1.2")


def test_codes_colours_and_references(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", paths)
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    segmentation = pydicom.dcmread(tmp_path / "a.seg.dcm")
    first, second = segmentation.SegmentSequence[:2]
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "tiny"
    listed = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in listed} == sources
    structures = pydicom.dcmread(tmp_path / "a.rtstruct.dcm")
    assert [item.ROINumber for item in structures.StructureSetROISequence] == [2, 3, 7, 11, 20, 300]
    assert list(structures.ROIContourSequence[1].ROIDisplayColor) == [10, 200, 30]
    assert structures.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0].CodeMeaning == "Liver"
    assert "ContourSequence" not in structures.ROIContourSequence[3]


def test_what_other_software_changed_counts(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", paths)

    def rename(dataset):
        dataset.SegmentSequence[0].SegmentLabel = "spleen"
        dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "78961009"

    def rename_region(dataset):
        dataset.StructureSetROISequence[0].ROIName = "spleen"
        dataset.ROIContourSequence[0].ROIDisplayColor = [1, 2, 3]

    label = read_dicom_seg(edited(tmp_path / "a.seg.dcm", tmp_path / "b.dcm", rename)).labels[0]
    assert (label.value, label.name, label.snomed.code) == (2, "spleen", "78961009")
    region = read_rtstruct(edited(tmp_path / "a.rtstruct.dcm", tmp_path / "c.dcm", rename_region), paths).labels[0]
    assert (region.value, region.name, region.color_rgb) == (2, "spleen", (1, 2, 3))


def without_private(dataset):
    dataset.remove_private_tags()


def test_files_without_our_private_attributes(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    path = edited(tmp_path / "a.seg.dcm", tmp_path / "b.dcm", without_private)
    read = read_dicom_seg(path, phantom.grid)
    for number, label in enumerate(labels.labels, start=1):
        np.testing.assert_array_equal(read.mask(number), labels.mask(label.value))
        assert np.abs(np.subtract(read.label(number).color_rgb, label.color_rgb)).max() <= 2
    alone = read_dicom_seg(path)  # the smallest grid that holds all frames
    assert alone.grid.spacing_mm == pytest.approx(phantom.grid.spacing_mm, abs=1e-3)
    assert sum(int(alone.mask(n).sum()) for n in (1, 2)) == sum(int(labels.mask(v).sum()) for v in (2, 3))


def test_patient_only_in_the_patient_module(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(
        tmp_path / "ct",
        phantom.array,
        phantom.affine_ras,
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Gr\u00fcnewald",  # without ^, which libraries complain about
    )
    labels = awkward_labelmap(phantom.grid)
    with caplog.at_level("DEBUG"):
        for name, write in (("a.seg.dcm", write_dicom_seg), ("a.rtstruct.dcm", write_rtstruct)):
            write(labels, tmp_path / name, paths)
            dataset = pydicom.dcmread(tmp_path / name)
            assert str(dataset.PatientName) == "Gr\u00fcnewald"
            assert dataset.SpecificCharacterSet == "ISO_IR 192"
            assert dataset.PatientID == PATIENT["PatientID"]
            del dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate
            text = str(dataset)
            assert not any(word in text for word in ("newald", "PLANTED", "19610203"))
    assert not any(word in caplog.text for word in ("newald", "PLANTED", "19610203"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.rtstruct.dcm", "a.seg.dcm", "ct"]


def test_labels_on_other_voxels_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    coarse = phantom.grid.with_spacing((2.0, 2.0, 2.3))
    labels = LabelMap(coarse, (np.ones(coarse.shape, np.uint8),), (Label(1, "a", (1, 1, 1)),))
    beyond = phantom.grid.cropped((5, 0, 0), phantom.grid.shape)
    too_far = LabelMap(beyond, (np.ones(beyond.shape, np.uint8),), labels.labels)
    for name in ("x.seg.dcm", "x.rtstruct.dcm"):
        with pytest.raises(GeometryError, match="another grid"):
            write_labelmap(labels, tmp_path / name, paths)
        with pytest.raises(GeometryError, match="outside"):
            write_labelmap(too_far, tmp_path / name, paths)
        with pytest.raises(WriteError, match="refers to DICOM images"):
            write_labelmap(labels, tmp_path / name)
    part = phantom.grid.cropped((2, 3, 1), (4, 4, 4))
    labels = LabelMap(part, (np.ones(part.shape, np.uint8),), labels.labels)
    write_labelmap(labels, tmp_path / "part.seg.dcm", paths)
    assert read_labelmap(tmp_path / "part.seg.dcm").mask(1)[2:6, 3:7, 1:5].all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "part.seg.dcm"]


def test_a_failure_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)

    def fail(dataset, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail)
    for name, write in (("a.seg.dcm", write_dicom_seg), ("a.rtstruct.dcm", write_rtstruct)):
        with pytest.raises(WriteError, match="No space left"):
            write(labels, tmp_path / name, paths)
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_results_as_prompts(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct")
    labels = awkward_labelmap(phantom.grid)
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", paths)
    prompts = labelmap_prompts(read_labelmap(tmp_path / "a.rtstruct.dcm", sources=paths))
    assert [item.object_id for item in prompts.objects] == [2, 3, 7, 20, 300]  # the empty one says nothing
    for item in prompts.objects:
        np.testing.assert_array_equal(item.prompts[0].on(phantom.grid), labels.mask(item.object_id))
    mask, _ = read_mask(tmp_path / "a.rtstruct.dcm", grid=phantom.grid)
    np.testing.assert_array_equal(mask, np.any([labels.mask(label.value) for label in labels.labels], axis=0))


def complaints(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian package dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    phantom, paths = series(tmp_path / "ct", oblique=True)
    labels = awkward_labelmap(phantom.grid)
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    assert complaints(tmp_path / "a.seg.dcm") == []
    write_rtstruct(labels, tmp_path / "a.rtstruct.dcm", paths)
    assert complaints(tmp_path / "a.rtstruct.dcm") == []
    probabilities = {label.value: labels.mask(label.value).astype(np.float32) for label in labels.labels}
    write_dicom_seg(
        labels, tmp_path / "f.seg.dcm", paths, kind=SegmentationKind.FRACTIONAL, probabilities=probabilities
    )
    assert complaints(tmp_path / "f.seg.dcm") == []


@pytest.mark.shared
@pytest.mark.parametrize("modality", ["CT", "MR_T1"])
def test_the_real_patients_tumour(modality: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom" / "STS_003" / modality
    paths = sorted((folder / "image").iterdir())
    drawn = read_rtstruct(folder / "mask" / "RS.dcm", paths)
    truth = read_labelmap(shared_data / "sts" / "STS_003" / f"{modality}_mask.nii.gz")
    assert truth.grid.same_as(drawn.grid, tolerance=0.01)
    both = int((drawn.mask(1) & truth.mask(1)).sum())
    assert 2 * both / int(drawn.mask(1).sum() + truth.mask(1).sum()) >= 0.95
    write_dicom_seg(drawn, tmp_path / "a.seg.dcm", paths)
    assert_same(read_dicom_seg(tmp_path / "a.seg.dcm"), drawn)
    write_rtstruct(drawn, tmp_path / "a.rtstruct.dcm", paths)
    assert_same(read_rtstruct(tmp_path / "a.rtstruct.dcm", paths), drawn)
    for name in ("a.seg.dcm", "a.rtstruct.dcm"):
        # The scanner's own Study ID is too long; it identifies the study and is copied as it is.
        assert [line for line in complaints(tmp_path / name) if "Study ID" not in line] in (
            [],
            ["Error - Dicom dataset contains invalid data values for Value Representations"],
        )
