"""scores.csv: a row a case, object and step."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from volseg.errors import EvaluationError


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        case: the case's id.
        group: the case's group.
        modality: the case's modality, empty where not stated.
        object: number of the object in the case, from 1.
        name: what the object is called.
        step: of the protocol.
        prompt: kind of the last prompt, with + or -; empty where nothing was said.
        prompts: number of prompts so far.
        dice: of the object's voxels, 0 where the step failed.
        nsd: surface Dice at 2 mm.
        dice_in_extent: Dice if the answer is cut to the slices that the object spans: what an annotator who says
            where the object ends would get.
        slices_past_end: slices of the acquisition plane by which the answer runs past each end, mean of both; nan
            where it is empty.
        f1: of instances at IoU 0.5, where the protocol tells them apart; ``dice`` is then that of matched pairs.
        truth_ml: volume of the reference.
        answer_ml: volume of the answer.
        seconds: wall time of the step.
        peak_mib: peak resident memory of the process during the step.
        gpu_peak_mib: peak of the GPU memory during the step.
        error: why the step failed, else empty.
        data_sha256: hash of the case's files.
    """

    case: str
    group: str
    modality: str
    object: int
    name: str
    step: str
    prompt: str = ""
    prompts: int = 0
    dice: float = 0.0
    nsd: float = 0.0
    dice_in_extent: float = 0.0
    slices_past_end: float = math.nan
    f1: float = math.nan
    truth_ml: float = 0.0
    answer_ml: float = 0.0
    seconds: float = 0.0
    peak_mib: float = 0.0
    gpu_peak_mib: float = 0.0
    error: str = ""
    data_sha256: str = ""


DIGITS = 6
"""Decimals of numbers in the file."""


def write_rows(rows: list[Row], path: Path) -> None:
    """Writes the table, whole or not at all.

    Raises:
        WriteError: the disk does not allow it.
    """
    from volseg.data import atomic_path

    names = [field.name for field in fields(Row)]
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            values = [getattr(row, name) for name in names]
            writer.writerow([round(value, DIGITS) if isinstance(value, float) else value for value in values])


def read_rows(path: Path) -> list[Row]:
    """Reads what ``write_rows`` wrote.

    Raises:
        EvaluationError: it is no such table.
    """
    kinds: dict[str, type] = {
        field.name: {"int": int, "float": float}.get(str(field.type), str) for field in fields(Row)
    }
    try:
        with path.open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        return [Row(**{name: _value(kind, row[name]) for name, kind in kinds.items()}) for row in read]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise EvaluationError(f"{path} is no table of scores: {error!r}") from error


def _value(kind: type, text: str) -> Any:
    return kind(text)
