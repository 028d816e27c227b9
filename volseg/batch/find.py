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
from volseg.errors import ImageReadError, WriteError
from volseg.geometry import Frame

PROMPT_SUFFIXES = (".prompts.json", ".session.json", ".json")
"""Endings of prompt files beside an image, after its name without ending."""

LABELMAP_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".dcm")
"""Endings of label maps that are prompts, in a folder that was named for prompts; beside images they are images."""

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
        leave_out: a folder that is not searched and holds no input: the output.
    """

    series: SeriesFilter = field(default_factory=SeriesFilter)
    ids: IdStyle = IdStyle.AUTO
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
        renamed: number of files that are not called by their own names though nobody said so.
    """

    cases: tuple[Case, ...]
    passed_over: Counter[str]
    renamed: int = 0


def find_cases(inputs: Sequence[str | Path], settings: FindSettings) -> Found:
    """Finds the cases; reads DICOM headers, lists and names of files.

    Args:
        inputs: files, folders, globs, lists (.csv, .json); DICOM archives in any layout.
        settings: what counts.

    Raises:
        ImageReadError: an input is not there, or there is no case in any.
        PromptError: a list is malformed.
        WriteError: an image lies in the output folder, where results could replace it and would be taken for images.
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
    if settings.leave_out is not None and any(_lies_in(case.source, settings.leave_out) for case in search.cases):
        raise WriteError("an image lies in the output folder; choose another folder for the results")
    cases = with_unique_ids([search.with_prompts(case) for case in search.cases])
    return Found(cases, search.passed_over, search.renamed)


class _Search:
    """Collects cases."""

    def __init__(self, settings: FindSettings) -> None:
        self.settings = settings
        self.cases: list[Case] = []
        self.passed_over: Counter[str] = Counter()
        self.renamed = 0
        self._not_searched = {
            folder.resolve() for folder in (settings.leave_out, settings.prompts_folder) if folder is not None
        }

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
        elif _is_slice(path):
            self.cases += [Case(series_case_id(source.uid), source) for source in self._series_of_slice(path)]
        else:
            self.cases.append(Case(self._file_id(path, relative), FileSource(path)))

    def _add_folder(self, folder: Path) -> None:
        volumes, slices = self._walk(folder)
        archive = bool(slices) and self.settings.ids is IdStyle.AUTO
        self.renamed += len(volumes) if archive else 0
        for path in volumes:
            case_id = self._file_id(path, path.relative_to(folder), archive=archive)
            self.cases.append(Case(case_id, FileSource(path)))
        self.cases += [Case(series_case_id(source.uid), source) for source in self._series(slices, folder)]

    def _file_id(self, path: Path, relative: PurePath, *, archive: bool = False) -> str:
        """What a file is called; one that is no volume is a damaged DICOM file, most likely."""
        style = self.settings.ids
        if style is IdStyle.AUTO and (archive or file_suffix(path) not in _VOLUMES):
            style = IdStyle.HASHED
        return file_case_id(relative, style)

    def _series_of_slice(self, path: Path) -> list[SeriesSource]:
        """One slice stands for its series in its folder."""
        beside = [other for other in sorted(path.parent.iterdir()) if other.is_file() and is_dicom(other)]
        return [source for source in self._series(beside, path.parent) if path in source.files]

    def _add_listed(self, item: ListedCase) -> None:
        if item.image.is_dir():
            series = self._series(self._walk(item.image)[1], item.image)
        elif _is_slice(item.image):
            series = self._series_of_slice(item.image)
        else:
            case_id = item.case_id or self._file_id(item.image, PurePath(item.image.name))
            self.cases.append(Case(case_id, FileSource(item.image), item.prompts))
            return
        series = [source for source in series if item.series_uid in ("", source.uid)]
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
        """Volume files and DICOM files below a folder, without hidden ones, results and label maps that are prompts."""
        volumes, slices = [], []
        for name, folders, files in os.walk(root):
            here = Path(name)
            folders[:] = sorted(
                part
                for part in folders
                if not part.startswith(".") and (here / part).resolve() not in self._not_searched
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
        path = next((path for path in self._prompt_files(case) if path.is_file() and not _is_image(path, case)), None)
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
            for suffix in (*PROMPT_SUFFIXES, *(LABELMAP_SUFFIXES if folder is self.settings.prompts_folder else ()))
        ]
        if isinstance(case.source, SeriesSource):
            # A folder of slices is the series, so its prompts need no name of their own.
            named += [case.source.folder / "prompts.json", case.source.folder / "session.json"]
        return named


def _is_image(path: Path, case: Case) -> bool:
    return isinstance(case.source, FileSource) and path.resolve() == case.source.path.resolve()


def _is_slice(path: Path) -> bool:
    return file_suffix(path) not in _VOLUMES and is_dicom(path)


def _lies_in(source: Source, folder: Path) -> bool:
    return _home(source).resolve() == folder.resolve()


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
