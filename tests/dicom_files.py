"""DICOM series for tests, written with pydicom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)


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


PATIENT = {
    "PatientName": "Planted^Name",
    "PatientID": "PLANTED-ID-77",
    "PatientBirthDate": "19610203",
    "PatientSex": "O",
}


def write_patient_series(
    folder: Path, stored: NDArray[Any], affine_ras: NDArray[np.float64], *, reverse: bool = False, **attributes: Any
) -> list[Path]:
    """A series with everything the CT module asks for, so that a checker finds nothing in what is copied from it."""
    complete = {
        **PATIENT,
        "StudyInstanceUID": "1.2.826.1.1",
        "StudyDate": "20200102",
        "StudyTime": "101112",
        "SeriesDate": "20200102",
        "ContentDate": "20200102",
        "ContentTime": "101314",
        "StudyID": "7",
        "SeriesNumber": 3,
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "FrameOfReferenceUID": "1.2.826.1.2",
        "PositionReferenceIndicator": "",
        "Manufacturer": "phantom",
        "PatientPosition": "HFS",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "uid": "1.2.826.1.3",
    }
    return write_series(folder, stored, affine_ras, reverse=reverse, **{**complete, **attributes})


def write_enhanced(
    path: Path,
    stored: NDArray[Any],
    affine_ras: NDArray[np.float64],
    *,
    order: list[int] | None = None,
    slopes: list[float] | None = None,
    modality: str = "CT",
    shared_orientation: bool = True,
) -> Path:
    """Writes an array [I, J, K] as one enhanced multi-frame file.

    Args:
        path: the file.
        stored: the numbers as stored.
        affine_ras: of the array.
        order: the k of each frame; from the first to the last by default.
        slopes: rescale slope for each k.
        modality: CT or MR.
        shared_orientation: orientation and pixel measures once for all frames, or with each.
    """
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    order = order or list(range(stored.shape[2]))
    uid = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid, "1.2.826.2.9"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = uid, meta.MediaStorageSOPInstanceUID
    for name, value in PATIENT.items():
        setattr(file, name, value)
    file.Modality, file.SeriesInstanceUID, file.StudyInstanceUID = modality, "1.2.826.2.1", "1.2.826.2.2"
    file.FrameOfReferenceUID, file.StudyDate, file.StudyTime = "1.2.826.2.3", "20200102", "101112"
    file.StudyID, file.AccessionNumber, file.ReferringPhysicianName = "7", "", ""
    file.SeriesNumber, file.InstanceNumber, file.Manufacturer = 4, 1, "phantom"
    file.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    file.Rows, file.Columns, file.NumberOfFrames = stored.shape[1], stored.shape[0], len(order)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = stored.dtype.itemsize * 8
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = _decimals((spacing[1], spacing[0]))
    measures.SliceThickness = _decimals((spacing[2],))[0]
    cosines = (*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1]))
    orientation.ImageOrientationPatient = _decimals(cosines)
    shared = Dataset()
    frames = []
    for k in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = _decimals(lps[:3, 2] * k + lps[:3, 3])
        values.RescaleSlope = 1 if slopes is None else slopes[k]
        values.RescaleIntercept, values.RescaleType = 0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        holder = shared if shared_orientation else frame
        holder.PixelMeasuresSequence, holder.PlaneOrientationSequence = [measures], [orientation]
        frames.append(frame)
    file.SharedFunctionalGroupsSequence, file.PerFrameFunctionalGroupsSequence = [shared], frames
    file.PixelData = b"".join(np.ascontiguousarray(stored[:, :, k].T).tobytes() for k in order)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path


def compressed(paths: list[Path], syntax: UID) -> None:
    """Packs the pixels of files in place."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)


def edited(path: Path, target: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a DICOM file after ``change``."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(target)
    return target
