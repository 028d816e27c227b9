"""Label maps as DICOM structure sets (RTSTRUCT).

Written with pydicom: the known library for it, rt-utils, traces through voxel centres, which makes every object half a
voxel smaller all around, loses holes, and draws opencv-python in, which needs a graphics library.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom.contours import outlines
from volseg.data.dicom.identity import content_hash, date_and_time, derived_uid
from volseg.data.dicom.label_items import code_item, described, put_label, put_origin, short_text, title
from volseg.data.dicom.objects import MANUFACTURER, highdicom_errors, save, settle, software_version
from volseg.data.dicom.sources import SourceSeries, read_sources
from volseg.data.labelmap import Label, LabelMap
from volseg.data.lattice import on_lattice
from volseg.errors import WriteError
from volseg.geometry import RAS_LPS

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
_RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_MAX_IS = 2**31 - 1


def write_rtstruct(labels: LabelMap, path: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]]) -> None:
    """Writes a DICOM structure set that refers to the images it was made on, whole or not at all (P6).

    Outlines lie on the images' slices, run halfway between voxels inside and outside, and tie holes in by keyholes, so
    that reading them gives the label map again. Patient and study are copied from the images; UIDs are derived from
    the images' and the content, and the clock is not read: the same input gives the same bytes.

    Args:
        labels: what to write; on the images' voxels, in any order and direction of axes. Objects may overlap.
        path: the file; one already there is replaced.
        sources: the files of the image series (``source_files``).

    Raises:
        GeometryError: the label map lies on other voxels than the images.
        ImageReadError: the images make no regular volume, or lack identifiers.
        WriteError: there is no object, or the disk does not allow it.
        MissingExtraError: highdicom is not installed.
    """
    target = Path(path)
    labels = described(labels)
    if labels.labels[-1].value > _MAX_IS:
        raise WriteError(f"{target}: label {labels.labels[-1].value}; ROI numbers go up to {_MAX_IS}")
    series = read_sources(sources)
    moved = on_lattice(labels, series.grid)
    with highdicom_errors(target), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd values in the sources' headers, which are copied as they are
        dataset = _structure_set(moved, series)
        put_origin(dataset, moved)
        settle(dataset, series)
        save(dataset, target)


def _structure_set(labels: LabelMap, series: SourceSeries) -> Any:
    from highdicom.base import SOPClass

    source = series.datasets[0]
    identity = (series.series_uid, content_hash(labels))
    date, time = date_and_time(source)
    # Implicit VR: with explicit ones a long outline would not fit its 16 bit length.
    dataset = SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=derived_uid("rtstruct series", *identity),
        series_number=1,
        sop_instance_uid=derived_uid("rtstruct instance", *identity),
        sop_class_uid=_RTSTRUCT_STORAGE,
        instance_number=1,
        modality="RTSTRUCT",
        transfer_syntax_uid=_IMPLICIT_LITTLE_ENDIAN,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=short_text(labels.provenance.model, MANUFACTURER),
        software_versions=short_text(labels.provenance.software, f"volseg {software_version()}"),
        series_description="volseg structure set",
        study_id=source.StudyID,
        study_date=source.StudyDate or None,
        study_time=source.StudyTime or None,
        accession_number=source.AccessionNumber,
        referring_physician_name=source.ReferringPhysicianName,
    )
    dataset.copy_patient_and_study_information(source)
    dataset.FrameOfReferenceUID = series.frame_of_reference_uid
    dataset.PositionReferenceIndicator = source.get("PositionReferenceIndicator", None) or ""
    dataset.OperatorsName = ""
    dataset.StructureSetLabel = "volseg"
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame_of_reference(series)]
    dataset.StructureSetROISequence = [_roi(label, labels, series) for label in labels.labels]
    dataset.ROIContourSequence = [_contours(label, labels, series) for label in labels.labels]
    dataset.RTROIObservationsSequence = [
        _observation(number, label) for number, label in enumerate(labels.labels, start=1)
    ]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _referenced_frame_of_reference(series: SourceSeries) -> Any:
    from pydicom import Dataset

    referenced, study, images = Dataset(), Dataset(), Dataset()
    images.SeriesInstanceUID = series.series_uid
    images.ContourImageSequence = [_reference(dataset) for dataset in series.datasets]
    study.ReferencedSOPClassUID = _DETACHED_STUDY
    study.ReferencedSOPInstanceUID = series.datasets[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [images]
    referenced.FrameOfReferenceUID = series.frame_of_reference_uid
    referenced.RTReferencedStudySequence = [study]
    return referenced


def _reference(dataset: Any) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    return item


def _roi(label: Label, labels: LabelMap, series: SourceSeries) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ROINumber = label.value
    item.ReferencedFrameOfReferenceUID = series.frame_of_reference_uid
    item.ROIName = title(label)
    # A person says what is meant and a model where it is; of a label map without a model nothing is known.
    item.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if labels.provenance.model else ""
    if labels.provenance.model:
        item.ROIGenerationDescription = short_text(labels.provenance.model, MANUFACTURER)
    put_label(item, label)
    return item


def _contours(label: Label, labels: LabelMap, series: SourceSeries) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ROIDisplayColor = list(label.color_rgb)
    item.ReferencedROINumber = label.value
    contours: list[Dataset] = []
    for k, outline in _outlines(labels, label):
        contour = Dataset()
        reference = _reference(series.dataset_of(k))
        if series.is_multiframe:
            reference.ReferencedFrameNumber = series.slices[k].frame + 1
        contour.ContourImageSequence = [reference]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(outline)
        contour.ContourNumber = len(contours) + 1
        _put_points(contour, _points_lps_mm(outline, k, series), series)
        contours.append(contour)
    if contours:  # an object that is not there has no contours, and no sequence of them
        item.ContourSequence = contours
    return item


def _outlines(labels: LabelMap, label: Label) -> Iterator[tuple[int, NDArray[np.float64]]]:
    layer = labels.layers[label.layer]
    for k in range(layer.shape[2]):
        mask = layer[..., k] == label.value
        if mask.any():
            for outline in outlines(mask):
                yield k, outline


def _points_lps_mm(outline: NDArray[np.float64], k: int, series: SourceSeries) -> NDArray[np.float64]:
    """Vertices in the plane that the slice's own header states, not on the grid that all slices share."""
    grid = series.grid
    axes = (RAS_LPS @ grid.affine_ras)[:3, :2]
    origin = np.array(series.slices[k].position_lps_mm)
    points: NDArray[np.float64] = outline @ axes.T + origin
    return points


def _put_points(contour: Any, points_lps_mm: NDArray[np.float64], series: SourceSeries) -> None:
    """Contour Data, as text at once: pydicom would check each of millions of numbers."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    # A thousandth of a voxel is exact enough, and a number has at most 16 characters.
    decimals = min(9, max(4, 3 - math.floor(math.log10(min(series.grid.spacing_mm)))))
    rounded = np.round(points_lps_mm, decimals) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = "\\".join(f"{value:.{decimals}f}"[:16] for value in rounded.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    contour[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)


def _observation(number: int, label: Label) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = label.value
    item.RTROIInterpretedType = ""
    item.ROIInterpreter = ""
    if label.snomed is not None:
        item.RTROIIdentificationCodeSequence = [code_item(label.snomed)]
    return item
