"""A folder of images to annotate, one after another."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from volseg.data.atomic import PARTIAL_PREFIX, atomic_path
from volseg.errors import SessionError
from volseg.sessions.json_file import read_json

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
NOT_IMAGES = (".seg.nrrd",)
FILE_NAME = "worklist.json"
SCHEMA = "volseg.worklist"


@dataclass(frozen=True)
class WorklistCase:
    """One image of a worklist.

    Attributes:
        name: of the file without its suffix, or of the DICOM folder.
        image: the file, or the folder of DICOM slices.
        session: where its session is kept.
        labelmap: where its label map goes.
        done: whether the person ticked it off.
    """

    name: str
    image: Path
    session: Path
    labelmap: Path
    done: bool


class Worklist:
    """The images of a folder, with what is done.

    Args:
        folder: holds images, or folders of DICOM slices; nothing in it is changed.
        output: where sessions, label maps and ``worklist.json`` go; None takes ``volseg`` in that folder.

    Raises:
        SessionError: there is no such folder, or its ``worklist.json`` is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise SessionError(f"{self.folder} is no folder; choose one that holds images")
        self.output = self.folder / "volseg" if output is None else Path(output)
        self._done = self._read()

    @property
    def cases(self) -> tuple[WorklistCase, ...]:
        """The images there are now, by name."""
        found: list[WorklistCase] = []
        for path in sorted(self.folder.iterdir()):
            name = _case_name(path)
            if name is not None and path != self.output:
                found.append(
                    WorklistCase(
                        name,
                        path,
                        self.output / f"{name}.json",
                        self.output / f"{name}.seg.nrrd",
                        path.name in self._done,
                    )
                )
        return tuple(found)

    def mark(self, case: WorklistCase, done: bool = True) -> None:
        """Ticks a case off, or takes the tick back; written at once.

        Raises:
            WriteError: the output folder cannot be written.
        """
        after = (self._done - {case.image.name}) | ({case.image.name} if done else set())
        self.output.mkdir(parents=True, exist_ok=True)
        data = {"schema": SCHEMA, "version": 1, "done": sorted(after)}
        with atomic_path(self.output / FILE_NAME) as temporary:
            temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        self._done = after

    def next_undone(self, after: WorklistCase | None = None) -> WorklistCase | None:
        """The next case that is not done, from ``after`` on and then from the beginning; None when all are done."""
        cases = self.cases
        names = [case.image for case in cases]
        start = names.index(after.image) + 1 if after is not None and after.image in names else 0
        return next((case for case in (*cases[start:], *cases[:start]) if not case.done), None)

    def _read(self) -> set[str]:
        path = self.output / FILE_NAME
        if not path.exists():
            return set()
        data = read_json(path, SessionError)
        done = data.get("done") if isinstance(data, dict) and data.get("schema") == SCHEMA else None
        if not isinstance(done, list) or not all(isinstance(name, str) for name in done):
            raise SessionError(f"{path} is no worklist of volseg; move it away to begin anew")
        return set(done)


def _case_name(path: Path) -> str | None:
    name = path.name
    if name.startswith((".", PARTIAL_PREFIX)):
        return None
    if path.is_dir():
        return name if holds_dicom(path) else None
    lower = name.lower()
    if lower.endswith(NOT_IMAGES) or not path.is_file():
        return None
    suffix = max((s for s in IMAGE_SUFFIXES if lower.endswith(s)), key=len, default=None)
    return None if suffix is None else name[: -len(suffix)]


def holds_dicom(folder: Path) -> bool:
    """Whether a file in the folder or below has the DICOM magic number; looks at the first file of each folder."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files)[:1]:
            with (Path(root) / file).open("rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    return True
    return False
