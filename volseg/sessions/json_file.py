"""Reading JSON that may come from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from volseg.errors import VolsegError

MAX_BYTES = 1 << 30
"""A larger prompt or session file is taken for something else."""


def read_json(path: Path, error: type[VolsegError]) -> Any:
    """Parses a JSON file.

    Args:
        path: the file.
        error: raised when it cannot be read, is too large or is not JSON.
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_BYTES else None
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    except ValueError as reason:
        raise error(f"{path} is not a text: {reason}") from reason
    if text is None:
        raise error(f"{path} has {size} bytes; a prompt or session file has at most {MAX_BYTES}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is not JSON: {reason}") from reason
