"""Measurements against brute force, and the report that holds them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import write_patient_series
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from phantom import make_phantom

from volseg.data import Label, LabelMap, measure, read_image
from volseg.data.dicom import write_dicom_seg, write_measurement_report
from volseg.errors import GeometryError, ImageReadError, WriteError
from volseg.geometry import Grid


def image_on(grid: Grid, values) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.array(values))[None], affine=torch.from_numpy(grid.affine_ras.copy()))


def surface_mm(mask, grid: Grid, axes) -> np.ndarray:
    """Middles of all faces between a voxel inside and one outside, found voxel by voxel."""
    points = []
    for voxel in np.argwhere(mask):
        for axis, step in itertools.product(axes, (-1, 1)):
            neighbour = voxel.copy()
            neighbour[axis] += step
            inside = 0 <= neighbour[axis] < mask.shape[axis] and mask[tuple(neighbour)]
            if not inside:
                points.append((voxel + neighbour) / 2)
    return grid.to_ras_mm(np.array(points))


def longest(points) -> float:
    return max(float(np.linalg.norm(points - point, axis=1).max()) for point in points)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["LPS", "PIR", "SAL"]), st.floats(0.05, 0.9))
def test_against_brute_force(seed: int, axcodes: str, density: float) -> None:
    grid = make_phantom(axcodes, oblique=True).grid.cropped((0, 0, 0), (6, 5, 7))
    generator = np.random.default_rng(seed)
    mask = generator.random(grid.shape) < density
    mask[2, 2, 2] = True
    values = generator.normal(size=grid.shape).astype(np.float32)
    labels = LabelMap(grid, (np.where(mask, 4, 0).astype(np.uint8),), (Label(4, "a", (0, 0, 0), presence=0.5),))
    (found,) = measure(labels, image_on(grid, values))
    assert found.volume_ml == pytest.approx(mask.sum() * 0.7 * 1.1 * 2.3 / 1000)
    assert found.longest_3d_mm == pytest.approx(longest(surface_mm(mask, grid, (0, 1, 2))))
    axis = int(np.argmax(grid.spacing_mm))  # 2.3 mm: the slices
    within = [other for other in range(3) if other != axis]
    planes = []
    for index in range(grid.shape[axis]):
        only = np.zeros_like(mask)
        slices = tuple(index if n == axis else slice(None) for n in range(3))
        only[slices] = mask[slices]
        if only.any():
            planes.append(longest(surface_mm(only, grid, within)))
    assert found.longest_in_plane_mm == pytest.approx(max(planes))
    inside = values[mask].astype(np.float64)
    assert (found.mean, found.std) == pytest.approx((inside.mean(), np.sqrt(((inside - inside.mean()) ** 2).mean())))
    assert (found.minimum, found.maximum, found.median) == pytest.approx(
        (inside.min(), inside.max(), np.median(inside))
    )
    assert found.presence == 0.5


def test_by_hand() -> None:
    grid = Grid((200, 200, 100), np.diag([0.5, 0.5, 2.0, 1.0]))
    layer = np.zeros(grid.shape, dtype=np.uint8)
    layer[10:20, 5, 7] = 1  # a row of ten voxels
    layer[150, 150, 50] = 2
    i, j, k = np.indices(grid.shape)
    layer[((i - 100) * 0.5) ** 2 + ((j - 60) * 0.5) ** 2 + ((k - 50) * 2.0) ** 2 <= 20.0**2] = 3
    labels = LabelMap(grid, (layer,), tuple(Label(n, f"{n}", (0, 0, 0)) for n in (1, 2, 3, 9)))
    row, one, ball, none = measure(labels, image_on(grid, layer))
    assert (row.longest_in_plane_mm, row.longest_3d_mm) == pytest.approx((5.0, 5.0))
    assert (one.longest_in_plane_mm, one.longest_3d_mm, one.volume_ml) == pytest.approx((0.5, 2.0, 0.0005))
    # Along k, from the outer face of the first of 21 voxels of 2 mm to that of the last.
    assert ball.longest_3d_mm == pytest.approx(42.0, rel=0.01)
    assert ball.volume_ml == pytest.approx(4 / 3 * np.pi * 20**3 / 1000, rel=0.01)
    assert (ball.mean, ball.std) == (3.0, 0.0)
    assert (none.volume_ml, none.longest_3d_mm, none.mean, none.median) == (0.0, None, None, None)
    with pytest.raises(GeometryError, match="grid"):
        measure(labels, image_on(grid.with_spacing((1, 1, 2)), np.zeros((100, 100, 100), np.int16)))


def numbers_in(dataset) -> dict:
    """(tracking identifier, measurement, derivation) to (value, unit), walking the content tree."""
    found = {}

    def walk(item, name=None):
        children = list(item.get("ContentSequence", None) or ())
        for child in children:
            if child.ValueType == "TEXT" and child.ConceptNameCodeSequence[0].CodeValue == "112039":
                name = child.TextValue
        for child in children:
            if child.ValueType == "NUM":
                derivation = [
                    sub.ConceptCodeSequence[0].CodeMeaning
                    for sub in child.get("ContentSequence", None) or ()
                    if sub.ConceptNameCodeSequence[0].CodeValue == "121401"
                ]
                value = child.MeasuredValueSequence[0]
                key = (name, child.ConceptNameCodeSequence[0].CodeMeaning, *derivation)
                found[key] = (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue)
            walk(child, name)

    walk(dataset)
    return found


def complaints(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian package dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


@pytest.mark.parametrize("with_segmentation", [True, False])
def test_report(with_segmentation: bool, tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(tmp_path / "ct", phantom.array * 10, phantom.affine_ras)
    labels = LabelMap(
        phantom.grid,
        (phantom.array.astype(np.uint8),),
        (*(Label(n, f"block {n}", (1, 1, 1), presence=0.5) for n in (1, 2, 3, 5)), Label(8, "none", (1, 1, 1))),
    )
    segmentation = tmp_path / "a.seg.dcm" if with_segmentation else None
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    measured = measure(labels, read_image(tmp_path / "ct"))
    path = tmp_path / "a.sr.dcm"
    write_measurement_report(measured, path, paths, segmentation)
    write_measurement_report(measured, tmp_path / "b.sr.dcm", paths, segmentation)
    assert path.read_bytes() == (tmp_path / "b.sr.dcm").read_bytes()
    dataset = pydicom.dcmread(path)
    found = numbers_in(dataset)
    title = "block 3 (3)" if with_segmentation else "block 3"
    assert found[title, "Volume"] == (pytest.approx(24 * 0.7 * 1.1 * 2.3 / 1000, abs=1e-6), "ml")
    assert found[title, "Attenuation Coefficient", "Mean"] == (30.0, "[hnsf'U]")
    assert found[title, "Long axis"][0] == pytest.approx(measured[2].longest_in_plane_mm, abs=1e-5)
    assert found[title, "Maximum 3D diameter"] == (pytest.approx(measured[2].longest_3d_mm, abs=1e-5), "mm")
    assert found[title, "Probability"] == (0.5, "1")
    assert len([key for key in found if key[0].startswith("none")]) == 1  # its volume, 0
    if with_segmentation:
        assert str(pydicom.dcmread(segmentation).SOPInstanceUID) in str(dataset)
    assert dataset.VerificationFlag == "UNVERIFIED"
    assert complaints(path) == []


def test_reports_that_cannot_be(tmp_path: Path) -> None:
    phantom = make_phantom("LPS")
    paths = write_patient_series(tmp_path / "ct", phantom.array, phantom.affine_ras)
    labels = LabelMap(phantom.grid, (phantom.array.astype(np.uint8),), (Label(1, "a", (1, 1, 1)),))
    write_dicom_seg(labels, tmp_path / "a.seg.dcm", paths)
    renamed = LabelMap(phantom.grid, (labels.layers[0] * 40,), (Label(40, "b", (1, 1, 1)),))
    measured = measure(renamed, read_image(tmp_path / "ct"))
    with pytest.raises(WriteError, match="object 40"):
        write_measurement_report(measured, tmp_path / "x.sr.dcm", paths, tmp_path / "a.seg.dcm")
    with pytest.raises(ImageReadError, match="not a DICOM segmentation"):
        write_measurement_report(measured, tmp_path / "x.sr.dcm", paths, paths[0])
    with pytest.raises(WriteError, match="no measurements"):
        write_measurement_report([], tmp_path / "x.sr.dcm", paths)
    assert not (tmp_path / "x.sr.dcm").exists()
