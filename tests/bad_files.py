"""Files that no reader may take, with what the error says."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from phantom import make_phantom, sitk_image

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
