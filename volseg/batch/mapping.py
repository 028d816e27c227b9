"""Which result is of which file: for the user's eyes only, and only when asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from volseg.batch.case import Case, SeriesSource
from volseg.data.atomic import atomic_path


def write_mapping_file(cases: Sequence[Case], path: Path) -> None:
    """Writes a CSV file of case ids, paths and series UIDs that only its owner can read.

    Raises:
        WriteError: it cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "path", "series_uid"])
    for case in cases:
        if isinstance(case.source, SeriesSource):
            writer.writerow([case.case_id, case.source.folder, case.source.uid])
        else:
            writer.writerow([case.case_id, case.source.path, ""])
    with atomic_path(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(stream.getvalue(), encoding="utf-8", newline="")
