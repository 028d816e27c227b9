"""Which file formats there are, by the ends of their names."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from volseg.errors import ImageReadError, WriteError


class FileFormat(StrEnum):
    """A way to store a volume."""

    NIFTI = "NIfTI"
    NRRD = "NRRD"
    SEG_NRRD = "3D Slicer segmentation"
    METAIMAGE = "MetaImage"
    DICOM = "DICOM series"
    DICOM_SEG = "DICOM segmentation"
    RTSTRUCT = "DICOM structure set"


_READABLE = {
    ".nii": FileFormat.NIFTI,
    ".nii.gz": FileFormat.NIFTI,
    ".nrrd": FileFormat.NRRD,
    ".nhdr": FileFormat.NRRD,
    ".seg.nrrd": FileFormat.SEG_NRRD,
    ".mha": FileFormat.METAIMAGE,
    ".mhd": FileFormat.METAIMAGE,
    ".dcm": FileFormat.DICOM,
    ".seg.dcm": FileFormat.DICOM_SEG,
    ".rtstruct.dcm": FileFormat.RTSTRUCT,
}
_STORAGE_CLASSES = {
    b"1.2.840.10008.5.1.4.1.1.66.4": FileFormat.DICOM_SEG,
    b"1.2.840.10008.5.1.4.1.1.66.7": FileFormat.DICOM_SEG,
    b"1.2.840.10008.5.1.4.1.1.481.3": FileFormat.RTSTRUCT,
}
# Two files cannot be put in place in one step, so headers with detached voxels are not written.
_DETACHED = {".nhdr": ".nrrd", ".mhd": ".mha"}
_WRITABLE = {
    suffix: format for suffix, format in _READABLE.items() if format is not FileFormat.DICOM and suffix not in _DETACHED
}


def file_suffix(path: Path) -> str:
    """The longest known ending of ``path``'s name in lower case, such as ``".nii.gz"``, or ``""``."""
    name = path.name.lower()
    return max((suffix for suffix in _READABLE if name.endswith(suffix)), key=len, default="")


def format_to_read(path: Path) -> FileFormat:
    """The format of an existing file or folder.

    Raises:
        ImageReadError: nothing is there, the file is empty, or its format is not known.
    """
    if path.is_dir():
        return FileFormat.DICOM
    if not path.exists():
        raise ImageReadError(f"{path}: there is no such file or folder")
    if not path.is_file():
        raise ImageReadError(f"{path}: expected a file or a folder of DICOM slices, this is neither")
    if path.stat().st_size == 0:
        raise ImageReadError(f"{path}: the file is empty (0 bytes)")
    suffix = file_suffix(path)
    if suffix and not suffix.endswith(".dcm"):
        return _READABLE[suffix]
    # What a DICOM file holds, its header says; names do not.
    with path.open("rb") as stream:
        head = stream.read(1024)
    if head[128:132] == b"DICM":
        return _STORAGE_CLASSES.get(_storage_class(head), FileFormat.DICOM)
    if suffix:
        return FileFormat.DICOM
    known = ", ".join(sorted(_READABLE))
    raise ImageReadError(f"{path}: unknown kind of file; expected a name that ends in {known}, or a DICOM folder")


def _storage_class(head: bytes) -> bytes:
    """The Media Storage SOP Class UID in a DICOM file's first bytes, which are explicit VR little endian."""
    tag = b"\x02\x00\x02\x00UI"
    at = head.find(tag, 132)
    if at < 0:
        return b""
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ")


def check_output_path(path: str | os.PathLike[str]) -> FileFormat:
    """Checks that a label map can be written to ``path``, so that a long computation does not end in vain.

    Returns:
        The format the name asks for.

    Raises:
        WriteError: the ending is not known, the folder is not there or not writable, or ``path`` is a folder.
    """
    target = Path(path)
    suffix = file_suffix(target)
    if suffix in _DETACHED:
        raise WriteError(f"{target}: {suffix} keeps header and voxels in two files; use {_DETACHED[suffix]} instead")
    if suffix not in _WRITABLE or target.name.lower() == suffix:
        raise WriteError(f"{target}: expected a file name that ends in {', '.join(sorted(_WRITABLE))}")
    if target.is_dir():
        raise WriteError(f"{target}: is a folder; expected the name of a file")
    if not target.parent.is_dir():
        raise WriteError(f"{target}: the folder {target.parent} does not exist; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise WriteError(f"{target}: the folder {target.parent} is not writable")
    return _WRITABLE[suffix]
