"""Two runs on the same cases, paired."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.errors import EvaluationError
from volseg.evaluation.identity import IDENTITY_FILE
from volseg.evaluation.intervals import Interval, bootstrap
from volseg.evaluation.protocols import find_protocol
from volseg.evaluation.rows import Row, read_rows
from volseg.evaluation.run import SCORES_FILE
from volseg.evaluation.summary import case_areas, grouped, per_case

SCORES = {"dice": lambda row: row.dice, "nsd": lambda row: row.nsd}


@dataclass(frozen=True)
class Difference:
    """By how much the second run's cases differ from the first's.

    Attributes:
        group: of the cases.
        step: of the protocol, or the name of a curve for areas.
        score: ``dice``, ``nsd``, ``dsc_auc`` or ``nsd_auc``.
        first: mean of the first run over the shared cases.
        second: mean of the second run.
        difference: second minus first; its interval is that of paired differences.
    """

    group: str
    step: str
    score: str
    first: float
    second: float
    difference: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain data, rounded."""
        return {
            "group": self.group, "step": self.step, "score": self.score, "first": round(self.first, 5),
            "second": round(self.second, 5), "difference": self.difference.to_json(),
        }  # fmt: skip


def compare(first: Path, second: Path, seed: int = 0) -> tuple[Difference, ...]:
    """Differences of two runs, per group and step, over the cases and steps that both have.

    Args:
        first: folder of a run.
        second: folder of another one with the same protocol.
        seed: of the bootstrap.

    Raises:
        EvaluationError: a folder holds no run, the protocols differ, a case's data differ, or no case is shared.
    """
    runs = [_read(folder) for folder in (first, second)]
    protocols = [(identity["protocol"], identity["protocol_version"]) for identity, _ in runs]
    if protocols[0] != protocols[1]:
        raise EvaluationError(
            f"{first} was scored with {protocols[0]}, {second} with {protocols[1]}; expected the same"
        )
    hashes = [{row.case: row.data_sha256 for row in rows} for _, rows in runs]
    shared = [case for case in hashes[0] if case in hashes[1]]
    changed = [case for case in shared if hashes[0][case] != hashes[1][case]]
    if changed or not shared:
        raise EvaluationError(
            f"{first} and {second} share {len(shared)} cases, and the data of {changed} differ; expected the same data"
        )
    rows = [[row for row in found if row.case in hashes[1 - side]] for side, (_, found) in enumerate(runs)]
    groups = [grouped(found) for found in rows]
    protocol = find_protocol(protocols[0][0])
    found = []
    for group in groups[0]:
        ours, theirs = groups[0][group], groups[1].get(group, [])
        for step in dict.fromkeys(row.step for row in ours):
            for name, score in SCORES.items():
                pair = [per_case([row for row in side if row.step == step], score) for side in (ours, theirs)]
                found.append(_difference(group, step, name, pair[0], pair[1], seed))
        for curve in protocol.curves:
            for name, score in (("dsc_auc", SCORES["dice"]), ("nsd_auc", SCORES["nsd"])):
                pair = [case_areas(side, curve, score) for side in (ours, theirs)]
                found.append(_difference(group, curve.name, name, pair[0], pair[1], seed))
    return tuple(one for one in found if one is not None)


def _difference(
    group: str, step: str, score: str, first: dict[str, float], second: dict[str, float], seed: int
) -> Difference | None:
    shared = [case for case in first if case in second]
    interval = bootstrap([second[case] - first[case] for case in shared], seed)
    if interval is None:
        return None
    means = [sum(side[case] for case in shared) / len(shared) for side in (first, second)]
    return Difference(group, step, score, means[0], means[1], interval)


def _read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    try:
        identity = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
        identity["protocol"], identity["protocol_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{folder} holds no finished run of volseg evaluate: {error!r}") from error
    return identity, read_rows(folder / SCORES_FILE)
