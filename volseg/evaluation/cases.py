"""Which cases there are: a table, a folder, or the challenge's archives."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.data.modality import Modality
from volseg.errors import EvaluationError

COLUMNS = ("id", "image", "label", "modality", "group")
"""Of a table of cases. ``objects`` may follow; modality, group and objects may be empty."""

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
ARCHIVE_SUFFIX = ".npz"
FOLDER_LAYOUTS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"), ("images", "labels"))
IGNORED_NAMES = frozenset({"background", "ignore"})
"""Entries of nnU-Net's label table that are no objects."""


@dataclass(frozen=True)
class ObjectSpec:
    """One object to score.

    Attributes:
        name: what it is called; also the phrase that asks for it where a protocol uses words.
        label_ids: values of the label map that belong to it; shared ones make objects that overlap.
    """

    name: str
    label_ids: tuple[int, ...]


@dataclass(frozen=True)
class EvaluationCase:
    """An image and its reference labels on disk.

    Attributes:
        case_id: unique in a run.
        image: file, DICOM folder or NPZ archive.
        label: file or NPZ archive, on the image's grid.
        modality: None leaves it to the image.
        group: cases are averaged by it.
        objects: what to score; empty makes every label id other than 0 an object.
        channel: which channel of an image that holds several.
    """

    case_id: str
    image: Path
    label: Path
    modality: Modality | None = None
    group: str = "all"
    objects: tuple[ObjectSpec, ...] = ()
    channel: int | None = None


def find_cases(source: Path) -> tuple[EvaluationCase, ...]:
    """The cases of a table, a folder or an archive, in their order there.

    Args:
        source: a CSV file with the columns ``id,image,label,modality,group`` and, where wanted, ``objects`` (such as
            ``liver:1;kidneys:2+3``), paths relative to the file; a folder with ``images`` and ``labels`` (the same
            file names), ``imagesTr`` and ``labelsTr`` of the Medical Segmentation Decathlon or of nnU-Net, or the
            challenge's ``.npz`` files; or one such file.

    Raises:
        EvaluationError: it is none of these, a file is missing, a value cannot be, ids repeat, or there is no case.
    """
    if source.is_dir():
        cases = _in_folder(source)
    elif source.suffix.lower() == ARCHIVE_SUFFIX and source.is_file():
        cases = [_archive(source)]
    elif source.is_file():
        cases = _in_table(source)
    else:
        raise EvaluationError(f"{source}: there is no such file or folder of cases")
    if not cases:
        raise EvaluationError(
            f"{source} holds no cases; expected a CSV file with {','.join(COLUMNS)}, or a folder with images and "
            "labels, imagesTr and labelsTr, or .npz files"
        )
    names = [case.case_id for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise EvaluationError(f"{source}: the case ids {', '.join(repeated)} occur more than once")
    return tuple(cases)


def limited(cases: tuple[EvaluationCase, ...], limit: int | None) -> tuple[EvaluationCase, ...]:
    """The first ``limit`` cases, taken in turn from every group, in their old order; all where it is None."""
    if limit is None or limit >= len(cases):
        return cases
    turns: dict[str, int] = {}
    ranked = []
    for place, case in enumerate(cases):
        turns[case.group] = turns.get(case.group, 0) + 1
        ranked.append((turns[case.group], place))
    return tuple(cases[place] for place in sorted(place for _, place in sorted(ranked)[:limit]))


def of_groups(cases: tuple[EvaluationCase, ...], groups: tuple[str, ...] | None) -> tuple[EvaluationCase, ...]:
    """The cases of some groups; all where none are named.

    Raises:
        EvaluationError: a group has no case.
    """
    if groups is None:
        return cases
    known = sorted({case.group for case in cases})
    missing = [one for one in groups if one not in known]
    if missing:
        raise EvaluationError(f"no case is of the group {', '.join(missing)}; there is {', '.join(known)}")
    return tuple(case for case in cases if case.group in groups)


def write_cases(cases: tuple[EvaluationCase, ...], table: Path) -> None:
    """Writes a table that ``find_cases`` reads; paths are absolute."""
    from volseg.data import atomic_path

    with atomic_path(table) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, "objects"))
        for case in cases:
            objects = ";".join(f"{item.name}:{'+'.join(map(str, item.label_ids))}" for item in case.objects)
            paths = case.image.resolve(), case.label.resolve()
            writer.writerow((case.case_id, *paths, case.modality or "", case.group, objects))


def parse_objects(text: str, where: str) -> tuple[ObjectSpec, ...]:
    """Reads ``name:1;other:2+3``.

    Raises:
        EvaluationError: it is not of that form; ``where`` is named.
    """
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        name, separator, ids = part.rpartition(":")
        numbers = [number.strip() for number in ids.split("+")]
        if not separator or not name.strip() or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise EvaluationError(f"{where}: objects are written name:1;other:2+3 with label ids from 1, got {part!r}")
        found.append(ObjectSpec(name.strip(), tuple(int(number) for number in numbers)))
    return tuple(found)


def _in_table(table: Path) -> list[EvaluationCase]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = [name.strip() for name in reader.fieldnames or ()], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{table} is not a readable CSV file: {error}") from error
    missing = [name for name in ("id", "image", "label") if name not in columns]
    if missing:
        raise EvaluationError(
            f"{table} has no column {', '.join(missing)}; expected {','.join(COLUMNS)}, got {','.join(columns)}"
        )
    return [_of_row(table, row) for row in rows if any((value or "") for value in row.values() if value is not None)]


def _of_row(table: Path, row: dict[str, Any]) -> EvaluationCase:
    values = {str(name).strip(): value.strip() for name, value in row.items() if isinstance(value, str)}
    case_id = values.get("id", "")
    where = f"{table}: case {case_id!r}"
    empty = [name for name in ("id", "image", "label") if not values.get(name)]
    if empty:
        raise EvaluationError(f"{where} has no {', '.join(empty)}")
    image, label = table.parent / values["image"], table.parent / values["label"]
    absent = [str(path) for path in (image, label) if not path.exists()]
    if absent:
        raise EvaluationError(f"{where}: there is no {' and no '.join(absent)}")
    modality = as_modality(values.get("modality", ""), where)
    group = values.get("group") or (str(modality) if modality else "all")
    return EvaluationCase(case_id, image, label, modality, group, parse_objects(values.get("objects", ""), where))


def as_modality(text: str, where: str) -> Modality | None:
    """Reads a modality's name, None for an empty one.

    Raises:
        EvaluationError: it is not CT, MR or OTHER; ``where`` is named.
    """
    name = {"MRI": "MR"}.get(text.upper(), text.upper())
    if not name:
        return None
    if name not in list(Modality):
        raise EvaluationError(f"{where} has the modality {text!r}; expected one of {', '.join(Modality)} or nothing")
    return Modality(name)


def _in_folder(folder: Path) -> list[EvaluationCase]:
    for images, labels in FOLDER_LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return _pairs(folder, folder / images, folder / labels)
    return [_archive(path) for path in sorted(folder.glob(f"*{ARCHIVE_SUFFIX}"))]


def _pairs(folder: Path, images: Path, labels: Path) -> list[EvaluationCase]:
    by_stem: dict[str, list[Path]] = {}
    for path in _volumes(images):
        by_stem.setdefault(stem(path), []).append(path)
    modality, objects = _dataset_description(folder / "dataset.json")
    cases = []
    for label in _volumes(labels):
        name = stem(label)
        # nnU-Net stores a file a channel; the first is the one that is segmented.
        found = by_stem.get(name) or by_stem.get(f"{name}_0000")
        if not found:
            raise EvaluationError(f"{label}: case {name!r} has no image in {images}; expected {name} or {name}_0000")
        # Decathlon images may hold several channels in one file; the first counts.
        cases.append(EvaluationCase(name, found[0], label, modality, folder.resolve().name, objects, channel=0))
    return cases


def _volumes(folder: Path) -> list[Path]:
    # Names that begin with a dot are leavings of other systems, such as macOS's "._" files in the Decathlon.
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower().endswith(IMAGE_SUFFIXES))


def stem(path: Path) -> str:
    """The file's name without the ending of its format."""
    ending = next(suffix for suffix in IMAGE_SUFFIXES if path.name.lower().endswith(suffix))
    return path.name[: -len(ending)]


def _dataset_description(path: Path) -> tuple[Modality | None, tuple[ObjectSpec, ...]]:
    """Modality and objects as ``dataset.json`` of the Decathlon or of nnU-Net has them."""
    if not path.is_file():
        return None, ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        channels = data.get("modality") or data.get("channel_names") or {}
        named = str(channels.get("0", "") if isinstance(channels, dict) else "").upper()
        entries = list(dict(data.get("labels") or {}).items())
        pairs = [(str(b), a) if str(a).isdecimal() else (str(a), b) for a, b in entries]
        objects = tuple(
            ObjectSpec(name, tuple(int(one) for one in (ids if isinstance(ids, list) else [ids])))
            for name, ids in pairs
            if name.lower() not in IGNORED_NAMES
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{path} is no description of a dataset: {error}") from error
    objects = tuple(item for item in objects if item.label_ids and min(item.label_ids) > 0)
    mr = named in {"MR", "MRI"} or named.startswith(("T1", "T2", "FLAIR", "ADC"))
    return (Modality.CT if named.startswith("CT") else Modality.MR if mr else None), objects


def _archive(path: Path) -> EvaluationCase:
    """A case of the challenge; its file name begins with the modality."""
    prefix = path.name.split("_")[0].upper()
    modality = {"CT": Modality.CT, "MR": Modality.MR, "MRI": Modality.MR}.get(prefix, Modality.OTHER)
    return EvaluationCase(
        path.name[: -len(ARCHIVE_SUFFIX)], path, path, modality, prefix if "_" in path.name else "all"
    )
