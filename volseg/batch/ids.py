"""Names of cases: stable, and free of patients' names.

Folders are often named after patients, so they never enter a name. DICOM series are named by a hash of their UID. Other
files keep their own names, by which their owner knows them, unless they lie in an archive of DICOM, where names are
patients' more often than not.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import PurePath

from volseg.batch.case import Case, FileSource, SeriesSource
from volseg.data.formats import file_suffix
from volseg.errors import PromptError

MAX_LENGTH = 96
"""Names of files have at most 255 bytes, and outputs add theirs."""

HASH_DIGITS = 12
"""48 bits: among a million cases two collide with a probability of 0.2 %, and then both get a longer name."""

_STEM_LENGTH = MAX_LENGTH - len("-") * 2 - 8 - HASH_DIGITS
"""What is left for a file's own name beside the hashes of its folder and of its place."""

_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class IdStyle(StrEnum):
    """How images in files are named."""

    AUTO = "auto"
    """By a hash in folders that hold DICOM, else by the file's own name."""
    NAMES = "names"
    """By the file's own name, without folders."""
    HASHED = "hashed"
    """By a hash, where file names hold patients' names."""


def short_hash(text: str, digits: int = HASH_DIGITS) -> str:
    """The first digits of the SHA-256 of ``text``."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def file_case_id(relative: PurePath, style: IdStyle) -> str:
    """The name of an image in a file.

    Args:
        relative: the file's path from the input the user gave; its folders enter as a hash only.
        style: whether the file's own name is used.
    """
    if style is IdStyle.HASHED:
        return f"case-{short_hash(relative.as_posix())}"
    suffix = file_suffix(relative)  # type: ignore[arg-type]
    stem = relative.name[: -len(suffix)] if suffix else relative.name
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:_STEM_LENGTH].lstrip("._-") or "image"
    return stem if len(relative.parts) == 1 else f"{stem}-{short_hash(relative.as_posix(), 8)}"


def series_case_id(uid: str) -> str:
    """The name of a DICOM series."""
    return f"dicom-{short_hash(uid)}"


def given_case_id(text: str) -> str:
    """Checks a name that the user gave in a list.

    Raises:
        PromptError: it cannot be part of a file's name everywhere.
    """
    if not _VALID.fullmatch(text) or len(text) > MAX_LENGTH:
        raise PromptError(
            f"a case's id has letters, digits, '.', '_' and '-', starts with a letter or digit and has at most "
            f"{MAX_LENGTH} characters; got one of {len(text)} characters that does not"
        )
    return text


def with_unique_ids(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The same cases, with a hash of where they lie added to names that occur more than once.

    An image that was given twice with the same prompts stays once. Upper and lower case are one name, as on some file
    systems.
    """
    once = list({(case.source, case.prompts): case for case in cases}.values())
    count = Counter(case.case_id.lower() for case in once)
    unique = [
        replace(case, case_id=f"{case.case_id}-{short_hash(_place(case))}") if count[case.case_id.lower()] > 1 else case
        for case in once
    ]
    return tuple(sorted(unique, key=lambda case: case.case_id))


def _place(case: Case) -> str:
    said = "" if case.prompts is None else f"{case.prompts.path}{case.prompts.objects_json}"
    match case.source:
        case FileSource(path):
            return f"{path.resolve()}\n{said}"
        case SeriesSource() as series:
            return f"{series.uid}\n{series.folder.resolve()}\n{said}"
