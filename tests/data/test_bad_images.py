"""Broken and hostile files: one clear ImageReadError each, before any large allocation."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import write_series
from phantom import make_phantom, sitk_image

from volseg.data import read_image, read_labelmap
from volseg.errors import ImageReadError

PHANTOM = make_phantom("LPS", oblique=True)


def nifti(path: Path, array: np.ndarray | None = None, **header: object) -> Path:
    """A NIfTI file whose header fields are set behind nibabel's back."""
    voxels = PHANTOM.array if array is None else array
    image = nibabel.Nifti1Image(voxels, PHANTOM.affine_ras)
    image.to_filename(path.with_name("good.nii"))
    data = bytearray(path.with_name("good.nii").read_bytes())
    fields = nibabel.Nifti1Header(bytes(data[:348]))
    for name, value in header.items():
        fields[name] = value
    data[:348] = fields.binaryblock
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(bytes(data)))
    else:
        path.write_bytes(data)
    return path


def rgb(folder: Path) -> Path:
    colours = np.zeros(PHANTOM.array.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nifti(folder / "rgb.nii", colours)


def with_nan(folder: Path) -> Path:
    array = PHANTOM.array.astype(np.float32)
    array[2, 3, 4] = np.nan
    return nifti(folder / "nan.nii.gz", array)


def with_inf(folder: Path) -> Path:
    array = PHANTOM.array.astype(np.float64)
    array[2, 3, 4] = -np.inf
    return nifti(folder / "inf.nii", array)


def too_large_for_float32(folder: Path) -> Path:
    return nifti(folder / "huge.nii", PHANTOM.array * 1e300)


def truncated(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"short{suffix}"
        if suffix.startswith(".nii"):
            nifti(path)
        else:
            SimpleITK.WriteImage(sitk_image(PHANTOM), str(path), useCompression=True)
        path.write_bytes(path.read_bytes()[:-30])
        return path

    return make


def garbage(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"garbage{suffix}"
        path.write_bytes(np.random.default_rng(0).bytes(5000))
        return path

    return make


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() + bytes(100))
        return path

    return make


def hostile_gzip(folder: Path) -> Path:
    """Declares 30000 x 30000 x 30000 voxels in a few kilobytes."""
    return nifti(folder / "hostile.nii.gz", dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])


NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: {}\nspace directions: {}\nendian: little\nencoding: {}\n\n"
)
MHA = "NDims = 3\nBinaryData = True\nCompressedData = {}\nElementSpacing = {}\nDimSize = {}\nElementType = MET_SHORT\n"
LOCAL = "ElementDataFile = LOCAL\n"
UNIT = "(1,0,0) (0,1,0) (0,0,1)"

BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.nii", "no such file"),
    "empty file": (text("empty.nii", ""), "NIfTI"),
    "unknown ending": (text("image.png", "x"), "unknown kind of file"),
    "empty folder": (lambda folder: folder, "no DICOM images"),
    "RGB": (rgb, "RGB"),
    "complex": (lambda folder: nifti(folder / "c.nii", PHANTOM.array.astype(np.complex64)), "complex"),
    "NaN": (with_nan, r"voxel \(2, 3, 4\) is nan"),
    "inf": (with_inf, r"voxel \(2, 3, 4\) is -inf"),
    "beyond float32": (too_large_for_float32, "is inf"),
    "four dimensions": (lambda f: nifti(f / "4d.nii", np.zeros((3, 4, 5, 6), np.int16)), "6 channels.*--channel"),
    "five dimensions": (lambda f: nifti(f / "5d.nii", np.zeros((3, 4, 5, 6, 2), np.int16)), "at most one axis"),
    "zero spacing": (lambda folder: nifti(folder / "zero.nii", pixdim=[1, 1, 0, 1, 1, 1, 1, 1]), "zero.*spacing"),
    "NaN spacing": (lambda folder: nifti(folder / "nans.nii", pixdim=[1, 1, np.nan, 1, 1, 1, 1, 1]), "invalid spacing"),
    "singular affine": (lambda f: nifti(f / "s.nii", srow_x=[1, 0, 0, 0], srow_y=[1, 0, 0, 0]), "singular"),
    "NaN affine": (lambda folder: nifti(folder / "nana.nii", srow_x=[1, 0, np.nan, 0]), "not finite"),
    "no voxels": (lambda folder: nifti(folder / "novox.nii", dim=[3, 5, 0, 5, 1, 1, 1, 1]), "empty"),
    "nine dimensions": (lambda folder: nifti(folder / "nine.nii", dim=[9, 5, 5, 5, 1, 1, 1, 1]), "9 dimensions"),
    "unknown type": (lambda folder: nifti(folder / "type.nii", datatype=3), "NIfTI"),
    "truncated .nii": (truncated(".nii"), "truncated"),
    "truncated .nii.gz": (truncated(".nii.gz"), "truncated"),
    "truncated .nrrd": (truncated(".nrrd"), "truncated"),
    "truncated .mha": (truncated(".mha"), "truncated"),
    "garbage .nii": (garbage(".nii"), "not a NIfTI file"),
    "garbage .nii.gz": (garbage(".nii.gz"), "does not fit its content"),
    "garbage .nrrd": (garbage(".nrrd"), "not a NRRD file"),
    "garbage .mha": (garbage(".mha"), "not a MetaImage"),
    "garbage .dcm": (garbage(".dcm"), "not a DICOM image"),
    "hostile .nii": (lambda f: nifti(f / "h.nii", dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "declares 30000 x 30000"),
    "hostile .nii.gz": (hostile_gzip, "declares 30000 x 30000"),
    "hostile .nrrd": (text("h.nrrd", NRRD.format("30000 30000 30000", UNIT, "raw")), "declares 30000"),
    "hostile .nrrd gzip": (text("h.nrrd", NRRD.format("30000 30000 30000", UNIT, "gzip")), "declares 30000"),
    "hostile .mha": (text("h.mha", MHA.format("False", "1 1 1", "30000 30000 30000") + LOCAL), "declares 30000"),
    "hostile .mha zlib": (text("h.mha", MHA.format("True", "1 1 1", "30000 30000 30000") + LOCAL), "declares 30000"),
    "NRRD without size": (text("s.nrrd", NRRD.format("2 2 2", "(1,0,0) (0,0,0) (0,0,1)", "raw")), "spacing has a zero"),
    "NRRD bzip2": (text("b.nrrd", NRRD.format("2 2 2", UNIT, "bzip2")), "encoding 'bzip2'"),
    "NRRD outside": (text("o.nrrd", NRRD.format("2 2 2", UNIT, "raw\ndata file: /etc/passwd")), "outside its folder"),
    "mhd outside": (
        text("o.mhd", MHA.format("False", "1 1 1", "2 2 2") + "ElementDataFile = ../../x\n"),
        "outside its folder",
    ),
    "mha zero spacing": (text("z.mha", MHA.format("False", "1 0 1", "2 2 2") + LOCAL), "zero or negative spacing"),
    "mha wrong sizes": (text("z.mha", MHA.format("False", "1 1 1", "2 2") + LOCAL), "has sizes"),
}


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
