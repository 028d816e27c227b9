"""Keeping patients' names and numbers out of messages.

Folders and files are named after patients more often than not, and parsing libraries quote header values in their
errors. So what another module says about a case is cleaned before it goes anywhere: paths become the case's id, and
what the headers say about the patient is struck out.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from volseg.batch.case import Case, FileSource, SeriesSource

WITHHELD = "(withheld)"
MIN_LENGTH = 3
"""Shorter words are struck out only where they stand alone."""

MAX_NAMES = 20_000
"""Names in one folder that are looked for; more would take long for one message."""

_PATIENT_TAGS = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "OtherPatientNames",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientMotherBirthName",
    "PatientComments",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "InstitutionName",
    "SeriesDescription",
    "StudyDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
]
_PLAIN_WORDS = """
ct mr mri pet dicom dcm nifti nrrd image images img imgs data scan scans series study studies slice slices volume
volumes file files folder input inputs label labels mask masks test tests train home tmp mnt media work user users usr
var opt src root shared archive batch box cases model object objects out output point prompt prompts results text
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())
"""Words of folders that name nobody, and without which messages could not be read."""


def private_message(text: str, case: Case) -> str:
    """``text`` in one line without paths, names of files and folders, and patient data of the case.

    Args:
        text: what an error or a warning says.
        case: whom it is about.
    """
    found = set(_paths(case)) | set(_header_values(case))
    cleaned = text
    for secret in sorted((item for item in found if len(item) >= MIN_LENGTH), key=len, reverse=True):
        cleaned = cleaned.replace(secret, case.case_id if "/" in secret or "\\" in secret else WITHHELD)
    words = sorted({word for word in _names(case) if word.lower() not in _PLAIN}, key=len, reverse=True)
    for word in words:
        # A folder called "a" must not eat the letters of other words.
        cleaned = re.sub(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", WITHHELD, cleaned, flags=re.IGNORECASE)
    # What is left of a path below a folder that was named: file names that nobody listed.
    cleaned = re.sub(rf"{re.escape(case.case_id)}[/\\][^\s:;,]*", case.case_id, cleaned)
    # Whose message it is stands beside it.
    return " ".join(cleaned.split()).removeprefix(f"{case.case_id}: ")


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Inside, pydicom does not warn: its warnings quote paths and header values."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _paths(case: Case) -> Iterator[str]:
    for path in _files(case):
        for form in {path, path.absolute(), path.resolve()}:
            yield str(form)
            yield from (str(parent) for parent in form.parents if len(parent.parts) > 1)
    for path in _files(case):
        yield path.name


def _files(case: Case) -> list[Path]:
    files = []
    match case.source:
        case FileSource(path):
            files.append(path)
            folder = path if path.is_dir() else None
        case SeriesSource() as series:
            files += [series.folder, *series.files]
            folder = series.folder
    if folder is not None:
        # Other files in the folder are read too when a reader looks for the slices.
        with suppress(OSError):
            for number, path in enumerate(folder.rglob("*")):
                if number >= MAX_NAMES:
                    break
                files.append(path)
    if case.prompts is not None and case.prompts.path is not None:
        files.append(case.prompts.path)
    return files


def _names(case: Case) -> Iterator[str]:
    """Names of the folders above, of the files, and their parts."""
    places = [case.source.path if isinstance(case.source, FileSource) else case.source.folder]
    if case.prompts is not None and case.prompts.path is not None:
        places.append(case.prompts.path)
    for place in places:
        for part in place.absolute().parts[1:]:
            if part.split(".", 1)[0].lower() not in case.case_id.lower():
                yield part
                yield from (piece for piece in re.split(r"[\^_\s,.]+", part) if len(piece) >= MIN_LENGTH)
    for value in _header_values(case):
        yield value
        yield from (piece for piece in re.split(r"[\^_\s,=]+", value) if len(piece) >= MIN_LENGTH)


def _header_values(case: Case) -> Iterator[str]:
    if not isinstance(case.source, SeriesSource):
        return
    import pydicom

    for path in _ends(case.source.files):
        # The header may be the very thing that is damaged; then its values were not read by others either.
        with suppress(Exception), quiet_pydicom():
            dataset: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_PATIENT_TAGS)
            for name in _PATIENT_TAGS:
                value = str(dataset.get(name, "") or "").strip()
                if value:
                    yield value


def _ends(files: tuple[Path, ...]) -> Iterable[Path]:
    return {files[0], files[-1]} if files else ()
