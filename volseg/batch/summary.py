"""All cases of a run: the report, the table of measurements, the page."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.batch.options import OutputFormat
from volseg.batch.page import overview_page
from volseg.batch.plan import Plan
from volseg.batch.record import CaseRecord, Stage, Status, read_record
from volseg.data.atomic import atomic_path

SCHEMA = "volseg.batch.run"
TABLE = "measurements.csv"
PAGE = "index.html"


@dataclass(frozen=True)
class Summary:
    """What became of the cases.

    Attributes:
        run_id: of the run.
        records: of the cases that ended, in this run or before, sorted by id.
        unfinished: ids of cases that were to be done and did not end.
        seconds: wall time of the run.
        restarts: how many times a case was lost with its worker.
        interrupted: whether the user stopped it.
        workers: how many there were.
    """

    run_id: str
    records: tuple[CaseRecord, ...]
    unfinished: tuple[str, ...]
    seconds: float
    restarts: int
    interrupted: bool
    workers: int

    @property
    def done(self) -> tuple[CaseRecord, ...]:
        """The cases that have results."""
        return tuple(record for record in self.records if record.status is Status.DONE)

    @property
    def failed(self) -> tuple[CaseRecord, ...]:
        """The cases that failed."""
        return tuple(record for record in self.records if record.status is Status.FAILED)

    @property
    def computed(self) -> tuple[CaseRecord, ...]:
        """The cases that ended in this run."""
        return tuple(record for record in self.records if record.run_id == self.run_id)

    @property
    def busy_part(self) -> float | None:
        """Part of the time, from the first to the last computation, that the workers computed; None if none did."""
        spans = [
            (record.started, record.started + record.seconds.get(str(Stage.COMPUTE), 0.0))
            for record in self.computed
            if record.started
        ]
        if not spans:
            return None
        wall = max(stop for _, stop in spans) - min(start for start, _ in spans)
        busy = sum(stop - start for start, stop in spans)
        return min(1.0, busy / (wall * self.workers)) if wall > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain data of ``--report``."""
        busy = self.busy_part
        return {
            "schema": SCHEMA,
            "version": 1,
            "run_id": self.run_id,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "workers": self.workers,
            "cases": len(self.records) + len(self.unfinished),
            "done": len(self.done),
            "failed": len(self.failed),
            "unfinished": list(self.unfinished),
            "computed_in_this_run": len(self.computed),
            "cases_per_minute": round(60 * len(self.computed) / self.seconds, 3) if self.seconds else None,
            "lost_with_a_worker": self.restarts,
            "compute_busy_part": None if busy is None else round(busy, 4),
            "errors": dict(Counter(str(record.error.kind) for record in self.failed if record.error is not None)),
            "results": [
                {
                    "id": record.case_id,
                    "status": str(record.status),
                    "in_this_run": record.run_id == self.run_id,
                    "attempts": record.attempts,
                    "seconds": record.seconds,
                    "peak_memory_bytes": record.peak_memory_bytes,
                    "outputs": [item.name for item in record.outputs],
                    "error": None
                    if record.error is None
                    else {
                        "kind": str(record.error.kind),
                        "message": record.error.message,
                        "stage": str(record.error.stage),
                    },
                }
                for record in self.records
            ],
        }


def write_summary(summary: Summary, plan: Plan) -> None:
    """Writes ``measurements.csv`` and ``index.html`` where the plan asks for them.

    They come from sidecars alone. Shards of one job share the output folder, so theirs count as well.

    Raises:
        WriteError: one cannot be written.
    """
    others = (read_record(plan.output, case_id) for case_id in plan.elsewhere)
    records = tuple(
        sorted([*summary.records, *(item for item in others if item is not None)], key=lambda item: item.case_id)
    )
    if OutputFormat.CSV in plan.options.formats:
        write_text(plan.output / TABLE, measurements_csv(records))
    if OutputFormat.HTML in plan.options.formats:
        write_text(plan.output / PAGE, overview_page(records, summary.unfinished))


def write_report(summary: Summary, path: Path) -> None:
    """Writes the run's report as JSON.

    Raises:
        WriteError: it cannot be written.
    """
    write_text(path, json.dumps(summary.to_json(), indent=1))


def measurements_csv(records: tuple[CaseRecord, ...]) -> str:
    """One row an object of each case that is done; columns in the order of the measurements."""
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    for record in records:
        for item in record.objects:
            columns |= dict.fromkeys(item)
            rows.append({"case": record.case_id, **item})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["case", *columns], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
