"""Label maps as DICOM segmentations, through highdicom."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.data.dicom.identity import content_hash, derived_uid
from volseg.data.dicom.kinds import SegmentationKind
from volseg.data.dicom.label_items import (
    FALLBACK_CODE,
    STRUCTURE_CODE,
    code_of,
    described,
    put_label,
    put_origin,
    short_text,
    title,
)
from volseg.data.dicom.objects import MANUFACTURER, highdicom_errors, save, settle, software_version
from volseg.data.dicom.sources import SourceSeries, read_sources
from volseg.data.labelmap import Label, LabelMap
from volseg.data.lattice import on_lattice
from volseg.errors import WriteError

MAX_SEGMENTS = 65535
"""Segment numbers are 16 bit."""

FRACTION_STEPS = 255
"""Probabilities are stored in this many steps."""


def write_dicom_seg(
    labels: LabelMap,
    path: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    *,
    kind: SegmentationKind = SegmentationKind.BINARY,
    probabilities: Mapping[int, NDArray[np.floating[Any]]] | None = None,
) -> None:
    """Writes a DICOM segmentation that refers to the images it was made on, whole or not at all (P6).

    Patient and study are copied from the images. UIDs are derived from the images' and the content, and the clock is
    not read: the same input gives the same bytes. Only frames that hold something are written.

    Args:
        labels: what to write; on the images' voxels, in any order and direction of axes.
        path: the file; one already there is replaced.
        sources: the files of the image series (``source_files``).
        kind: how voxels are stored.
        probabilities: for ``FRACTIONAL``, for each label value the probabilities in [0, 1], [I, J, K] on the label
            map's grid.

    Raises:
        GeometryError: the label map lies on other voxels than the images.
        ImageReadError: the images make no regular volume, or lack identifiers.
        WriteError: objects overlap and ``kind`` is ``LABELMAP``, probabilities are missing or not in [0, 1], there is
            no object or too many, or the disk does not allow it.
        MissingExtraError: highdicom is not installed.
    """
    target = Path(path)
    labels = described(labels)
    series = read_sources(sources)
    fractions = _fractions(target, labels, kind, probabilities)
    largest = max(label.value for label in labels.labels)
    if len(labels.labels) > MAX_SEGMENTS or (kind is SegmentationKind.LABELMAP and largest > MAX_SEGMENTS):
        raise WriteError(f"{target}: {len(labels.labels)} objects with values up to {largest}; DICOM counts to 65535")
    moved = on_lattice(labels, series.grid)
    if kind is SegmentationKind.LABELMAP:
        pixels = _one_layer(target, moved)
    elif fractions is not None:
        pixels = np.stack([_on_grid(labels, fraction, series) for fraction in fractions], axis=-1)
    else:
        pixels = _numbered(moved)
    digest = content_hash(moved)
    if fractions is not None:
        digest = hashlib.sha256(digest.encode() + pixels.tobytes()).hexdigest()
    with highdicom_errors(target), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd values in the sources' headers, which are copied as they are
        dataset = _segmentation(moved, series, pixels, kind, digest)
        for item, label in zip(dataset.SegmentSequence[-len(moved.labels) :], moved.labels, strict=True):
            put_label(item, label)
        put_origin(dataset, moved)
        settle(dataset, series)
        save(dataset, target)


def _segmentation(
    labels: LabelMap, series: SourceSeries, pixels: NDArray[Any], kind: SegmentationKind, digest: str
) -> Any:
    from highdicom import PlanePositionSequence
    from highdicom.seg import Segmentation

    identity = (series.series_uid, str(kind), digest)
    places: dict[str, Any] = {}
    if series.is_multiframe or not pixels.any():
        # highdicom writes all frames of an empty segmentation; the first one is enough.
        count = len(series.slices) if pixels.any() else 1
        places["plane_positions"] = [
            PlanePositionSequence("PATIENT", item.position_lps_mm) for item in series.slices[:count]
        ]
        pixels = pixels[:count]
    dataset = Segmentation(
        source_images=list(series.datasets),
        pixel_array=pixels,
        segmentation_type=kind.name,
        segment_descriptions=[
            _description(label, number, labels, identity) for number, label in _segment_numbers(labels, kind)
        ],
        series_instance_uid=derived_uid("seg series", *identity),
        series_number=_series_number(series),
        sop_instance_uid=derived_uid("seg instance", *identity),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=short_text(labels.provenance.model, MANUFACTURER),
        software_versions=short_text(labels.provenance.software, f"volseg {software_version()}"),
        device_serial_number="not applicable",
        max_fractional_value=FRACTION_STEPS,
        content_description="volseg segmentation",
        content_label="SEGMENTATION",
        series_description="volseg segmentation",
        **places,
    )
    dimensions = derived_uid("seg dimensions", *identity)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    return dataset


def _description(label: Label, number: int, labels: LabelMap, identity: tuple[str, ...]) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    model, _, version = labels.provenance.model.rpartition(" ")
    return SegmentDescription(
        segment_number=number,
        segment_label=title(label),
        segmented_property_category=code_of(FALLBACK_CODE if label.snomed is None else STRUCTURE_CODE),
        segmented_property_type=code_of(label.snomed or FALLBACK_CODE),
        # A person says what is meant and a model where it is.
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=short_text(model or version, "not stated"),
            family=codes.DCM.ArtificialIntelligence,
            version=short_text(version if model else "", "not stated"),
        ),
        tracking_uid=derived_uid("object", *identity, str(label.value)),
        tracking_id=f"{title(label)} ({label.value})",
        display_color=CIELabColor.from_rgb(*label.color_rgb),
    )


def _segment_numbers(labels: LabelMap, kind: SegmentationKind) -> list[tuple[int, Label]]:
    """Segments count from 1 without gaps, except in LABELMAP, where the number is the voxels' value."""
    if kind is SegmentationKind.LABELMAP:
        return [(label.value, label) for label in labels.labels]
    return list(enumerate(labels.labels, start=1))


def _numbered(labels: LabelMap) -> NDArray[Any]:
    """Frames [K, J, I] of segment numbers; where objects overlap, [K, J, I, S] of 0 and 1."""
    if len(labels.layers) > 1:
        stack = np.zeros((*labels.grid.shape[::-1], len(labels.labels)), dtype=np.uint8)
        for index, label in enumerate(labels.labels):
            np.equal(labels.layers[label.layer].T, label.value, out=stack[..., index], casting="unsafe")
        return stack
    values = np.array([label.value for label in labels.labels])
    voxels = labels.layers[0].T
    numbers = np.searchsorted(values, voxels).astype(np.uint16 if len(values) > 254 else np.uint8)
    np.add(numbers, 1, out=numbers)
    numbers[voxels == 0] = 0
    return np.ascontiguousarray(numbers)


def _one_layer(path: Path, labels: LabelMap) -> NDArray[Any]:
    if sum((layer != 0).astype(np.uint8) for layer in labels.layers).max() > 1:
        raise WriteError(f"{path}: the objects overlap and a LABELMAP segmentation holds one a voxel; use BINARY")
    flat = labels.flattened().layers[0]
    largest = max(label.value for label in labels.labels)
    return np.ascontiguousarray(flat.T.astype(np.uint8 if largest < 256 else np.uint16))


def _fractions(
    path: Path,
    labels: LabelMap,
    kind: SegmentationKind,
    probabilities: Mapping[int, NDArray[np.floating[Any]]] | None,
) -> list[NDArray[np.float32]] | None:
    """The probabilities in the order of the labels, in the steps they are stored in."""
    if (kind is SegmentationKind.FRACTIONAL) is (probabilities is None):
        raise WriteError(f"{path}: probabilities belong to a FRACTIONAL segmentation, and only to it")
    if probabilities is None:
        return None
    result = []
    for label in labels.labels:
        values = probabilities.get(label.value)
        if values is None or values.shape != labels.grid.shape:
            raise WriteError(f"{path}: {label.name} ({label.value}) has no probabilities of shape {labels.grid.shape}")
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise WriteError(f"{path}: {label.name} ({label.value}) has probabilities outside of 0 to 1")
        result.append(np.asarray(values, dtype=np.float32))
    return result


def _on_grid(labels: LabelMap, fraction: NDArray[np.float32], series: SourceSeries) -> NDArray[np.float32]:
    """Probabilities as frames [K, J, I] of the series, through whole numbers, as label maps hold those only."""
    steps = np.round(fraction * FRACTION_STEPS).astype(np.uint8)
    moved = on_lattice(replace(labels, layers=(steps,), labels=()), series.grid).layers[0]
    return np.ascontiguousarray(moved.T, dtype=np.float32) / np.float32(FRACTION_STEPS)


def _series_number(series: SourceSeries) -> int:
    """A hundred after the images' own, so that viewers list it near them."""
    try:
        return max(1, int(series.datasets[0].get("SeriesNumber", None) or 0)) + 100
    except (TypeError, ValueError):
        return 100
