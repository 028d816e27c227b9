"""volseg convert, and DICOM in and out of volseg segment and volseg info."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import write_patient_series
from phantom import make_phantom
from region_model import RegionModel
from typer.testing import CliRunner

from volseg.cli import app
from volseg.data import Label, LabelMap, read_labelmap, write_labelmap

SUFFIXES = (".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".seg.dcm", ".rtstruct.dcm")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("volseg.models.registry.load_model", lambda name, **options: RegionModel())
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def study(tmp_path: Path):
    phantom = make_phantom("LPS")
    write_patient_series(tmp_path / "ct", phantom.array * 100, phantom.affine_ras)
    labels = LabelMap(
        phantom.grid,
        (phantom.array.astype(np.uint8),),
        tuple(Label(value, f"block {value}", (200, 0, value)) for value in phantom.centroids_ras_mm),
    )
    write_labelmap(labels, tmp_path / "a.nii.gz")
    return tmp_path, phantom, labels


def test_every_format_to_every_other(study, run) -> None:
    folder, phantom, labels = study
    for first in SUFFIXES:
        here = folder / f"first{first}"
        assert run("convert", folder / "a.nii.gz", "-o", here, "--reference", folder / "ct").exit_code == 0
        for second in SUFFIXES:
            there = folder / f"second{second}"
            done = run("convert", here, "-o", there, "--reference", folder / "ct", "--json")
            assert done.exit_code == 0, done.output
            assert [item["name"] for item in json.loads(done.stdout)["objects"]] == [x.name for x in labels.labels]
            read = read_labelmap(there, grid=phantom.grid)
            np.testing.assert_array_equal(read.array, phantom.array, err_msg=f"{first} to {second}")
            assert read.labels == labels.labels


def test_convert_says_what_is_wrong(study, run) -> None:
    folder, phantom, labels = study
    overlapping = LabelMap(phantom.grid, labels.layers * 2, (*labels.labels, Label(9, "x", (1, 1, 1), 1)))
    overlapping = LabelMap(phantom.grid, (labels.layers[0], (labels.layers[0] > 0) * np.uint8(9)), overlapping.labels)
    write_labelmap(overlapping, folder / "two.seg.nrrd")
    for arguments, code, message in (
        (("a.nii.gz", "-o", "x.seg.dcm"), 6, "--reference"),
        (("two.seg.nrrd", "-o", "x.nii.gz"), 6, "overlap"),
        (("two.seg.nrrd", "-o", "x.seg.dcm", "--reference", "ct", "--kind", "labelmap"), 6, "overlap"),
        (("a.nii.gz", "-o", "x.seg.dcm", "--reference", "ct", "--kind", "surface"), 2, "kind"),
        (("missing.nii.gz", "-o", "x.nrrd"), 3, "no such file"),
        (("a.nii.gz", "-o", "x.txt"), 6, "expected a file name"),
        (("a.nii.gz", "-o", "ct/x.seg.dcm", "--reference", "ct"), 6, "another folder"),
    ):
        names = [folder / item if "." in item or item == "ct" else item for item in arguments]
        done = run("convert", *names)
        assert done.exit_code == code, (arguments, done.output)
        assert message in done.output
    assert not [path for path in folder.rglob("*") if path.name.startswith(("x.", ".volseg"))]
    assert run("convert", folder / "two.seg.nrrd", "-o", folder / "x.nii.gz", "--flatten").exit_code == 0
    assert set(np.unique(read_labelmap(folder / "x.nii.gz").array)) == {0, 9}


@pytest.mark.parametrize("suffix", [".seg.dcm", ".rtstruct.dcm"])
def test_segment_dicom_to_dicom_and_back_as_a_prompt(suffix: str, study, run) -> None:
    folder, phantom, _ = study
    output = folder / f"out{suffix}"
    point = ",".join(f"{value:.3f}" for value in phantom.centroids_ras_mm[3])
    done = run("segment", folder / "ct", "-o", output, "--object", "block", f"--point={point}")
    assert done.exit_code == 0, done.output
    read = read_labelmap(output, grid=phantom.grid)
    np.testing.assert_array_equal(read.mask(1), phantom.array == 3)
    assert pydicom.dcmread(output).PatientName == "Planted^Name"
    assert "Planted" not in done.output
    for option in ("--mask", "--prompts"):
        done = run("segment", folder / "ct", "-o", folder / "again.nii.gz", option, output)
        assert done.exit_code == 0, done.output
        np.testing.assert_array_equal(read_labelmap(folder / "again.nii.gz").array == 1, phantom.array == 3)
    information = json.loads(run("info", output, "--json").stdout)
    assert information["objects"] == ["block"]
    refused = run("segment", folder / "a.nii.gz", "-o", folder / f"b{suffix}", f"--point={point}")
    assert refused.exit_code == 6
    assert "DICOM images" in refused.output
