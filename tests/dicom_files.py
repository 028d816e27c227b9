"""DICOM series for tests, written with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(
    folder: Path,
    stored: NDArray[Any],
    affine_ras: NDArray[np.float64],
    *,
    reverse: bool = False,
    uid: str = "1.2.3.4",
    **attributes: Any,
) -> list[Path]:
    """Writes an array [I, J, K] as slices stacked along k; i runs along rows, j down columns.

    Args:
        folder: made if needed.
        stored: the numbers as stored.
        affine_ras: of the array.
        reverse: number files and instances from the last slice to the first.
        uid: SeriesInstanceUID.
        **attributes: DICOM attributes; a list of K values sets one for each slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    count = stored.shape[2]
    paths = []
    for k in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        number = count - k if reverse else k + 1
        path = folder / f"{number:04d}.dcm"
        slice_ = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.PatientName, slice_.PatientID = "Doe^Jane", "4711"
        slice_.Modality, slice_.SeriesInstanceUID, slice_.SeriesDescription = "CT", uid, "phantom"
        slice_.InstanceNumber = number
        slice_.Rows, slice_.Columns = stored.shape[1], stored.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        bits = stored.dtype.itemsize * 8
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = bits, bits, bits - 1
        slice_.PixelRepresentation = int(stored.dtype.kind == "i")
        slice_.PixelSpacing = _decimals((spacing[1], spacing[0]))
        slice_.ImageOrientationPatient = _decimals((*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])))
        slice_.ImagePositionPatient = _decimals(lps[:3, 2] * k + lps[:3, 3])
        slice_.SliceThickness = _decimals((spacing[2],))[0]
        for name, value in attributes.items():
            setattr(slice_, name, value[k] if isinstance(value, list) and len(value) == count else value)
        if "PixelData" not in attributes:
            slice_.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        pydicom.dcmwrite(path, slice_, enforce_file_format=True)
        paths.append(path)
    return paths


def _decimals(values: Any) -> list[str]:
    """DICOM keeps at most 16 characters a number."""
    return [f"{float(value):.10f}"[:16] for value in values]
