"""Tables, folders and archives of cases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from volseg.data import Modality
from volseg.errors import EvaluationError
from volseg.evaluation.archive import read_archive, spacing_xyz
from volseg.evaluation.cases import ObjectSpec, find_cases, limited, write_cases
from volseg.evaluation.reference import read_case_image, read_reference


def _save(array, path, affine=None):
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def test_a_table_is_read_and_written(cases, tmp_path):
    found = find_cases(cases)
    assert [(case.case_id, case.modality, case.group) for case in found] == [
        ("a", Modality.CT, "x"), ("b", Modality.CT, "x"), ("c", Modality.CT, "y")]  # fmt: skip
    assert [case.case_id for case in limited(found, 2)] == ["a", "c"]
    text = cases.read_text().replace("group\n", "group,objects\n").replace("CT,y\n", "CT,y,both:1+2;left:1\n")
    cases.write_text(text)
    both = find_cases(cases)[2]
    assert both.objects == (ObjectSpec("both", (1, 2)), ObjectSpec("left", (1,)))
    assert [item.truth.voxels for item in read_reference(both).objects] == [48 + 64, 48]
    write_cases((both,), tmp_path / "again.csv")
    assert find_cases(tmp_path / "again.csv")[0].objects == both.objects


def test_a_decathlon_folder(tmp_path, blocks):
    voxels, labels, affine = blocks
    _save(np.stack([voxels, voxels * 0], axis=-1), tmp_path / "imagesTr/one.nii.gz", affine)
    _save(labels, tmp_path / "labelsTr/one.nii.gz", affine)
    (tmp_path / "labelsTr/._one.nii.gz").write_bytes(b"left by macOS")
    (tmp_path / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI", "1": "T2"}, "labels": {"0": "background", "1": "front", "2": "back"}})
    )
    (case,) = find_cases(tmp_path)
    assert (case.case_id, case.modality) == ("one", Modality.MR)
    assert [item.name for item in read_reference(case).objects] == ["front", "back"]
    np.testing.assert_array_equal(read_case_image(case)[0].numpy(), voxels)


def test_an_nnunet_folder(tmp_path, blocks):
    voxels, labels, affine = blocks
    for channel in ("0000", "0001"):
        _save(voxels, tmp_path / f"imagesTr/one_{channel}.nii.gz", affine)
    _save(labels, tmp_path / "labelsTr/one.nii.gz", affine)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "whole": [1, 2], "back": 2, "ignore": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (case,) = find_cases(tmp_path)
    assert case.image.name == "one_0000.nii.gz"
    assert [(item.name, item.truth.voxels) for item in read_reference(case).objects] == [("whole", 112), ("back", 64)]


def _archive(path, **more):
    gts = np.zeros((6, 20, 30), dtype=np.uint8)
    gts[1:5, 3:9, 10:25] = 3
    imgs = gts.astype(np.uint8) * 50
    np.savez_compressed(path, imgs=imgs, gts=gts, spacing=np.array([0.7, 0.7, 2.5]), **more)
    return gts


def test_an_archive_of_the_challenge(tmp_path):
    box = {"z_min": 1, "z_max": np.int64(4), "z_mid_y_min": 2, "z_mid_y_max": 8, "z_mid_x_min": 9, "z_mid_x_max": 25}
    _archive(tmp_path / "CT_a_1.npz", boxes=np.array([box]), text_prompts=np.array({"3": "liver", "instance_label": 0}))
    (case,) = find_cases(tmp_path)
    assert (case.modality, case.group) == (Modality.CT, "CT")
    reference = read_reference(case)
    (item,) = reference.objects
    assert reference.grid.shape == (30, 20, 6)
    assert reference.grid.axcodes == "LPS"
    np.testing.assert_allclose(reference.grid.spacing_mm, (0.7, 0.7, 2.5))
    assert item.phrase == "liver"
    assert item.box_ijk.tolist() == [[9, 2, 1], [25, 8, 4]]
    assert (item.truth.start_ijk, item.truth.block.shape) == ((10, 3, 1), (15, 6, 4))
    assert read_case_image(case).shape == (1, 30, 20, 6)
    _archive(tmp_path / "CT_a_1.npz")
    assert not read_reference(case).has_boxes


def test_the_spacing_is_that_of_x_y_z(tmp_path):
    assert spacing_xyz([0.7, 0.7, 2.5], tmp_path) == (0.7, 0.7, 2.5)
    assert spacing_xyz([2.5, 0.7, 0.7], tmp_path) == (0.7, 0.7, 2.5)
    assert spacing_xyz([1.0, 1.0, 1.0], tmp_path) == (1.0, 1.0, 1.0)
    with pytest.raises(EvaluationError, match="three positive numbers"):
        spacing_xyz([1.0, -1.0, 1.0], tmp_path)


class _Bomb:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_an_archive_runs_no_code(tmp_path, capsys):
    _archive(tmp_path / "CT_a_1.npz", boxes=np.array([{"z_min": _Bomb()}]))
    with pytest.raises(EvaluationError, match="not plain data"):
        read_archive(tmp_path / "CT_a_1.npz")
    assert "ran" not in capsys.readouterr().out
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(EvaluationError, match="no readable NPZ"):
        read_archive(tmp_path / "bad.npz")


@pytest.mark.parametrize("text", ["liver", "liver:0", "liver:a", ":1", "a:1;b"])
def test_objects_that_cannot_be(cases, text):
    cases.write_text(cases.read_text().replace("group\n", "group,objects\n").replace("CT,y\n", f"CT,y,{text}\n"))
    with pytest.raises(EvaluationError, match="objects are written"):
        find_cases(cases)


def test_the_validation_patients_of_the_shipped_weights(shared_data):
    from volseg.evaluation.validation import validation_cases

    found = validation_cases("sam2-nano", shared_data)
    assert {case.group for case in found} == {"sts_ct", "sts_mr", "hippocampus", "cord"}
    assert len(found) >= 8
    assert all(case.objects[0].label_ids == (1, 2) for case in found if case.group == "hippocampus")
