"""Label maps through files and back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from phantom import make_phantom

from volseg.data import (
    Label,
    LabelMap,
    ObjectMask,
    OverlapPolicy,
    Provenance,
    SnomedCode,
    atomic_path,
    check_output_path,
    read_labelmap,
    read_mask,
    write_labelmap,
)
from volseg.errors import WriteError

PHANTOM = make_phantom("SAR", oblique=True)
PROVENANCE = Provenance(
    "volseg 0.1.0", "random_walker 1", "", "ab" * 32, (("window", "soft  tissue"), ("plane", "axial "))
)
LABELS = (
    Label(1, "Wirbelkörper L4 (椎体)", (255, 0, 7), 0, SnomedCode("11994002", "Fourth lumbar vertebra"), 0.875),
    Label(2, 'quote " and \\ back\\nslash', (0, 128, 255), 0, None, 0.0),
    Label(3, "a = b := c # d", (1, 2, 3), 0, SnomedCode("64033007", "Kidney structure")),
    Label(4, " never seen ", (9, 9, 9)),
    Label(5, "trailing backslash \\", (9, 9, 9)),
)
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".seg.nrrd"]
LABELMAP = LabelMap(PHANTOM.grid, (PHANTOM.array,), LABELS, PROVENANCE)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_everything_comes_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels{suffix}"
    write_labelmap(LABELMAP, path)
    again = read_labelmap(path)
    np.testing.assert_array_equal(again.array, PHANTOM.array)
    assert again.array.dtype == np.uint8
    assert again.grid.same_as(PHANTOM.grid)
    stripped = tuple(replace(label, name=label.name.strip()) for label in LABELS)
    assert again.labels == (stripped if suffix == ".seg.nrrd" else LABELS)
    assert again.provenance == PROVENANCE
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.uint16), (70000, np.uint32)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_smallest_type(largest: int, dtype: type, suffix: str, tmp_path: Path) -> None:
    array = PHANTOM.array.astype(np.int64)
    array[array == 5] = largest
    path = tmp_path / f"labels{suffix}"
    write_labelmap(LabelMap(PHANTOM.grid, (array,), ()), path)
    again = read_labelmap(path)
    assert again.array.dtype == dtype
    np.testing.assert_array_equal(again.array, array)
    assert [(label.value, label.name) for label in again.labels] == [
        (value, f"label {value}") for value in (1, 2, 3, largest)
    ]
    if suffix.startswith(".nii"):
        assert nibabel.load(path).get_data_dtype() == dtype


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hundreds_of_names_stay_readable_for_others(suffix: str, tmp_path: Path) -> None:
    labels = tuple(Label(n, f"structure {n} " + "x" * 150, (1, 2, 3)) for n in range(1, 400))
    path = tmp_path / f"labels{suffix}"
    write_labelmap(LabelMap(PHANTOM.grid, (PHANTOM.array,), labels), path)
    assert read_labelmap(path).labels == labels
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T
    np.testing.assert_array_equal(found, PHANTOM.array)


def overlapping() -> LabelMap:
    masks = []
    for value, start in ((1, (1, 1, 1)), (2, (2, 2, 2)), (3, (5, 5, 5))):
        full = np.zeros(PHANTOM.grid.shape, dtype=bool)
        full[tuple(slice(a, a + 3) for a in start)] = True
        masks.append(ObjectMask.of(value, PHANTOM.grid, full, 0.5))
    labels = [replace(label, presence=0.5) for label in LABELS[:3]]
    return LabelMap.from_masks(PHANTOM.grid, masks, labels, OverlapPolicy.LAYERS, PROVENANCE)


def test_overlapping_objects_need_slicers_format(tmp_path: Path) -> None:
    labelmap = overlapping()
    assert len(labelmap.layers) == 2
    for suffix in SUFFIXES[:-1]:
        with pytest.raises(WriteError, match=r"\.seg\.nrrd.*overlap policy"):
            write_labelmap(labelmap, tmp_path / f"labels{suffix}")
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "labels.seg.nrrd"
    write_labelmap(labelmap, path)
    again = read_labelmap(path)
    assert again.labels == labelmap.labels
    for value in (1, 2, 3):
        np.testing.assert_array_equal(again.mask(value), labelmap.mask(value))
    mask, grid = read_mask(path)
    np.testing.assert_array_equal(mask, labelmap.mask(1) | labelmap.mask(2) | labelmap.mask(3))
    assert grid.same_as(PHANTOM.grid)


def test_slicer_reads_the_segments(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio", reason="slicerio reads .seg.nrrd as 3D Slicer does")
    path = tmp_path / "labels.seg.nrrd"
    labelmap = overlapping()
    write_labelmap(labelmap, path)
    found = slicerio.read_segmentation(str(path))
    assert found["voxels"].shape == (2, *PHANTOM.grid.shape)
    np.testing.assert_array_equal(found["voxels"][1] == 2, labelmap.mask(2))
    first, second, third = found["segments"]
    assert first["terminology"]["type"] == ["SCT", "11994002", "Fourth lumbar vertebra"]
    assert first["terminology"]["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert first["color"] == pytest.approx([1, 0, 7 / 255], abs=1e-6)
    assert (second["labelValue"], second["layer"]) == (2, 1)
    assert third["name"] == "a = b := c # d"
    assert "terminology" not in second


def test_segmentation_by_slicerio_is_read(tmp_path: Path) -> None:
    """Both layers use the value 1, as 3D Slicer does; colours and names are its own."""
    slicerio = pytest.importorskip("slicerio", reason="slicerio writes .seg.nrrd as 3D Slicer does")
    voxels = np.zeros((2, *PHANTOM.array.shape), dtype=np.uint8)
    voxels[0, 1:4, 1:4, 1:4] = 1
    voxels[1, 2:6, 2:5, 2:4] = 1
    terminology = {
        "contextName": "c",
        "category": ["SCT", "123037004", "Anatomical Structure"],
        "type": ["SCT", "10200004", "Liver"],
    }
    segments = [
        {
            "id": "Segment_1",
            "labelValue": 1,
            "layer": 0,
            "name": "liver",
            "color": [1, 0.5, 0],
            "terminology": terminology,
        },
        {"id": "Segment_2", "labelValue": 1, "layer": 1, "name": "lesion", "color": [0, 0, 1]},
    ]
    lps = np.diag((-1, -1, 1, 1)) @ PHANTOM.affine_ras
    path = tmp_path / "slicer.seg.nrrd"
    slicerio.write_segmentation(str(path), {"voxels": voxels, "ijkToLPS": lps, "segments": segments})
    labelmap = read_labelmap(path)
    assert [(label.name, label.color_rgb) for label in labelmap.labels] == [
        ("liver", (255, 128, 0)),
        ("lesion", (0, 0, 255)),
    ]
    assert labelmap.labels[0].snomed == SnomedCode("10200004", "Liver")
    np.testing.assert_array_equal(labelmap.mask(labelmap.labels[0].value), voxels[0] == 1)
    np.testing.assert_array_equal(labelmap.mask(labelmap.labels[1].value), voxels[1] == 1)
    assert labelmap.grid.same_as(PHANTOM.grid)


def test_plain_float_labels(tmp_path: Path) -> None:
    nibabel.Nifti1Image(PHANTOM.array.astype(np.float64), PHANTOM.affine_ras).to_filename(tmp_path / "plain.nii.gz")
    labelmap = read_labelmap(tmp_path / "plain.nii.gz")
    assert labelmap.array.dtype == np.uint8
    assert [label.name for label in labelmap.labels] == ["label 1", "label 2", "label 3", "label 5"]
    assert labelmap.provenance == Provenance()


def test_more_voxels_than_nifti_1_counts(tmp_path: Path) -> None:
    array = np.zeros((40000, 2, 2), dtype=np.uint8)
    array[39999, 1, 1] = 7
    grid = type(PHANTOM.grid)(array.shape, np.eye(4))
    write_labelmap(LabelMap(grid, (array,), ()), tmp_path / "long.nii.gz")
    np.testing.assert_array_equal(read_labelmap(tmp_path / "long.nii.gz").array, array)
    assert type(nibabel.load(tmp_path / "long.nii.gz")) is nibabel.Nifti2Image


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labels.png", "ends in"),
        ("labels", "ends in"),
        (".nii.gz", "ends in"),
        ("labels.dcm", "ends in"),
        ("labels.mhd", r"use \.mha"),
        ("labels.nhdr", r"use \.nrrd"),
        ("none/labels.nii", "does not exist"),
        ("folder.nii", "is a folder"),
    ],
)
def test_bad_output_is_known_beforehand(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(WriteError, match=message):
        check_output_path(tmp_path / name)
    with pytest.raises(WriteError, match=message):
        write_labelmap(LABELMAP, tmp_path / name)
    assert [item.name for item in tmp_path.iterdir()] == ["folder.nii"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_writing_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "result.nii.gz"
    target.write_bytes(b"old")

    def fail() -> None:
        with atomic_path(target) as partial:
            partial.write_bytes(b"half")
            assert partial.parent == tmp_path
            assert partial.name.endswith(".nii.gz")
            raise error

    with pytest.raises(error):
        fail()
    assert [item.name for item in tmp_path.iterdir()] == ["result.nii.gz"]
    assert target.read_bytes() == b"old"


def test_full_disk_is_a_write_error(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "x.nii") as partial:
            partial.touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match="No space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


LOOP = """
import sys, numpy as np
from pathlib import Path
from volseg.data import LabelMap, write_labelmap
from volseg.geometry import Grid
array = np.random.default_rng(0).integers(0, 200, (96, 96, 64)).astype(np.uint8)
labelmap = LabelMap(Grid(array.shape, np.eye(4)), (array,), ())
path = Path(sys.argv[1])
write_labelmap(labelmap, path.with_name("warm" + path.name))
print("ready", flush=True)
while True:
    write_labelmap(labelmap, path)
    print("written", flush=True)
    path.unlink()
"""


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd", ".mha"])
def test_killed_while_writing(suffix: str, tmp_path: Path) -> None:
    """Whatever the moment, the final name holds a whole file or none."""
    expected = np.random.default_rng(0).integers(0, 200, (96, 96, 64))
    moments = np.random.default_rng(1).uniform(0, 0.15, 4)
    partials = 0
    for number, moment in enumerate(moments):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"result{suffix}"
        writer = subprocess.Popen([sys.executable, "-c", LOOP, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(moment)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        if path.exists():
            np.testing.assert_array_equal(read_labelmap(path).array, expected)
        left = {item.name for item in folder.iterdir()} - {path.name, f"warm{path.name}"}
        assert all(name.startswith(".volseg-partial-") for name in left)
        partials += len(left)
    assert partials > 0, "no process was killed while it wrote; the test shows nothing"
