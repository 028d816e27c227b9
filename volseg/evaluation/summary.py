"""Means by group and step, and areas under curves, from rows of scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from volseg.evaluation.intervals import bootstrap
from volseg.evaluation.protocols.base import Curve, Protocol
from volseg.evaluation.rows import Row
from volseg.evaluation.scores import area_under_curve

ALL = "all"
"""The group of all cases."""


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by group, after them those of all groups together where there are several."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    if len(groups) > 1:
        groups[ALL] = list(rows)
    return dict(groups)


def per_case(rows: Sequence[Row], score: Callable[[Row], float]) -> dict[str, float]:
    """The mean over a case's objects of a score, by case; nan values are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        value = score(row)
        if not np.isnan(value):
            values[row.case].append(value)
    return {case: float(np.mean(found)) for case, found in values.items()}


def case_areas(rows: Sequence[Row], curve: Curve, score: Callable[[Row], float]) -> dict[str, float]:
    """The area under a curve of a case's means, by case; cases without all of its steps are left out."""
    steps = [per_case([row for row in rows if row.step == step], score) for step in curve.auc_steps]
    cases = [case for case in steps[0] if all(case in step for step in steps)] if steps else []
    return {case: area_under_curve([step[case] for step in steps]) for case in cases}


def summarise(rows: Sequence[Row], protocol: Protocol, seed: int) -> dict[str, Any]:
    """Plain data for ``summary.json``, by group: first over a case's objects, then over cases."""
    return {group: _summarise_group(found, protocol, seed) for group, found in grouped(rows).items()}


def _summarise_group(rows: list[Row], protocol: Protocol, seed: int) -> dict[str, Any]:
    steps: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        steps[row.step].append(row)
    curves = {}
    for curve in protocol.curves:
        areas = {
            name: bootstrap(list(case_areas(rows, curve, score).values()), seed)
            for name, score in (("dsc_auc", _dice), ("nsd_auc", _nsd))
        }
        if all(area is not None for area in areas.values()):
            curves[curve.name] = {
                "steps": list(curve.steps),
                **{name: area.to_json() for name, area in areas.items() if area is not None},
            }
    return {
        "cases": len({row.case for row in rows}),
        "objects": len({(row.case, row.object) for row in rows}),
        "failed": sum(bool(row.error) for row in rows),
        "steps": {step: _summarise_step(found, seed) for step, found in steps.items()},
        "curves": curves,
    }


def _summarise_step(rows: list[Row], seed: int) -> dict[str, Any]:
    def mean(score: Callable[[Row], float]) -> dict[str, Any] | None:
        interval = bootstrap(list(per_case(rows, score).values()), seed)
        return None if interval is None else interval.to_json()

    return {
        "dice": mean(_dice),
        "nsd": mean(_nsd),
        "dice_in_extent": mean(lambda row: row.dice_in_extent),
        "slices_past_end": mean(lambda row: row.slices_past_end),
        "f1": mean(lambda row: row.f1),
        "seconds": mean(lambda row: row.seconds),
        "seconds_median": round(float(np.median([row.seconds for row in rows])), 4),
        "peak_mib": round(max(row.peak_mib for row in rows), 1),
        "gpu_peak_mib": round(max(row.gpu_peak_mib for row in rows), 1),
        "empty": sum(row.answer_ml == 0 for row in rows),
        "failed": sum(bool(row.error) for row in rows),
    }


def _dice(row: Row) -> float:
    return row.dice


def _nsd(row: Row) -> float:
    return row.nsd
