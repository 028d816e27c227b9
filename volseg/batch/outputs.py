"""Writing a case's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.batch.case import Case
from volseg.batch.options import FILE_SUFFIXES, CaseOptions, OutputFormat
from volseg.batch.record import OutputFile
from volseg.data import LabelMap, atomic_path, write_labelmap
from volseg.data.atomic import PARTIAL_PREFIX
from volseg.models.checkpoints.hashing import file_sha256
from volseg.prompts import PromptSet

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.data.measurements import ObjectMeasurements


def output_path(output: Path, case_id: str, format: OutputFormat) -> Path:
    """Where a case's file of that format lies."""
    return output / f"{case_id}{FILE_SUFFIXES[format]}"


def measure_objects(labelmap: LabelMap, image: MetaTensor) -> tuple[ObjectMeasurements, ...]:
    """Measures every object of a label map."""
    from volseg.data.measurements import measure

    return tuple(measure(labelmap, image))


def measurement_rows(measurements: Sequence[ObjectMeasurements]) -> tuple[dict[str, Any], ...]:
    """The measurements as plain data, one row an object."""
    return tuple(asdict(item) for item in measurements)


def write_outputs(
    case: Case,
    image: MetaTensor,
    labelmap: LabelMap,
    prompts: PromptSet | None,
    measurements: Sequence[ObjectMeasurements],
    options: CaseOptions,
    output: Path,
) -> tuple[OutputFile, ...]:
    """Writes the files of one case, each whole or not at all.

    Returns:
        What was written, with hashes; files of earlier runs that are not among them are removed.

    Raises:
        WriteError: one cannot be written.
    """
    sources = case.sources
    written = []
    # The report refers to the segmentation, so that is written before it.
    for format in sorted(options.formats_for(dicom=case.is_dicom), key=list(OutputFormat).index):
        if format not in FILE_SUFFIXES:
            continue
        path = output_path(output, case.case_id, format)
        match format:
            case OutputFormat.NIFTI | OutputFormat.SEG_NRRD:
                write_labelmap(labelmap if format is OutputFormat.SEG_NRRD else labelmap.flattened(), path)
            case OutputFormat.OVERLAY:
                from volseg.overlay import draw_overlay

                encode = options.encode
                picture = draw_overlay(image, labelmap, prompts, window=encode.window, modality=encode.modality)
                with atomic_path(path) as partial:
                    partial.write_bytes(picture)
            case OutputFormat.DICOM_SEG:
                from volseg.data.dicom import write_dicom_seg

                write_dicom_seg(labelmap, path, sources, kind=options.segment_kind)
            case OutputFormat.RTSTRUCT:
                from volseg.data.dicom import write_rtstruct

                write_rtstruct(labelmap, path, sources)
            case OutputFormat.SR:
                from volseg.data.dicom import write_measurement_report

                segmentation = output_path(output, case.case_id, OutputFormat.DICOM_SEG)
                there = segmentation if OutputFormat.DICOM_SEG in options.formats else None
                write_measurement_report(measurements, path, sources, there)
        written.append(OutputFile(str(format), path.name, file_sha256(path), path.stat().st_size))
    remove_outputs(output, case.case_id, keep={item.name for item in written})
    return tuple(written)


def remove_outputs(output: Path, case_id: str, keep: set[str] | None = None) -> None:
    """Removes files of earlier runs, which would be taken for results of this one."""
    for format in FILE_SUFFIXES:
        path = output_path(output, case_id, format)
        if path.name not in (keep or ()):
            path.unlink(missing_ok=True)


def sweep_partial(output: Path, folder: Path, case_ids: set[str]) -> int:
    """Removes unfinished files that a killed run left of these cases; others may be in use by other shards.

    Returns:
        How many there were.
    """
    endings = (*FILE_SUFFIXES.values(), ".json")
    removed = 0
    for place in (output, folder):
        for path in place.glob(f"{PARTIAL_PREFIX}*"):
            name = path.name[len(PARTIAL_PREFIX) :].partition("-")[2]
            if any(name.endswith(ending) and name[: -len(ending)] in case_ids for ending in endings):
                path.unlink(missing_ok=True)
                removed += 1
    return removed
