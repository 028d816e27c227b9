"""NIfTI-1 and NIfTI-2 headers."""

from __future__ import annotations

import gzip
import logging
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from volseg.data.formats import FileFormat
from volseg.data.volume_file import VolumeFile, grid_of, library_errors
from volseg.data.voxel_store import Codec, VoxelStore
from volseg.errors import ImageReadError

logger = logging.getLogger(__name__)

COMMENT_EXTENSION_CODE = 6
"""NIfTI's registered code for plain text; the label table is kept there as JSON."""

_MAX_EXTENSIONS_BYTES = 16 << 20
_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def open_nifti(path: Path) -> VolumeFile:
    """Reads the header of a .nii or .nii.gz file.

    The affine is the sform where it is set, else the qform, else the spacing alone (with a warning), as nibabel has it.

    Raises:
        ImageReadError: it is no NIfTI file, or not one scalar volume (or a stack of them) with a sound geometry.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed != path.name.lower().endswith(".gz"):
        state = "compressed with gzip" if packed else "not compressed"
        raise ImageReadError(f"{path}: its name does not fit its content, which is {state}; rename it")
    with library_errors(path, FileFormat.NIFTI):
        try:
            with gzip.open(path) if packed else path.open("rb") as stream:
                return _parse(path, cast(BinaryIO, stream), packed)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageReadError(f"{path}: truncated or damaged gzip file: {error}") from error


def _parse(path: Path, stream: BinaryIO, packed: bool) -> VolumeFile:
    header = _header(path, stream)
    size = int(header.sizeof_hdr)
    offset = float(header["vox_offset"])
    if offset == 0:
        offset = size + 4
    if not size + 4 <= offset < 2**48:
        raise ImageReadError(f"{path}: its voxels begin at byte {offset:g}, expected {size + 4} or more")
    spatial, channels = _shape(path, header)
    dtype = _dtype(path, header)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # As the standard says, a slope of 0 (and nibabel's NaN) means: not scaled.
    if slope == 0 or not np.isfinite(slope) or not np.isfinite(intercept):
        slope, intercept = 1.0, 0.0
    store = VoxelStore(
        path=path,
        start=0,
        skip=int(offset),
        codec=Codec.DEFLATE if packed else Codec.RAW,
        dtype=dtype,
        shape=spatial,
        channels=channels,
        slope=slope,
        intercept=intercept,
    )
    fields = _comments(stream, header, int(offset))
    return VolumeFile(FileFormat.NIFTI, grid_of(path, spatial, _affine(path, header)), store, fields)


def _header(path: Path, stream: BinaryIO) -> Any:
    import nibabel

    first = stream.read(348)
    if len(first) < 348:
        raise ImageReadError(f"{path}: truncated; a NIfTI header has at least 348 bytes, got {len(first)}")
    sizes = {struct.unpack(order + "i", first[:4])[0]: order for order in "<>"}
    if 540 in sizes:
        first += stream.read(540 - 348)
        kind, magic = nibabel.Nifti2Header, first[4:8]
        known, pair = b"n+2\0", b"ni2\0"
    elif 348 in sizes:
        kind, magic = nibabel.Nifti1Header, first[344:348]
        known, pair = b"n+1\0", b"ni1\0"
    else:
        raise ImageReadError(f"{path}: not a NIfTI file: it does not begin with NIfTI's header size")
    if magic == pair:
        raise ImageReadError(f"{path}: header of a .hdr/.img pair; save both as one .nii file first")
    if magic != known:
        raise ImageReadError(f"{path}: not a NIfTI file: expected the magic bytes {known!r}, got {magic!r}")
    # check=False: nibabel would quietly repair what must be refused here, such as a spacing of zero.
    return kind(first, endianness=sizes[540 if known == b"n+2\0" else 348], check=False)


def _shape(path: Path, header: Any) -> tuple[tuple[int, int, int], int]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise ImageReadError(f"{path}: damaged header: it declares {dim[0]} dimensions, expected 1 to 7")
    shape = dim[1 : dim[0] + 1]
    if min(shape) < 1:
        raise ImageReadError(f"{path}: empty: its shape is {tuple(shape)}")
    spatial = (*shape, 1, 1)[:3]
    extra = [n for n in shape[3:] if n > 1]
    if len(extra) > 1:
        raise ImageReadError(f"{path}: its shape is {tuple(shape)}; expected at most one axis beyond i, j, k")
    return (spatial[0], spatial[1], spatial[2]), extra[0] if extra else 1


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.names or dtype.kind == "V":
        raise ImageReadError(f"{path}: an RGB colour image; expected one number a voxel")
    if dtype.kind == "c":
        raise ImageReadError(f"{path}: complex numbers; save magnitude or phase as a real image first")
    if dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8):
        raise ImageReadError(f"{path}: voxels of type {dtype}, expected integers or floats of at most 64 bits")
    return dtype


def _affine(path: Path, header: Any) -> NDArray[np.float64]:
    dimensions = int(header["dim"][0])
    spacing = np.array(header["pixdim"][1:4], dtype=np.float64)
    # A 2D image has no third spacing; many writers leave it 0.
    if dimensions < 3:
        spacing[dimensions:][spacing[dimensions:] == 0] = 1.0
        header["pixdim"][1:4] = spacing
    if not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise ImageReadError(f"{path}: zero or invalid spacing: {spacing.tolist()}, expected positive numbers")
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        logger.warning("%s: neither qform nor sform is set, so left and right are a guess", path.name)
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    unit = header.get_xyzt_units()[0]
    if _MM[unit] != 1.0:
        logger.warning("%s: its unit is %s; taken to millimetres", path.name, unit)
        affine[:3] *= _MM[unit]
    return affine


def _comments(stream: BinaryIO, header: Any, offset: int) -> dict[str, str]:
    """The texts in the header extensions, numbered."""
    length = min(offset - int(header.sizeof_hdr), _MAX_EXTENSIONS_BYTES)
    block = stream.read(length)
    texts: dict[str, str] = {}
    if len(block) < 4 or block[0] == 0:
        return texts
    place = 4
    while place + 8 <= len(block):
        size, code = struct.unpack(header.endianness + "ii", block[place : place + 8])
        if size < 8 or place + size > len(block):
            break
        if code == COMMENT_EXTENSION_CODE:
            text = block[place + 8 : place + size].rstrip(b"\0")
            texts[f"comment{len(texts)}"] = text.decode("utf-8", errors="replace")
        place += size
    return texts
