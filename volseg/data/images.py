"""Images from files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.data.formats import FileFormat, format_to_read
from volseg.data.modality import Modality
from volseg.data.volume_file import VolumeFile
from volseg.errors import ImageReadError

if TYPE_CHECKING:
    from monai.data import MetaTensor


def read_image(
    path: str | os.PathLike[str],
    *,
    series_uid: str | None = None,
    channel: int | None = None,
    modality: Modality | None = None,
    slices: Sequence[Path] = (),
) -> MetaTensor:
    """Reads one 3D volume of one number a voxel.

    Integers stay integers, in the type of the file; uint16, uint32 and uint64, with which torch cannot compute, become
    int32, int64 and int64. A rescale slope and intercept are applied; the result stays an integer where both are whole
    numbers (CT in HU is int16) and is float32 otherwise. A 2D image is a volume of one slice.

    Args:
        path: .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd file; a folder of DICOM slices (its sub-folders are searched
            too); or one .dcm file, which stands for its series in its folder.
        series_uid: the DICOM SeriesInstanceUID, where the folder holds several series.
        channel: which channel or time point, from 0, where the file holds several.
        modality: how the image was acquired, where the file does not say or is wrong.
        slices: the files of the DICOM series in the folder ``path``, where they are known; nothing is searched then.

    Returns:
        [1, I, J, K] with a float64 affine to RAS millimetres, strides as in the file (i fastest). ``meta["modality"]``
        is the ``Modality`` where known. Nothing else of the header is kept, so no patient data.

    Raises:
        ImageReadError: there is no such file, or it is not one sound scalar volume; the message says what is wrong.
    """
    import torch
    from monai.data import MetaTensor

    source = Path(path)
    if format_to_read(source) is FileFormat.DICOM:
        from volseg.data.dicom_reader import open_dicom, open_slices

        if channel not in (None, 0):
            raise ImageReadError(f"{source}: a DICOM series is one volume; there is no channel {channel}")
        series = open_slices(source, slices) if slices else open_dicom(source, series_uid)
        grid, array, known = series.grid, series.read(), series.modality
    else:
        file = open_volume(source, series_uid)
        grid, array, known = file.grid, file.read(channel), None
    known = modality or known
    return MetaTensor(
        torch.from_numpy(array)[None],
        affine=torch.from_numpy(grid.affine_ras.copy()),
        meta={} if known is None else {"modality": known},
    )


def open_volume(path: Path, series_uid: str | None = None) -> VolumeFile:
    """Reads the header of a file that is not DICOM.

    Raises:
        ImageReadError: see ``read_image``.
    """
    if series_uid is not None:
        raise ImageReadError(f"{path}: a series can be chosen in a folder of DICOM slices only")
    match format_to_read(path):
        case FileFormat.NIFTI:
            from volseg.data.nifti_reader import open_nifti

            return open_nifti(path)
        case FileFormat.NRRD | FileFormat.SEG_NRRD:
            from volseg.data.nrrd_reader import open_nrrd

            return open_nrrd(path)
        case FileFormat.METAIMAGE:
            from volseg.data.metaimage_reader import open_metaimage

            return open_metaimage(path)
        case FileFormat.DICOM:
            raise ImageReadError(f"{path}: DICOM images hold no label maps that can be read here; expected a file")
        case FileFormat.DICOM_SEG | FileFormat.RTSTRUCT as kind:
            raise ImageReadError(f"{path}: a {kind} holds labels, not an image; read it as a label map")
