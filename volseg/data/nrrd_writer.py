"""Label maps as NRRD."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.geometry import RAS_LPS, Grid

_TYPES = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}
_COMPRESSION_LEVEL = 4


def write_nrrd(layers: Sequence[NDArray[Any]], grid: Grid, fields: Mapping[str, str], path: Path) -> None:
    """Writes layers in one gzip-compressed NRRD file, slice by slice, in LPS as ITK and 3D Slicer do.

    pynrrd is not used here: it keeps ASCII only and copies the whole volume.

    Args:
        layers: [I, J, K] unsigned integers of one type; several become a first axis of kind ``list``.
        grid: their grid.
        fields: key/value pairs for the header; any text in one line or several.
        path: name of the file.
    """
    affine_lps = RAS_LPS @ grid.affine_ras
    vectors = [_vector(affine_lps[:3, axis]) for axis in range(3)]
    several = len(layers) > 1
    header = {
        "type": _TYPES[layers[0].dtype.itemsize],
        "dimension": "4" if several else "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in ((len(layers),) if several else ()) + grid.shape),
        "space directions": " ".join((["none"] if several else []) + vectors),
        "kinds": " ".join((["list"] if several else []) + ["domain"] * 3),
        "endian": "little",
        "encoding": "gzip",
        "space origin": _vector(affine_lps[:3, 3]),
    }
    lines = ["NRRD0004", "# Complete NRRD file format specification at:"]
    lines += ["# http://teem.sourceforge.net/nrrd/format.html"]
    lines += [f"{key}: {value}" for key, value in header.items()]
    lines += [f"{key}:={_escaped(value)}" for key, value in fields.items()]
    little = layers[0].dtype.newbyteorder("<")
    compressor = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    with path.open("wb") as stream:
        stream.write(("\n".join(lines) + "\n\n").encode())
        for k in range(grid.shape[2]):
            # Reversed axes in C order are i fastest; the layers of one voxel lie side by side.
            plane = np.ascontiguousarray(np.stack([layer[..., k].T for layer in layers], axis=-1), dtype=little)
            stream.write(compressor.compress(plane.data.cast("B")))
        stream.write(compressor.flush())


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value) + 0.0) for value in values) + ")"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\r", " ").replace("\n", "\\n")
