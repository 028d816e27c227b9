"""Measurements as a DICOM structured report (TID 1500), through highdicom."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from volseg.data.dicom.identity import derived_uid
from volseg.data.dicom.label_items import FALLBACK_CODE, code_from, code_of, get_label, short_text
from volseg.data.dicom.objects import MANUFACTURER, highdicom_errors, save, settle, software_version
from volseg.data.dicom.sources import SourceSeries, read_sources
from volseg.data.formats import FileFormat
from volseg.data.measurements import ObjectMeasurements
from volseg.data.volume_file import library_errors
from volseg.errors import ImageReadError, WriteError


def write_measurement_report(
    measurements: Sequence[ObjectMeasurements],
    path: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    segmentation: str | os.PathLike[str] | None = None,
) -> None:
    """Writes an Imaging Measurement Report (DICOM PS3.16 TID 1500), whole or not at all (P6).

    Each object is a group of measurements: volume, diameters, intensities (HU in CT, without unit in MR, left out
    elsewhere as there is no code for them) and the presence score as a probability. Patient and study are copied from
    the images; UIDs are derived from the images' and the content, and the clock is not read: the same input gives the
    same bytes. No observer person is named.

    Args:
        measurements: from ``measure``.
        path: the file; one already there is replaced.
        sources: the files of the image series (``source_files``).
        segmentation: the DICOM segmentation that holds the objects, to which the report then refers.

    Raises:
        ImageReadError: the images make no regular volume or lack identifiers, or ``segmentation`` is none.
        WriteError: there is no measurement, an object is not in ``segmentation``, that was made on other images, or
            the disk does not allow it.
        MissingExtraError: highdicom is not installed.
    """
    target = Path(path)
    if not measurements:
        raise WriteError(f"{target}: there are no measurements to report")
    series = read_sources(sources)
    segments = None if segmentation is None else _read_segmentation(Path(segmentation), series)
    with highdicom_errors(target), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd values in the sources' headers, which are copied as they are
        dataset = _report(target, measurements, series, segments)
        settle(dataset, series)
        save(dataset, target)


def _read_segmentation(path: Path, series: SourceSeries) -> Any:
    import pydicom

    with library_errors(path, FileFormat.DICOM_SEG):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if dataset.get("Modality", "") != "SEG" or "SegmentSequence" not in dataset:
            raise ImageReadError(f"{path}: not a DICOM segmentation; expected segments")
        if dataset.get("FrameOfReferenceUID", None) != series.frame_of_reference_uid:
            raise WriteError(f"{path}: lies in another frame of reference than the images it should be reported with")
    return dataset


def _report(path: Path, measurements: Sequence[ObjectMeasurements], series: SourceSeries, segments: Any) -> Any:
    from highdicom.sr import (
        ComprehensiveSR,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    numbers = repr([astuple(item) for item in measurements])
    seen = "" if segments is None else str(segments.SOPInstanceUID)
    digest = hashlib.sha256(numbers.encode()).hexdigest()
    identity = (series.series_uid, seen, digest)
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", software_version()),
        name="volseg",
        manufacturer_name=MANUFACTURER,
        model_name=f"volseg {software_version()}",
    )
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(path, item, series, segments, identity) for item in measurements],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return ComprehensiveSR(
        evidence=[*series.datasets, *([] if segments is None else [segments])],
        content=content,
        series_instance_uid=derived_uid("sr series", *identity),
        series_number=1,
        sop_instance_uid=derived_uid("sr instance", *identity),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="volseg measurements",
    )


def _group(path: Path, item: ObjectMeasurements, series: SourceSeries, segments: Any, identity: tuple[str, ...]) -> Any:
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        ReferencedSegment,
        SourceImageForMeasurementGroup,
        SourceSeriesForSegmentation,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    name = short_text(item.name, f"object {item.object_id}")
    if segments is None:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                uid=derived_uid("object", *identity, str(item.object_id)), identifier=name
            ),
            finding_type=code_of(FALLBACK_CODE),
            measurements=_numbers(item, series),
            source_images=[
                SourceImageForMeasurementGroup.from_source_image(
                    dataset, [slice_.frame + 1 for slice_ in series.slices] if series.is_multiframe else None
                )
                for dataset in series.datasets
            ],
        )
    segment = _segment(path, item, segments)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=segment.get("TrackingUID", None) or derived_uid("object", *identity, str(item.object_id)),
            identifier=str(segment.get("TrackingID", None) or name),
        ),
        referenced_segment=ReferencedSegment(
            sop_class_uid=segments.SOPClassUID,
            sop_instance_uid=segments.SOPInstanceUID,
            segment_number=int(segment.SegmentNumber),
            source_series=SourceSeriesForSegmentation(series.series_uid),
        ),
        finding_type=code_of(code_from(segment.SegmentedPropertyTypeCodeSequence[0]) or FALLBACK_CODE),
        measurements=_numbers(item, series),
    )


def _segment(path: Path, item: ObjectMeasurements, segments: Any) -> Any:
    for segment in segments.SegmentSequence:
        label = get_label(segment)
        if (int(segment.SegmentNumber) if label is None else label.value) == item.object_id:
            return segment
    raise WriteError(f"{path}: object {item.object_id} ({item.name}) is not in the segmentation it should refer to")


def _numbers(item: ObjectMeasurements, series: SourceSeries) -> list[Any]:
    """The measurements that there are, each with its code and unit."""
    from highdicom.sr import CodedConcept, Measurement
    from pydicom.sr.codedict import codes

    intensity, unit = {
        "CT": (codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit),
        "MR": (codes.DCM.MRSignalIntensity, codes.UCUM.NoUnits),
    }.get(series.slices[0].modality, (None, None))
    millilitre = CodedConcept("ml", "UCUM", "milliliter")
    longest_3d = CodedConcept("L0JK", "IBSI", "Maximum 3D diameter")
    rows: list[tuple[Any, float | None, Any, Any]] = [
        (codes.SCT.Volume, item.volume_ml, millilitre, None),
        (codes.SCT.LongAxis, item.longest_in_plane_mm, codes.UCUM.Millimeter, None),
        (longest_3d, item.longest_3d_mm, codes.UCUM.Millimeter, None),
        (intensity, item.mean, unit, codes.SCT.Mean),
        (intensity, item.std, unit, codes.SCT.StandardDeviation),
        (intensity, item.minimum, unit, codes.SCT.Minimum),
        (intensity, item.maximum, unit, codes.SCT.Maximum),
        (intensity, item.median, unit, codes.SCT.Median),
        (codes.DCM.Probability, item.presence, codes.UCUM.NoUnits, None),
    ]
    return [
        Measurement(name=name, value=round(value, 6), unit=unit, derivation=derivation)
        for name, value, unit, derivation in rows
        if value is not None and name is not None
    ]
