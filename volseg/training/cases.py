"""Which cases there are, and on which side of the split."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from volseg.data.modality import Modality
from volseg.errors import TrainingError
from volseg.training.config import SourceConfig, TrainConfig

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


def listed_cases(table: Path) -> tuple[tuple[TrainingCase, ...], tuple[TrainingCase, ...]]:
    """Training and validation cases of a CSV file.

    Columns: ``id``, ``image``, ``label`` (paths, relative ones from the file's folder), ``modality`` (CT, MR or OTHER)
    and, where wanted, ``group``, ``patient`` and ``split`` (``train`` or ``validation``).

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
    return tuple(sides["train"]), tuple(sides["validation"])


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
        return listed_cases(folder)
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
