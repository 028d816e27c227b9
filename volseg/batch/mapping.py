"""Which case is which file: for the user's eyes only, and only when asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from volseg.batch.case import Case, SeriesSource
from volseg.batch.lists import COLUMNS
from volseg.data.atomic import atomic_path


def write_mapping_file(cases: Sequence[Case], path: Path) -> None:
    """Writes a list of the cases that only its owner can read.

    It has the columns of a list of cases, so that boxes, points and words can be filled in and the file given back.

    Raises:
        WriteError: it cannot be written.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*COLUMNS, "modality", "slices"), restval="", lineterminator="\n")
    writer.writeheader()
    for case in cases:
        row: dict[str, object] = {"id": case.case_id}
        if isinstance(case.source, SeriesSource):
            series = case.source
            row |= {"image": series.folder.absolute(), "series_uid": series.uid}
            row |= {"modality": series.modality, "slices": series.shape[2]}
        else:
            row["image"] = case.source.path.absolute()
        if case.prompts is not None and case.prompts.path is not None:
            row["prompts"] = case.prompts.path.absolute()
        writer.writerow(row)
    with atomic_path(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(stream.getvalue(), encoding="utf-8", newline="")
