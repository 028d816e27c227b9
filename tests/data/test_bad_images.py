"""Broken and hostile files: one clear ImageReadError each, before any large allocation."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from bad_files import BAD, PHANTOM, nifti
from dicom_files import write_series

from volseg.data import read_image, read_labelmap
from volseg.errors import ImageReadError


@pytest.mark.parametrize("case", BAD)
def test_one_clear_error(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    path = make(tmp_path)
    for read in (read_image, read_labelmap):
        if read is read_labelmap and case in ("empty folder", "garbage .dcm", "beyond float32"):
            continue
        with pytest.raises(ImageReadError, match=message) as caught:
            read(path)
        assert str(path.parent) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(ImageReadError, match=r"empty \(0 bytes\)"):
        read_image(tmp_path / "empty.nii.gz")


def test_damaged_gzip_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = nifti(tmp_path / "flip.nii.gz")
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="damaged"):
        read_image(path)


def test_gzip_bomb_in_the_header_extension(tmp_path: Path) -> None:
    """Voxels said to begin after 100 GB of extensions."""
    path = nifti(tmp_path / "bomb.nii.gz", vox_offset=1e11)
    with pytest.raises(ImageReadError, match="declares"):
        read_image(path)


def test_header_of_a_pair_says_so(tmp_path: Path) -> None:
    path = nifti(tmp_path / "pair.nii", magic=b"ni1")
    with pytest.raises(ImageReadError, match=r"\.hdr/\.img pair"):
        read_image(path)


@pytest.mark.parametrize("value", [-3, 1.5])
def test_labels_are_whole_numbers_from_0(value: float, tmp_path: Path) -> None:
    array = PHANTOM.array.astype(np.float32)
    array[0, 0, 0] = value
    with pytest.raises(ImageReadError, match="whole numbers from 0"):
        read_labelmap(nifti(tmp_path / "labels.nii", array))


# ---- DICOM


def shifted(k: int, by: tuple[float, float, float]) -> list[list[float]]:
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ PHANTOM.affine_ras
    positions = [lps[:3, 2] * n + lps[:3, 3] for n in range(PHANTOM.array.shape[2])]
    positions[k] = positions[k] + lps[:3, :3] @ np.array(by) / 1.0
    return [[float(f"{value:.8f}") for value in position] for position in positions]


def tilted() -> list[list[float]]:
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ PHANTOM.affine_ras
    step = lps[:3, 2] + lps[:3, 1] / np.linalg.norm(lps[:3, 1]) * 0.4
    return [[float(f"{value:.8f}") for value in step * n + lps[:3, 3]] for n in range(PHANTOM.array.shape[2])]


assert PHANTOM.array.shape[2] == 9
BAD_SERIES: dict[str, tuple[dict[str, object], str]] = {
    "uneven": ({"ImagePositionPatient": shifted(4, (0, 0, 0.3))}, r"uneven spacing: 2\.300 mm.*2\.990 mm"),
    "duplicate": ({"ImagePositionPatient": shifted(4, (0, 0, 1))}, "duplicates in position"),
    "tilt": ({"ImagePositionPatient": tilted()}, r"gantry tilt.*9\.87 degrees"),
    "orientation": ({"ImageOrientationPatient": [[1, 0, 0, 0, 1, 0]] + [[0, 1, 0, 0, 0, 1]] * 8}, "mixed orientation"),
    "spacing": ({"PixelSpacing": [[1, 1]] + [[2, 2]] * 8}, r"mixed pixel spacing.*1\.0.*2\.0"),
    "zero spacing": ({"PixelSpacing": [0, 0]}, "spacing has a zero"),
    "no position": ({"ImagePositionPatient": None}, "no position"),
    "skewed": ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.8, 0]}, "orthogonal"),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
    "frames": ({"NumberOfFrames": 4}, "multi-frame"),
    "slope": ({"RescaleSlope": 0, "RescaleIntercept": 0}, "rescale slope 0"),
    "hostile": ({"Rows": 65535, "Columns": 65535}, "declares 65535 x 65535"),
    "short pixels": ({"PixelData": bytes(20)}, "truncated|pixel data"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SERIES)
def test_irregular_series_is_refused(case: str, tmp_path: Path) -> None:
    attributes, message = BAD_SERIES[case]
    write_series(tmp_path, PHANTOM.array, PHANTOM.affine_ras, **attributes)
    with pytest.raises(ImageReadError, match=message):
        read_image(tmp_path)


def test_missing_slices_are_counted(tmp_path: Path) -> None:
    paths = write_series(tmp_path, PHANTOM.array, PHANTOM.affine_ras)
    paths[3].unlink()
    with pytest.raises(ImageReadError, match=r"1 missing slice: 2\.300 mm between slices, but 4\.600 mm"):
        read_image(tmp_path)
    paths[6].unlink()
    with pytest.raises(ImageReadError, match="2 missing slices"):
        read_image(tmp_path)


def test_mixed_sizes(tmp_path: Path) -> None:
    write_series(tmp_path, PHANTOM.array, PHANTOM.affine_ras)
    other = PHANTOM.affine_ras.copy()
    other[:3, 3] -= 50
    write_series(tmp_path / "more", PHANTOM.array[:5], other)
    with pytest.raises(ImageReadError, match=r"mixed sizes: 5 x 13, 11 x 13"):
        read_image(tmp_path)


def test_several_series_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path / "a", PHANTOM.array, PHANTOM.affine_ras, uid="1.2.3")
    write_series(tmp_path / "b", PHANTOM.array, PHANTOM.affine_ras, uid="1.2.4", Modality="MR", SeriesDescription="T1")
    with pytest.raises(ImageReadError) as caught:
        read_image(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1:] == ["  1.2.3  CT, 9 slices, phantom", "  1.2.4  MR, 9 slices, T1"]
    assert "Doe" not in str(caught.value)
    assert str(read_image(tmp_path, series_uid="1.2.4").meta["modality"]) == "MR"
    with pytest.raises(ImageReadError, match=r"no series 9\.9"):
        read_image(tmp_path, series_uid="9.9")
    with pytest.raises(ImageReadError, match="DICOM slices only"):
        read_image(nifti(tmp_path / "x.nii"), series_uid="1.2.3")


def test_nifti_offset_field_is_where_we_think() -> None:
    """Guards the helper: the fields set above reach the bytes a reader sees."""
    header = nibabel.Nifti1Header()
    header["vox_offset"] = 1e11
    assert struct.unpack("<f", header.binaryblock[108:112])[0] == pytest.approx(1e11)
