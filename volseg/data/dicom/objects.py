"""What all DICOM objects that volseg writes have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from volseg.data.atomic import atomic_path
from volseg.data.dicom.identity import date_and_time
from volseg.data.dicom.sources import SourceSeries
from volseg.errors import MissingExtraError, VolsegError, WriteError

MANUFACTURER = "volseg"


def software_version() -> str:
    """Volseg's version."""
    from importlib.metadata import version

    return version("volseg")


def need_highdicom(path: Path) -> None:
    """Raises ``MissingExtraError`` where highdicom is not installed."""
    if find_spec("highdicom") is None:
        raise MissingExtraError(f"{path}: DICOM results need highdicom: pip install 'volseg[dicom]'")


@contextmanager
def highdicom_errors(path: Path) -> Iterator[None]:
    """Turns what highdicom says about missing or invalid attributes of the sources into one error.

    Raises:
        MissingExtraError: highdicom is not installed.
        WriteError: the object cannot be made.
    """
    need_highdicom(path)
    try:
        yield
    except VolsegError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise WriteError(f"{path}: the images' headers do not allow a DICOM result: {text:.300}") from error


def settle(dataset: Any, series: SourceSeries) -> None:
    """Makes an object the same whenever it is made, its texts UTF-8, and names the patient.

    Args:
        dataset: the object; dates and times of its making become those of the source.
        series: the images it was made on.
    """
    from pydicom.valuerep import PersonName

    date, time = date_and_time(series.datasets[0])
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for name in ("InstanceCreation", "Content"):
        if f"{name}Date" in dataset:
            setattr(dataset, f"{name}Date", date)
            setattr(dataset, f"{name}Time", time)
    for item in dataset.get("ContributingEquipmentSequence", None) or ():
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    # A name remembers the bytes and the character set it was read with.
    for element in dataset:
        if element.VR == "PN" and element.value:
            element.value = PersonName(str(element.value))
    dataset.PatientName = PersonName(series.patient_name)


def save(dataset: Any, path: Path) -> None:
    """Writes an object whole or not at all (P6).

    Raises:
        WriteError: the disk or an attribute does not allow it.
    """
    with atomic_path(path) as partial, highdicom_errors(path):
        dataset.save_as(partial, enforce_file_format=True)
