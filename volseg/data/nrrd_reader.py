"""NRRD headers, attached and detached."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.formats import FileFormat, file_suffix
from volseg.data.text_header import MAX_HEADER_BYTES, detached_file
from volseg.data.volume_file import VolumeFile, grid_of, library_errors
from volseg.data.voxel_store import Codec, VoxelStore
from volseg.errors import ImageReadError

logger = logging.getLogger(__name__)

_DTYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_TO_RAS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
}
_MM = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "micron": 0.001, "microns": 0.001}
_COLOUR_KINDS = ("rgb-color", "rgba-color", "hsv-color", "xyz-color", "3-color", "4-color", "complex")
_SPATIAL_KINDS = ("domain", "space")


def open_nrrd(path: Path) -> VolumeFile:
    """Reads the header of a .nrrd, .seg.nrrd or .nhdr file.

    Its space may be RAS, LAS or LPS; where none is named, LPS is assumed with a warning, as ITK does.

    Raises:
        ImageReadError: it is no NRRD file, or not one scalar volume (or a stack of them) with a sound geometry.
    """
    lines, start = _lines(path)
    kind = FileFormat.SEG_NRRD if file_suffix(path) == ".seg.nrrd" else FileFormat.NRRD
    with library_errors(path, kind):
        import nrrd  # type: ignore[import-untyped]

        header = nrrd.read_header(lines)
        sizes = [int(n) for n in header.get("sizes", ())]
        if len(sizes) != header.get("dimension") or "type" not in header or "encoding" not in header:
            raise ImageReadError(f"{path}: damaged header: dimension, sizes, type or encoding is missing or wrong")
        if not sizes or min(sizes) < 1:
            raise ImageReadError(f"{path}: empty: its sizes are {sizes}")
        spatial, other = _axes(path, header, len(sizes))
        shape = (*(sizes[axis] for axis in spatial), 1, 1)[:3]
        store = _store(path, header, start, shape=(shape[0], shape[1], shape[2]), sizes=sizes, other=other)
        grid = grid_of(path, shape, _affine(path, header, spatial))
        fields = {key: unescaped(text) for key, text in header.items() if isinstance(text, str)}
    return VolumeFile(kind, grid, store, fields)


def unescaped(text: str) -> str:
    r"""A NRRD value with ``\n`` and ``\\`` read as line feed and backslash."""
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\"))


def _lines(path: Path) -> tuple[list[str], int]:
    """The header's lines, and the byte after them."""
    lines: list[str] = []
    with path.open("rb") as stream:
        if stream.read(4) != b"NRRD":
            raise ImageReadError(f"{path}: not a NRRD file: it does not begin with NRRD")
        stream.seek(0)
        while stream.tell() < MAX_HEADER_BYTES:
            line = stream.readline(MAX_HEADER_BYTES)
            # Names are written in UTF-8 by 3D Slicer, although the format says ASCII.
            text = line.decode("utf-8", errors="replace").rstrip("\r\n")
            if not text:
                return lines, stream.tell()
            lines.append(text)
    raise ImageReadError(f"{path}: its header has no end within {MAX_HEADER_BYTES} bytes")


def _axes(path: Path, header: dict[str, Any], dimension: int) -> tuple[list[int], int | None]:
    """The axes of space, and the one of channels, if any."""
    kinds = [str(kind).lower() for kind in header.get("kinds", ())]
    colour = next((kind for kind in kinds if kind in _COLOUR_KINDS), None)
    if colour is not None:
        raise ImageReadError(f"{path}: holds {colour} voxels; expected one number a voxel")
    directions = header.get("space directions")
    if directions is not None:
        spatial = [axis for axis, vector in enumerate(directions) if vector is not None and np.isfinite(vector).all()]
    elif len(kinds) == dimension and dimension > 3:
        spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    else:
        spatial = list(range(min(dimension, 3)))
    others = [axis for axis in range(dimension) if axis not in spatial]
    if len(spatial) not in (2, 3) or len(others) > 1 or (others and others[0] not in (0, dimension - 1)):
        raise ImageReadError(
            f"{path}: has {len(spatial)} axes in space of {dimension}; expected 2 or 3, and at most one of channels, "
            "first or last"
        )
    return spatial, others[0] if others else None


def _store(
    path: Path, header: dict[str, Any], start: int, *, shape: tuple[int, int, int], sizes: list[int], other: int | None
) -> VoxelStore:
    dtype = next((code for code, names in _DTYPES.items() if str(header["type"]) in names.split("|")), None)
    if dtype is None:
        raise ImageReadError(f"{path}: voxels of type {header['type']!r}, expected integers or floats")
    encoding = str(header["encoding"]).lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ImageReadError(f"{path}: encoding {encoding!r} is not supported; save it as raw or gzip first")
    if np.dtype(dtype).itemsize > 1:
        endian = str(header.get("endian", "")).lower()
        if endian not in ("little", "big"):
            raise ImageReadError(f"{path}: damaged header: endian is {endian!r}, expected little or big")
        dtype = ("<" if endian == "little" else ">") + dtype
    file = path
    name = header.get("data file", header.get("datafile"))
    if name is not None:
        file, start = detached_file(path, str(name)), 0
    lines = int(header.get("line skip", header.get("lineskip", 0)))
    if lines != 0:
        raise ImageReadError(f"{path}: line skip {lines} is not supported; save it with an attached header first")
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    codec = Codec.RAW if encoding == "raw" else Codec.DEFLATE
    if skip == -1 and codec is Codec.RAW:
        length = np.dtype(dtype).itemsize
        for n in sizes:
            length *= n
        start, skip = max(0, file.stat().st_size - length), 0
    if skip < 0:
        raise ImageReadError(f"{path}: byte skip {skip} is not supported with encoding {encoding}")
    return VoxelStore(
        path=file,
        start=start,
        skip=skip,
        codec=codec,
        dtype=np.dtype(dtype),
        shape=shape,
        channels=1 if other is None else sizes[other],
        interleaved=other == 0,
    )


def _affine(path: Path, header: dict[str, Any], spatial: list[int]) -> NDArray[np.float64]:
    space = header.get("space")
    if space is not None and str(space).lower() not in _TO_RAS:
        raise ImageReadError(f"{path}: space {space!r} is not supported; expected RAS, LAS or LPS")
    if space is None:
        logger.warning("%s: names no space, so left and right are a guess (LPS)", path.name)
    affine = np.eye(4)
    count = len(spatial)
    if header.get("space directions") is not None:
        for column, axis in enumerate(spatial):
            vector = np.asarray(header["space directions"][axis], dtype=np.float64)
            affine[:3, column] = 0.0
            affine[: vector.size, column] = vector
        if count == 2:  # one slice, 1 mm thick
            normal = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), np.finfo(np.float64).tiny)
    elif "spacings" in header:
        spacings = np.asarray(header["spacings"], dtype=np.float64)[spatial]
        affine[range(count), range(count)] = spacings
    else:
        raise ImageReadError(f"{path}: has neither space directions nor spacings, so its voxels have no size")
    origin = np.asarray(header.get("space origin", np.zeros(count)), dtype=np.float64)
    affine[: origin.size, 3] = origin
    units = [str(unit).strip('"').lower() for unit in header.get("space units", ())]
    for row, unit in enumerate(units[:3]):
        if unit not in _MM:
            raise ImageReadError(f"{path}: space unit {unit!r} is not supported; expected mm")
        affine[row] *= _MM[unit]
    signs = _TO_RAS[str(space or "lps").lower()]
    result: NDArray[np.float64] = np.diag((*signs, 1.0)) @ affine
    return result
