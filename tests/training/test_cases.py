from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from volseg.errors import TrainingError
from volseg.geometry import Plane
from volseg.training.cases import TrainingCase, find_cases, split_cases
from volseg.training.config import NANO_CONFIG, SourceConfig, TrainConfig, read_config
from volseg.training.volume import read_volume


def test_cases_of_one_patient_stay_on_one_side(data_folder: Path, tiny_config: TrainConfig) -> None:
    again = replace(tiny_config.sources[0], group="again")
    config = replace(tiny_config, sources=(*tiny_config.sources, again))
    training, scored = split_cases(data_folder, config)
    assert {case.patient for case in training} == {"P0", "P1", "P2"}
    assert sorted(case.name for case in scored) == ["again/P3", "scans/P3"]


def test_labels_that_programs_made_are_trained_on_but_not_scored(data_folder: Path, tiny_config: TrainConfig) -> None:
    config = replace(tiny_config, sources=(replace(tiny_config.sources[0], expert=False),))
    training, scored = split_cases(data_folder, config)
    assert len(training) == 3
    assert not scored


def test_an_unknown_validation_patient_is_refused(data_folder: Path, tiny_config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match="P9"):
        split_cases(data_folder, replace(tiny_config, validation=("P9",)))


def test_no_cases_are_refused(tmp_path: Path, source: SourceConfig) -> None:
    with pytest.raises(TrainingError, match="no case of group scans"):
        find_cases(tmp_path, source)


def test_the_shared_volumes_are_split_as_written_down(shared_data: Path) -> None:
    config = read_config(NANO_CONFIG)
    training, scored = split_cases(shared_data, config)
    assert not {case.patient for case in training} & {case.patient for case in scored}
    groups = [case.source.group for case in scored]
    assert (groups.count("sts_ct"), groups.count("sts_mr"), groups.count("cord")) == (6, 6, 2)
    assert groups.count("hippocampus") == 16
    assert {case.source.group for case in training} == {
        "sts_ct",
        "sts_mr",
        "hippocampus",
        "body_ct",
        "body_mr",
        "brain",
    }


def test_a_table_of_cases(data_folder: Path) -> None:
    table = data_folder / "cases.csv"
    rows = [
        f"c{n},scans/P{n}/image.nii.gz,scans/P{n}/label.nii.gz,MR,heart,{'validation' if n else ''}" for n in (0, 1)
    ]
    table.write_text("id,image,label,modality,group,split\n" + "\n".join(rows) + "\n")
    training, scored = split_cases(table, read_config(NANO_CONFIG))
    assert [case.name for case in training] == ["heart/c0"]
    assert [case.name for case in scored] == ["heart/c1"]
    assert len(read_volume(training[0]).objects) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("c0,scans/P0/image.nii.gz,,MR,a,", "has no label"),
        ("c0,scans/P0/image.nii.gz,scans/P0/absent.nii.gz,MR,a,", "absent.nii.gz"),
        ("c0,scans/P0/image.nii.gz,scans/P0/label.nii.gz,PET,a,", "PET"),
        ("c0,scans/P0/image.nii.gz,scans/P0/label.nii.gz,MR,a,validation", "none to train on"),
        ("c0,scans/P0/image.nii.gz,scans/P0/label.nii.gz,MR,a,test", "test"),
    ],
)
def test_a_wrong_row_is_named(data_folder: Path, row: str, said: str) -> None:
    table = data_folder / "wrong.csv"
    table.write_text(f"id,image,label,modality,patient,split\n{row}\n")
    with pytest.raises(TrainingError, match=said):
        split_cases(table, read_config(NANO_CONFIG))


def test_one_patient_on_both_sides_is_refused(data_folder: Path) -> None:
    table = data_folder / "both.csv"
    rows = [
        f"c{n},scans/P{n}/image.nii.gz,scans/P{n}/label.nii.gz,MR,one,{s}" for n, s in enumerate(["", "validation"])
    ]
    table.write_text("id,image,label,modality,patient,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(TrainingError, match="one"):
        split_cases(table, read_config(NANO_CONFIG))


# ---- reading a case


def case_of(folder: Path, source: SourceConfig) -> TrainingCase:
    return find_cases(folder, source)[0]


def test_the_index_agrees_with_the_labels(data_folder: Path, source: SourceConfig) -> None:
    volume = read_volume(case_of(data_folder, source))
    assert volume.acquired is Plane.AXIAL
    for plane, slices in volume.planes.items():
        for item in volume.objects:
            where = item.planes[plane]
            mask = item.mask(slices.labels)
            np.testing.assert_array_equal(where.indices, np.flatnonzero(mask.any(axis=(1, 2))))
            for index, box in zip(where.indices, where.boxes_rc, strict=True):
                found = np.argwhere(mask[index])
                np.testing.assert_array_equal(box, [*found.min(axis=0), *found.max(axis=0)])


def test_slices_are_in_display_orientation(data_folder: Path, source: SourceConfig) -> None:
    """The rod lies left and posterior (low i and j of an LPS grid are right and anterior)."""
    volume = read_volume(case_of(data_folder, source))
    axial = volume.planes[Plane.AXIAL]
    rows, columns = np.nonzero(axial.labels[0] == 2)
    # i and j grow towards left and posterior, as rows (down) and columns (right) of the display do
    assert rows.mean() == pytest.approx(8, abs=0.01)
    assert columns.mean() == pytest.approx(6, abs=0.01)
    assert axial.pixel_spacing_mm == pytest.approx((1.5, 1.0))
    coronal = volume.planes[Plane.CORONAL]
    assert coronal.labels.shape == (36, 16, 40)


def test_unions_and_exclusions(data_folder: Path, source: SourceConfig) -> None:
    both = replace(source, objects={"both": (1, 2), "ball": (1,)})
    volume = read_volume(case_of(data_folder, both))
    assert {item.name: item.ids for item in volume.objects} == {"both": (1, 2), "ball": (1,)}
    only = read_volume(case_of(data_folder, replace(source, exclude=(2,))))
    assert [item.name for item in only.objects] == ["1"]


def test_an_archive_is_read_in_the_orientation_it_is_said_to_have(tmp_path: Path, source: SourceConfig) -> None:
    labels = np.zeros((30, 20, 16), np.uint8)
    labels[2:6, 3:7, 1:5] = 1
    np.savez(tmp_path / "scan.npz", vol=labels * 0.5 + 0.1, seg=labels)
    archive = replace(source, image="scan.npz::vol", label="scan.npz::seg", axcodes="LIA")
    volume = read_volume(case_of(tmp_path, archive))
    # L, I, A: first axis to the left (columns of axial), second downwards (rows of coronal), third to the front
    rows, columns = np.nonzero(volume.planes[Plane.AXIAL].labels.any(axis=0))
    assert (columns.min(), columns.max()) == (2, 5)
    assert (rows.min(), rows.max()) == (16 - 5, 16 - 2)
    rows, columns = np.nonzero(volume.planes[Plane.CORONAL].labels.any(axis=0))
    assert (rows.min(), rows.max()) == (3, 6)


def _write(folder: Path, image_shape: tuple[int, ...], labels: np.ndarray) -> SourceConfig:
    (folder / "x").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.ones(image_shape, np.float32), np.eye(4)), folder / "x/image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "x/label.nii.gz")
    return SourceConfig("x", read_config(NANO_CONFIG).sources[1].modality, "{case}/image.nii.gz", "{case}/label.nii.gz")


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [
        ((20, 20, 21), np.ones((20, 20, 20), np.uint8), "different grids"),
        ((20, 20, 20), np.full((20, 20, 20), 0.5, np.float32), "whole numbers"),
        ((20, 20, 20), np.full((20, 20, 20), -1, np.int16), "whole numbers"),
        ((20, 20, 20), np.zeros((20, 20, 20), np.uint8), "no object"),
    ],
)
def test_a_wrong_case_is_named(tmp_path: Path, shape: tuple[int, ...], labels: np.ndarray, said: str) -> None:
    case = case_of(tmp_path, _write(tmp_path, shape, labels))
    with pytest.raises(TrainingError, match=f"x/x.*{said}"):
        read_volume(case)
