"""Lists of cases: CSV and JSON files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.batch.case import PromptSource
from volseg.batch.ids import given_case_id
from volseg.errors import PromptError
from volseg.geometry import Frame

COLUMNS = ("id", "image", "series_uid", "prompts", "object", "frame", "box", "point", "text")
"""What a row may hold; more columns are passed over."""

LIST_KEYS = ("cases", "testing", "test")
"""Where a JSON file may keep its list, in the order of preference; the latter two are MONAI's."""


@dataclass(frozen=True)
class ListedCase:
    """What a list says about one image.

    Attributes:
        image: the file or folder.
        case_id: as given, or empty.
        series_uid: which DICOM series of the folder, or empty.
        prompts: what is said, or None.
    """

    image: Path
    case_id: str = ""
    series_uid: str = ""
    prompts: PromptSource | None = None


def read_list(path: Path, frame: Frame, key: str | None = None) -> tuple[ListedCase, ...]:
    """Reads a CSV or JSON list; paths in it start from its folder.

    Rows that name the same image and id are one case with several objects, in the order of the rows. A row's prompts
    are a file (``prompts``), or boxes, points and texts, of which several are put between semicolons.

    Args:
        path: .csv with a header, or .json: a list, or an object that holds one.
        frame: of boxes and points in rows that name none.
        key: which list of a JSON object is meant; by default the first of ``LIST_KEYS``.

    Raises:
        PromptError: the list is malformed; the message names the row by its number.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path, key)
    listed: dict[tuple[str, str, str], list[tuple[int, Mapping[str, Any]]]] = {}
    for number, row in rows:
        image = _text(row, "image", number)
        if not image:
            raise PromptError(f"list, row {number}: names no image; expected a column or member 'image'")
        listed.setdefault((image, _text(row, "id", number), _text(row, "series_uid", number)), []).append((number, row))
    cases = []
    for (image, case_id, series_uid), group in listed.items():
        try:
            checked = given_case_id(case_id) if case_id else ""
        except PromptError as error:
            raise PromptError(f"list, row {group[0][0]}: {error}") from error
        cases.append(ListedCase(path.parent / image, checked, series_uid, _prompts(group, path.parent, frame)))
    return tuple(cases)


def _prompts(group: Sequence[tuple[int, Mapping[str, Any]]], folder: Path, frame: Frame) -> PromptSource | None:
    objects: list[dict[str, Any]] = []
    for number, row in group:
        given = row.get("prompts")
        if given:
            if len(group) > 1:
                raise PromptError(f"list, row {number}: an image with a prompt file has one row, this has {len(group)}")
            if isinstance(given, Mapping):
                return PromptSource(objects_json=json.dumps(given, sort_keys=True))
            if not isinstance(given, str):
                raise PromptError(f"list, row {number}: prompts are a path or an object of the prompt schema")
            return PromptSource(folder / given)
        said = _row_prompts(row, number, frame)
        if said:
            name = _text(row, "object", number)
            objects.append({"id": len(objects) + 1, "name": name, "prompts": said})
    return PromptSource.of_objects(objects) if objects else None


def _row_prompts(row: Mapping[str, Any], number: int, default: Frame) -> list[dict[str, Any]]:
    name = _text(row, "frame", number).lower() or str(default)
    if name not in tuple(Frame):
        raise PromptError(f"list, row {number}: the frame is one of {', '.join(Frame)}")
    said: list[dict[str, Any]] = []
    for values in _numbers(row, "box", 6, number):
        said.append({"type": "box", "low": values[:3], "high": values[3:], "frame": name})
    for values in _numbers(row, "point", 3, number):
        said.append({"type": "point", "position": values, "frame": name})
    said += [{"type": "text", "text": part.strip()} for part in _text(row, "text", number).split(";") if part.strip()]
    return said


def _numbers(row: Mapping[str, Any], column: str, count: int, number: int) -> list[list[float]]:
    given = row.get(column)
    if not given:
        return []
    if isinstance(given, str):
        groups: list[Any] = [part.replace(",", " ").split() for part in given.split(";") if part.strip()]
    else:
        groups = list(given) if isinstance(given[0], list) else [given]
    try:
        values = [[float(part) for part in group] for group in groups]
    except (TypeError, ValueError) as error:
        raise PromptError(f"list, row {number}: a {column} is {count} numbers") from error
    for group in values:
        if len(group) != count:
            raise PromptError(f"list, row {number}: a {column} is {count} numbers, got {len(group)}")
    return values


def _csv_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if "image" not in (reader.fieldnames or ()):
                raise PromptError(f"the list has no column 'image'; expected a CSV header with some of {COLUMNS}")
            return [(number, row) for number, row in enumerate(reader, start=1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"the list cannot be read as CSV: {getattr(error, 'strerror', None) or 'not text'}") from None


def _json_rows(path: Path, key: str | None) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromptError(f"the list is not JSON: {getattr(error, 'strerror', None) or 'not well-formed'}") from None
    if isinstance(data, Mapping):
        keys = LIST_KEYS if key is None else (key,)
        data = next((data[name] for name in keys if name in data), None)
        if data is None:
            raise PromptError(f"the JSON holds no list of cases; expected it under {' or '.join(keys)}")
    if not isinstance(data, list):
        raise PromptError("the list of cases is no list")
    rows = [{"image": item} if isinstance(item, str) else item for item in data]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise PromptError(f"list, row {number}: expected a path or an object with 'image'")
    return list(enumerate(rows, start=1))


def _text(row: Mapping[str, Any], column: str, number: int) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str | int):
        raise PromptError(f"list, row {number}: '{column}' is a text")
    return str(value).strip()
