"""From what the user names to cases: files, folders, globs, lists, archives."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from volseg.batch.archive import SeriesFilter, find_series, is_dicom
from volseg.batch.case import Case, FileSource, PromptSource, SeriesSource, Source
from volseg.batch.ids import IdStyle, file_case_id, series_case_id, short_hash, with_unique_ids
from volseg.batch.lists import ListedCase, read_list
from volseg.data.formats import FileFormat, file_suffix
from volseg.errors import ImageReadError
from volseg.geometry import Frame

PROMPT_SUFFIXES = (".prompts.json", ".session.json", ".json")
"""Endings of prompt files beside an image, after its name without ending."""

_LISTS = (".csv", ".json")
_VOLUMES = {".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"}


@dataclass(frozen=True)
class FindSettings:
    """What counts as a case.

    Attributes:
        series: which DICOM series are wanted.
        ids: how files are named.
        frame: of boxes and points in lists.
        prompts_folder: where prompt files lie under the image's or the case's name, beside the images.
        texts: phrases that are said about every case without prompts of its own; one object each.
        list_key: see ``read_list``.
        leave_out: a folder that is not searched: the output.
    """

    series: SeriesFilter = field(default_factory=SeriesFilter)
    ids: IdStyle = IdStyle.NAMES
    frame: Frame = Frame.RAS
    prompts_folder: Path | None = None
    texts: tuple[str, ...] = ()
    list_key: str | None = None
    leave_out: Path | None = None


@dataclass(frozen=True)
class Found:
    """The cases.

    Attributes:
        cases: sorted by id, which differ.
        passed_over: why something was not taken, and how many.
    """

    cases: tuple[Case, ...]
    passed_over: Counter[str]


def find_cases(inputs: Sequence[str | Path], settings: FindSettings) -> Found:
    """Finds the cases; reads DICOM headers, lists and names of files.

    Args:
        inputs: files, folders, globs, lists (.csv, .json); DICOM archives in any layout.
        settings: what counts.

    Raises:
        ImageReadError: an input is not there, or there is no case in any.
        PromptError: a list is malformed.
    """
    search = _Search(settings)
    for number, given in enumerate(inputs, start=1):
        search.add(str(given), number)
    if not search.cases:
        listed = "; ".join(f"{count} {reason}" for reason, count in sorted(search.passed_over.items()))
        raise ImageReadError(
            "no image was found in what was given"
            + (f"; passed over: {listed}" if listed else "")
            + "; expected files (.nii, .nii.gz, .nrrd, .mha), folders, lists (.csv, .json) or DICOM archives"
        )
    return Found(with_unique_ids([search.with_prompts(case) for case in search.cases]), search.passed_over)


class _Search:
    """Collects cases."""

    def __init__(self, settings: FindSettings) -> None:
        self.settings = settings
        self.cases: list[Case] = []
        self.passed_over: Counter[str] = Counter()
        self._leave_out = None if settings.leave_out is None else settings.leave_out.resolve()

    def add(self, given: str, number: int) -> None:
        path = Path(given)
        if path.is_dir():
            self._add_folder(path)
        elif path.is_file():
            self._add_file(path, PurePath(path.name))
        elif glob.has_magic(given):
            # Hidden files are left out, as shells do.
            matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - absolute patterns
            if not matches:
                raise ImageReadError(f"input {number}: no file has a name of that pattern")
            root = _fixed_part(given)
            for match in matches:
                if Path(match).is_dir():
                    self._add_folder(Path(match))
                else:
                    self._add_file(Path(match), PurePath(os.path.relpath(match, root)))
        else:
            # The path may hold a patient's name, so it is not repeated.
            raise ImageReadError(f"input {number}: there is no such file or folder")

    def _add_file(self, path: Path, relative: PurePath) -> None:
        if path.suffix.lower() in _LISTS:
            for item in read_list(path, self.settings.frame, self.settings.list_key):
                self._add_listed(item)
        elif file_suffix(path) not in _VOLUMES and is_dicom(path):
            self._add_slice(path)
        else:
            self.cases.append(Case(file_case_id(relative, self.settings.ids), FileSource(path)))

    def _add_folder(self, folder: Path) -> None:
        volumes, slices = self._walk(folder)
        for path in volumes:
            relative = PurePath(path.relative_to(folder))
            self.cases.append(Case(file_case_id(relative, self.settings.ids), FileSource(path)))
        self.cases += [Case(series_case_id(source.uid), source) for source in self._series(slices, folder)]

    def _add_slice(self, path: Path) -> None:
        """One slice stands for its series in its folder."""
        beside = [other for other in sorted(path.parent.iterdir()) if other.is_file() and is_dicom(other)]
        series = self._series(beside, path.parent)
        self.cases += [Case(series_case_id(source.uid), source) for source in series if path in source.files]

    def _add_listed(self, item: ListedCase) -> None:
        if not item.image.is_dir():
            case_id = item.case_id or file_case_id(PurePath(item.image.name), self.settings.ids)
            self.cases.append(Case(case_id, FileSource(item.image), item.prompts))
            return
        _, slices = self._walk(item.image)
        series = [
            source for source in self._series(slices, item.image) if item.series_uid in ("", getattr(source, "uid", ""))
        ]
        for source in series:
            name = item.case_id or series_case_id(source.uid)
            self.cases.append(Case(name, source, item.prompts))
        if not series:
            name = item.case_id or f"dicom-{short_hash(str(item.image))}"
            self.cases.append(Case(name, FileSource(item.image), item.prompts))

    def _series(self, slices: list[Path], root: Path) -> list[SeriesSource]:
        archive = find_series(slices, self.settings.series)
        self.passed_over += archive.passed_over
        for path in archive.lost:
            name = f"dicom-{short_hash(path.relative_to(root).as_posix())}"
            self.cases.append(Case(name, FileSource(path)))
        return list(archive.series)

    def _walk(self, root: Path) -> tuple[list[Path], list[Path]]:
        """Volume files and DICOM files below a folder, without hidden ones."""
        volumes, slices = [], []
        for name, folders, files in os.walk(root):
            here = Path(name)
            folders[:] = sorted(
                part for part in folders if not part.startswith(".") and (here / part).resolve() != self._leave_out
            )
            for part in sorted(files):
                path, suffix = here / part, file_suffix(Path(part))
                if part.startswith("."):
                    continue
                if suffix in _VOLUMES:
                    volumes.append(path)
                elif suffix == ".seg.nrrd":
                    self.passed_over[f"a {FileFormat.SEG_NRRD}"] += 1
                elif is_dicom(path):
                    slices.append(path)
                elif suffix == ".dcm":
                    # Named as DICOM and not DICOM: said by name rather than passed over.
                    slices.append(path)
        return volumes, slices

    def with_prompts(self, case: Case) -> Case:
        """The case with what is said about it: by its list, in a file, or about all."""
        if case.prompts is not None:
            return case
        path = next((path for path in self._prompt_files(case) if path.is_file()), None)
        if path is not None:
            return Case(case.case_id, case.source, PromptSource(path))
        if not self.settings.texts:
            return case
        objects = [
            {"id": number, "name": text, "prompts": [{"type": "text", "text": text}]}
            for number, text in enumerate(self.settings.texts, start=1)
        ]
        return Case(case.case_id, case.source, PromptSource.of_objects(objects))

    def _prompt_files(self, case: Case) -> list[Path]:
        names, folders = [case.case_id], [self.settings.prompts_folder]
        folders.append(_home(case.source))
        if isinstance(case.source, FileSource):
            path = case.source.path
            suffix = file_suffix(path)
            names.insert(0, path.name[: -len(suffix)] if suffix else path.name)
        else:
            names.insert(0, case.source.uid)
        named = [
            folder / f"{name}{suffix}"
            for folder in folders
            if folder is not None
            for name in names
            for suffix in PROMPT_SUFFIXES
        ]
        if isinstance(case.source, SeriesSource):
            # A folder of slices is the series, so its prompts need no name of their own.
            named += [case.source.folder / "prompts.json", case.source.folder / "session.json"]
        return named


def _home(source: Source) -> Path:
    return source.folder if isinstance(source, SeriesSource) else source.path.parent


def _fixed_part(pattern: str) -> str:
    """The folder before a pattern's first part with a wildcard."""
    parts = PurePath(pattern).parts
    fixed = []
    for part in parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return str(PurePath(*fixed)) if fixed else "."
