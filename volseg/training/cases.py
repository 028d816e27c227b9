"""Which cases there are, and on which side of the split."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.training.config import SourceConfig, TrainConfig

logger = logging.getLogger(__name__)

MIN_PATIENTS = 5
"""With fewer patients none is held out unless the table says so."""
PLACEHOLDER = "{case}"
ARCHIVE_SEPARATOR = "::"


@dataclass(frozen=True)
class TrainingCase:
    """An image and its label map.

    Attributes:
        name: unique in a run, such as ``sts_ct/STS_001``.
        patient: cases of one patient share it, and their side of the split.
        source: how the case is read.
        image: path, with ``::array`` for an archive.
        label: path likewise.
    """

    name: str
    patient: str
    source: SourceConfig
    image: str
    label: str


def find_cases(folder: Path, source: SourceConfig) -> tuple[TrainingCase, ...]:
    """The cases of a source that have an image and a label map, by name.

    Raises:
        TrainingError: there are none.
    """
    found = []
    image_path, image_array = _split(source.image)
    for match in sorted(folder.glob(image_path.replace(PLACEHOLDER, "*"))):
        relative = match.relative_to(folder).as_posix()
        name = _placeholder(image_path, relative)
        label = source.label.replace(PLACEHOLDER, name)
        if (folder / _split(label)[0]).is_file():
            patient = name or Path(relative).name.split(".")[0]
            case_name = f"{source.group}/{patient}"
            found.append(TrainingCase(case_name, patient, source, str(match) + image_array, str(folder / label)))
    if not found:
        raise TrainingError(f"no case of group {source.group} is in {folder}: {source.image} with {source.label}")
    return tuple(found)


def listed_cases(
    table: Path, *, hold_out: float = 0.0, seed: int = 0
) -> tuple[tuple[TrainingCase, ...], tuple[TrainingCase, ...]]:
    """Training and validation cases of a CSV file.

    Columns: ``id``, ``image``, ``label`` (paths, relative ones from the file's folder), ``modality`` (CT, MR or OTHER)
    and, where wanted, ``group``, ``patient`` and ``split`` (``train`` or ``validation``).

    Args:
        table: the file.
        hold_out: part of the patients to validate on where no row has a split and there are `MIN_PATIENTS` or more.
        seed: chooses them.

    Raises:
        TrainingError: columns or files are missing, a value cannot be, ids repeat, a patient is on both sides, or there
            is nothing to train on. The case is named.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{table} is not a readable CSV file: {error}") from error
    sides: dict[str, list[TrainingCase]] = {"train": [], "validation": []}
    for row in rows:
        missing = [name for name in ("id", "image", "label", "modality") if not row.get(name)]
        if missing:
            raise TrainingError(f"{table}: case {row.get('id')!r} has no {', '.join(missing)}")
        name, split = row["id"], row.get("split") or "train"
        if split not in sides or row["modality"] not in list(Modality):
            raise TrainingError(
                f"{table}: case {name} has split {split!r} and modality {row['modality']!r}; expected train or "
                f"validation, and one of {', '.join(Modality)}"
            )
        group = row.get("group") or row["modality"]
        source = SourceConfig(group, Modality(row["modality"]), row["image"], row["label"])
        paths = [table.parent / split_archive(row[column])[0] for column in ("image", "label")]
        absent = [str(path) for path in paths if not path.exists()]
        if absent:
            raise TrainingError(f"{table}: case {name}: there is no {', '.join(absent)}")
        files = [str(table.parent / row[column]) for column in ("image", "label")]
        sides[split].append(TrainingCase(f"{group}/{name}", row.get("patient") or name, source, files[0], files[1]))
    every = sides["train"] + sides["validation"]
    names = [case.name for case in every]
    both = {case.patient for case in sides["train"]} & {case.patient for case in sides["validation"]}
    if len(set(names)) < len(names) or both:
        raise TrainingError(f"{table}: ids repeat, or the patients {sorted(both)} are on both sides of the split")
    if not sides["train"]:
        raise TrainingError(f"{table} lists {len(every)} cases and none to train on")
    if not any(row.get("split") for row in rows):
        return _held_out(sides["train"], hold_out, seed)
    if not sides["validation"]:
        logger.warning("no case of %s is for validation, so nothing will tell how good the result is", table)
    return tuple(sides["train"]), tuple(sides["validation"])


def _held_out(
    cases: Sequence[TrainingCase], part: float, seed: int
) -> tuple[tuple[TrainingCase, ...], tuple[TrainingCase, ...]]:
    """Splits off a part of the patients by chance."""
    patients = sorted({case.patient for case in cases})
    count = max(1, round(part * len(patients))) if part > 0 and len(patients) >= MIN_PATIENTS else 0
    if count == 0:
        logger.warning(
            "no case is held out for validation (%d patients), so nothing will tell how good the result is; "
            "give the table a column split with train and validation",
            len(patients),
        )
        return tuple(cases), ()
    chosen = {patients[int(place)] for place in np.random.default_rng([seed, 11]).permutation(len(patients))[:count]}
    logger.warning("held out for validation, as the table has no column split: %s", ", ".join(sorted(chosen)))
    return tuple(c for c in cases if c.patient not in chosen), tuple(c for c in cases if c.patient in chosen)


def split_cases(folder: Path, config: TrainConfig) -> tuple[tuple[TrainingCase, ...], tuple[TrainingCase, ...]]:
    """Training and validation cases; all cases of one patient are on one side.

    Args:
        folder: below which the sources of ``config`` lie; or a CSV file, see `listed_cases`, which then replaces the
            sources and the split.
        config: names sources and validation patients.

    Raises:
        TrainingError: a source or a validation patient is not there, or nothing is left to train on.
    """
    if folder.is_file():
        return listed_cases(folder, hold_out=config.hold_out, seed=config.seed)
    if not config.sources:
        raise TrainingError(
            f"{folder} is a folder, and the configuration names no sources in it; give a CSV file of cases"
        )
    cases = [case for source in config.sources for case in find_cases(folder, source)]
    missing = set(config.validation) - {case.patient for case in cases}
    if missing:
        raise TrainingError(f"the validation patients {sorted(missing)} are in no source; check their names")
    training = tuple(c for c in cases if c.source.train and c.patient not in config.validation)
    scored = tuple(c for c in cases if c.source.expert and (not c.source.train or c.patient in config.validation))
    if not training:
        raise TrainingError(f"every one of the {len(cases)} cases is held out; nothing is left to train on")
    return training, scored


def split_archive(path: str) -> tuple[Path, str | None]:
    """The file, and the name of the array in it if it is an archive."""
    file, separator, array = path.partition(ARCHIVE_SEPARATOR)
    return Path(file), array if separator else None


def _split(path: str) -> tuple[str, str]:
    file, separator, array = path.partition(ARCHIVE_SEPARATOR)
    return file, separator + array


def _placeholder(pattern: str, path: str) -> str:
    if PLACEHOLDER not in pattern:
        return ""
    first, *others = (re.escape(part) for part in pattern.split(PLACEHOLDER))
    found = re.fullmatch(rf"{first}([^/]*)" + r"\1".join(others), path)
    return found.group(1) if found else ""
