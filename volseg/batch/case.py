"""One case: which image, and what is said about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from volseg.errors import CapabilityError, PromptError

if TYPE_CHECKING:
    from volseg.geometry import Grid
    from volseg.models.card import ModelCard
    from volseg.prompts import PromptSet


@dataclass(frozen=True)
class FileSource:
    """An image in a file that is not DICOM.

    Attributes:
        path: NIfTI, NRRD or MetaImage.
    """

    path: Path


@dataclass(frozen=True)
class SeriesSource:
    """A DICOM series.

    Attributes:
        folder: the deepest folder that holds all of its files.
        files: the files of the series, sorted.
        uid: its SeriesInstanceUID.
        modality: the DICOM code, such as ``"CT"``.
        shape: pixels across, pixels down, and slices or frames, as the headers declare.
        bits: bits a pixel takes.
        damaged: number of files beside the series' own that could not be read as DICOM.
    """

    folder: Path
    files: tuple[Path, ...]
    uid: str
    modality: str
    shape: tuple[int, int, int]
    bits: int
    damaged: int = 0


Source: TypeAlias = FileSource | SeriesSource
"""Where an image comes from."""


@dataclass(frozen=True)
class PromptSource:
    """What is said about one image; exactly one of the two is given.

    Attributes:
        path: a prompt file, a saved session, or a label map.
        objects_json: JSON of the prompt schema; voxel indices without a grid refer to the image's.
    """

    path: Path | None = None
    objects_json: str = ""

    @classmethod
    def of_objects(cls, objects: list[dict[str, Any]]) -> PromptSource:
        """Prompts as the prompt schema's list of objects has them."""
        data = {"schema": "volseg.prompts", "version": 1, "objects": objects}
        return cls(objects_json=json.dumps(data, sort_keys=True))

    def content(self) -> bytes:
        """What was said, as bytes for a hash.

        Raises:
            PromptError: the file cannot be read.
        """
        if self.path is None:
            return self.objects_json.encode()
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise PromptError(f"the prompt file cannot be read: {error.strerror}") from error

    def read(self, grid: Grid, sources: Sequence[Path] = ()) -> PromptSet:
        """The prompts.

        Args:
            grid: the image's.
            sources: the files of a DICOM image.

        Raises:
            PromptError: the file or the JSON is not of the schema.
            SessionError: a saved session that is damaged.
        """
        if self.path is not None:
            from volseg.sessions import read_prompts

            return read_prompts(self.path, grid, sources=sources)
        from volseg.prompts import PromptSet

        return PromptSet.loads(self.objects_json, grid)

    def check_served(self, card: ModelCard) -> None:
        """Whether a model can do something with it, as far as can be told without the image.

        Args:
            card: the model's.

        Raises:
            PromptError: the file cannot be read or the JSON is not of the schema.
            SessionError: a saved session that is damaged.
            CapabilityError: the model does not serve a prompt's kind.
        """
        import numpy as np

        from volseg.geometry import Grid
        from volseg.prompts import PromptKind
        from volseg.sessions.prompt_file import is_labelmap_file

        if self.path is not None and is_labelmap_file(self.path):
            # Outlines take long to fill, and what kind of prompts will come of them is known.
            if PromptKind.MASK not in card.positive:
                raise CapabilityError(f"model {card.name} takes no masks, so it cannot use a label map as prompts")
            if not self.path.is_file():
                raise PromptError("the prompt file cannot be read: there is no such file")
            return
        # The kinds do not depend on the grid.
        for item in self.read(Grid((1, 1, 1), np.eye(4))).objects:
            card.check_serves(item)


@dataclass(frozen=True)
class Case:
    """One image and its prompts under a name that says nothing about the patient.

    Attributes:
        case_id: names the outputs; letters, digits, ``.``, ``_`` and ``-``.
        source: the image.
        prompts: what is said about it; None leaves it to the model.
    """

    case_id: str
    source: Source
    prompts: PromptSource | None = None

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files of a DICOM series; empty for other images."""
        return self.source.files if isinstance(self.source, SeriesSource) else ()

    @property
    def is_dicom(self) -> bool:
        """Whether the image is a DICOM series."""
        return isinstance(self.source, SeriesSource)

    @property
    def format(self) -> str:
        """``"DICOM"``, or the ending of the file's name."""
        if isinstance(self.source, SeriesSource):
            return "DICOM"
        from volseg.data.formats import file_suffix

        return file_suffix(self.source.path)
