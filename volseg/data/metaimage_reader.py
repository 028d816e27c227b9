"""MetaImage headers.

They are read here and not by ITK, whose parser ends the whole process (abort, segmentation fault) on damaged headers.
Source: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.formats import FileFormat
from volseg.data.text_header import detached_file
from volseg.data.volume_file import VolumeFile, grid_of, library_errors
from volseg.data.voxel_store import Codec, VoxelStore
from volseg.errors import ImageReadError
from volseg.geometry import RAS_LPS

_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_BLANK = " \t\r\n"
_MAX_LINES = 10000
_MAX_LINE_BYTES = 1 << 20


def open_metaimage(path: Path) -> VolumeFile:
    """Reads the header of a .mha or .mhd file; its coordinates are LPS, as ITK has them.

    Raises:
        ImageReadError: it is no MetaImage, or not one scalar volume (or a stack of them) with a sound geometry.
    """
    fields, start = _fields(path)
    with library_errors(path, FileFormat.METAIMAGE):
        sizes = [int(n) for n in _first(path, fields, "DimSize").split()]
        if len(sizes) != int(_first(path, fields, "NDims")) or not 2 <= len(sizes) <= 4:
            raise ImageReadError(f"{path}: has sizes {sizes} for {fields['NDims']} dimensions; expected 2, 3 or 4")
        if min(sizes) < 1:
            raise ImageReadError(f"{path}: empty: its sizes are {sizes}")
        shape = (*sizes[:3], 1)[:3]
        store = _store(path, fields, start, shape=(shape[0], shape[1], shape[2]), sizes=sizes)
        grid = grid_of(path, shape, _affine(path, fields, len(sizes)))
    return VolumeFile(FileFormat.METAIMAGE, grid, store, fields)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's pairs, and the byte after them."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        for _ in range(_MAX_LINES):
            key, separator, value = stream.readline(_MAX_LINE_BYTES).decode("utf-8", errors="replace").partition("=")
            key = key.strip(_BLANK)
            if not separator or not key or "\0" in key:
                break
            fields[key] = value.strip(_BLANK)
            if key == "ElementDataFile":
                return fields, stream.tell()
    raise ImageReadError(f"{path}: not a MetaImage, or damaged: its header does not end with ElementDataFile")


def _first(path: Path, fields: dict[str, str], *names: str, default: str | None = None) -> str:
    for name in names:
        if name in fields:
            return fields[name]
    if default is None:
        raise ImageReadError(f"{path}: damaged header: {names[0]} is missing")
    return default


def _flag(path: Path, fields: dict[str, str], *names: str, default: str) -> bool:
    return _first(path, fields, *names, default=default).lower() in ("true", "1", "yes", "t")


def _store(
    path: Path, fields: dict[str, str], start: int, *, shape: tuple[int, int, int], sizes: list[int]
) -> VoxelStore:
    element = _first(path, fields, "ElementType").upper()
    if element not in _DTYPES:
        raise ImageReadError(f"{path}: voxels of type {element}, expected one of {', '.join(_DTYPES)}")
    if not _flag(path, fields, "BinaryData", default="False"):
        raise ImageReadError(f"{path}: keeps its voxels as text; save it as binary first")
    big = _flag(path, fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB", default="False")
    components = int(_first(path, fields, "ElementNumberOfChannels", default="1"))
    times = sizes[3] if len(sizes) == 4 else 1
    if components < 1 or (components > 1 and times > 1):
        raise ImageReadError(f"{path}: {components} channels and {times} time points; expected at most one of them")
    if components in (3, 4) and element == "MET_UCHAR":
        raise ImageReadError(f"{path}: an RGB colour image; expected one number a voxel")
    file = path
    name = _first(path, fields, "ElementDataFile")
    if name.upper() != "LOCAL":
        file, start = detached_file(path, name), 0
    compressed = _flag(path, fields, "CompressedData", default="False")
    dtype: np.dtype[Any] = np.dtype((">" if big else "<") + _DTYPES[element])
    header_size = int(_first(path, fields, "HeaderSize", default="0"))
    if header_size == -1 and not compressed:
        length = dtype.itemsize * components
        for n in sizes:
            length *= n
        start = max(0, file.stat().st_size - length)
    elif header_size > 0:
        start = header_size
    return VoxelStore(
        path=file,
        start=start,
        skip=0,
        codec=Codec.DEFLATE if compressed else Codec.RAW,
        dtype=dtype,
        shape=shape,
        channels=max(components, times),
        interleaved=components > 1,
    )


def _affine(path: Path, fields: dict[str, str], dimensions: int) -> NDArray[np.float64]:
    n = dimensions
    ones, zeros = " ".join(["1"] * n), " ".join(["0"] * n)
    identity = " ".join(str(int(value)) for value in np.eye(n).ravel())
    spacing = _numbers(path, _first(path, fields, "ElementSpacing", "ElementSize", default=ones), n)
    origin = _numbers(path, _first(path, fields, "Offset", "Position", "Origin", default=zeros), n)
    matrix = _numbers(path, _first(path, fields, "TransformMatrix", "Rotation", "Orientation", default=identity), n * n)
    if spacing[:3].min() <= 0:
        raise ImageReadError(f"{path}: zero or negative spacing: {spacing.tolist()}")
    # Each line of the matrix is the direction of one axis.
    directions = matrix.reshape(n, n)[:3, :3]
    space = min(n, 3)
    affine_lps = np.eye(4)
    affine_lps[:space, :space] = directions.T * spacing[:space]
    affine_lps[:space, 3] = origin[:space]
    result: NDArray[np.float64] = RAS_LPS @ affine_lps
    return result


def _numbers(path: Path, text: str, count: int) -> NDArray[np.float64]:
    values = np.array([float(part) for part in text.split()], dtype=np.float64)
    if values.size != count or not np.isfinite(values).all():
        raise ImageReadError(f"{path}: damaged header: expected {count} numbers, got {text!r:.100}")
    return values
