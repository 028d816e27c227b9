"""Label maps as NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from volseg.data.nifti_reader import COMMENT_EXTENSION_CODE
from volseg.geometry import Grid

_SCANNER = 1
"""NIfTI's code for coordinates of the scanner."""

_MAX_NIFTI1_SIZE = 32767


def write_nifti(array: NDArray[Any], grid: Grid, table: str, path: Path) -> None:
    """Writes one volume with its affine in the sform and, where the axes are orthogonal, in the qform too.

    Args:
        array: [I, J, K] unsigned integers of the type to be stored.
        grid: its grid; kept to float32, as the format has it.
        table: a text for the header extension.
        path: name of the file; ``.gz`` compresses.
    """
    import nibabel

    # NIfTI-1 counts voxels along an axis in 16 bits.
    kind = nibabel.Nifti1Image if max(grid.shape) <= _MAX_NIFTI1_SIZE else nibabel.Nifti2Image
    image = kind(array, grid.affine_ras)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"volseg label map"
    image.set_sform(grid.affine_ras, code=_SCANNER)
    image.set_qform(grid.affine_ras, code=_SCANNER, strip_shears=True)
    if not Grid(grid.shape, image.get_qform()).same_as(grid):
        image.set_qform(grid.affine_ras, code=0, strip_shears=True)
        image.set_sform(grid.affine_ras, code=_SCANNER)
    image.header["intent_code"] = 1002  # NIFTI_INTENT_LABEL
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(COMMENT_EXTENSION_CODE, table.encode()))
    image.to_filename(path)
