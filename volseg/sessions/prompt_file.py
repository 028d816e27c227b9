"""Prompts from a file: the prompt schema, or a saved session's latest state."""

from __future__ import annotations

from pathlib import Path

from volseg.errors import PromptError
from volseg.geometry import Grid
from volseg.prompts import PromptSet
from volseg.sessions.json_file import read_json
from volseg.sessions.session_file import SCHEMA as SESSION_SCHEMA
from volseg.sessions.session_file import SavedSession


def read_prompts(path: str | Path, grid: Grid | None = None) -> PromptSet:
    """Reads prompts from a prompt file or from a saved session.

    Args:
        path: JSON of either schema.
        grid: assumed for voxel indices where a prompt file names no grid; usually the image's.

    Raises:
        PromptError: the file cannot be read or is of neither schema.
        SessionError: a saved session that is damaged.
    """
    path = Path(path)
    data = read_json(path, PromptError)
    if isinstance(data, dict) and data.get("schema") == SESSION_SCHEMA:
        saved = SavedSession.from_json(data)
        prompts = saved.state.prompt_set(saved.grid)
    else:
        prompts = PromptSet.from_json(data, grid)
    if not any(item.prompts for item in prompts.objects):
        raise PromptError(f"{path} holds no prompt; add one")
    return prompts
