"""Masks that a run keeps, so that its page can show the worst ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from volseg.data.object_mask import ObjectMask
from volseg.geometry import Grid

ANSWERS_FOLDER = "answers"


def answers_path(folder: Path, case_id: str) -> Path:
    """Where the answers of a case are kept; ids may hold what file names may not."""
    return folder / ANSWERS_FOLDER / f"{hashlib.sha256(case_id.encode()).hexdigest()[:16]}.npz"


def write_answers(path: Path, masks: dict[int, ObjectMask]) -> None:
    """Writes masks by object number.

    Raises:
        WriteError: the disk does not allow it.
    """
    from volseg.data import atomic_path

    arrays: dict[str, Any] = {}
    for number, mask in masks.items():
        arrays[f"bits_{number}"] = np.packbits(mask.block)
        arrays[f"place_{number}"] = np.array([mask.start_ijk, mask.shape], dtype=np.int64)
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as partial:
        np.savez_compressed(partial, **arrays)


def read_answer(path: Path, number: int, grid: Grid) -> ObjectMask | None:
    """The mask of one object on its image's grid; None where there is none."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        if f"bits_{number}" not in file.files:
            return None
        (start, shape), bits = file[f"place_{number}"].tolist(), file[f"bits_{number}"]
    block = np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)
    return ObjectMask(number, grid, (start[0], start[1], start[2]), block)
