"""Prompts from a file: the prompt schema, a saved session's latest state, or a label map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from volseg.data.formats import FileFormat, file_suffix, format_to_read
from volseg.errors import GeometryError, ImageReadError, PromptError
from volseg.geometry import Grid
from volseg.prompts import PromptSet
from volseg.sessions.json_file import read_json
from volseg.sessions.session_file import SCHEMA as SESSION_SCHEMA
from volseg.sessions.session_file import SavedSession


def read_prompts(
    path: str | os.PathLike[str], grid: Grid | None = None, *, sources: Sequence[str | os.PathLike[str]] = ()
) -> PromptSet:
    """Reads prompts from a prompt file, from a saved session, or from a label map.

    Args:
        path: JSON of either schema; or a label map in any format that ``read_labelmap`` reads, of which each object
            becomes a rough mask with its number and name.
        grid: assumed for voxel indices where a prompt file names no grid, and for outlines; usually the image's.
        sources: files of the DICOM image; a structure set is checked to be drawn on it.

    Raises:
        PromptError: the file cannot be read, is of neither schema, or says nothing.
        SessionError: a saved session that is damaged.
    """
    path = Path(path)
    if is_labelmap_file(path):
        return _labelmap_prompts(path, grid, sources)
    data = read_json(path, PromptError)
    if isinstance(data, dict) and data.get("schema") == SESSION_SCHEMA:
        saved = SavedSession.from_json(data)
        prompts = saved.state.prompt_set(saved.grid)
    else:
        prompts = PromptSet.from_json(data, grid)
    if not any(item.prompts for item in prompts.objects):
        raise PromptError(f"{path} holds no prompt; add one")
    return prompts


def is_labelmap_file(path: Path) -> bool:
    """Whether prompts of that name are a label map, whose objects are rough masks."""
    return bool(file_suffix(path))


def _labelmap_prompts(path: Path, grid: Grid | None, sources: Sequence[str | os.PathLike[str]]) -> PromptSet:
    from volseg.data import read_labelmap
    from volseg.data.dicom import labelmap_prompts

    try:
        # Outlines need the image they were drawn on; voxels have a grid of their own, which may be another.
        outlines = format_to_read(path) is FileFormat.RTSTRUCT
        return labelmap_prompts(read_labelmap(path, grid=grid, sources=sources) if outlines else read_labelmap(path))
    except (ImageReadError, GeometryError, PromptError) as error:
        raise PromptError(f"prompts in {path.name}: {error}") from error
