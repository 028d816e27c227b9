"""What a folder of results was made with, so that results of two kinds are never mixed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from volseg.errors import EvaluationError, WriteError

IDENTITY_FILE = "run.json"


@dataclass(frozen=True)
class Identity:
    """Rows with the same identity may stand in one table.

    Attributes:
        model: name.
        model_version: its version.
        model_sha256: hash of its weights, empty for a model without.
        protocol: name.
        protocol_version: its version.
        parts: those of the protocol that were run, joined by commas.
        seed: of everything drawn.
        blank: whether images were replaced by a constant.
        volseg: version of volseg.
    """

    model: str
    model_version: str
    model_sha256: str
    protocol: str
    protocol_version: int
    parts: str
    seed: int
    blank: bool
    volseg: str


def claim_folder(folder: Path, identity: Identity) -> None:
    """Makes the folder, or checks that its results are of the same kind.

    Raises:
        EvaluationError: they are not.
        WriteError: the folder cannot be made.
    """
    from volseg.data import atomic_path

    path = folder / IDENTITY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError) as error:
        raise WriteError(f"{folder} cannot hold results: {error}") from error
    mine = asdict(identity)
    if held is None:
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(mine, indent=1), encoding="utf-8")
    elif held != mine:
        keys = list(mine) if isinstance(held, dict) else []
        other = "; ".join(f"{key} {held.get(key)!r}, now {mine[key]!r}" for key in keys if held.get(key) != mine[key])
        raise EvaluationError(f"{folder} holds results of another run ({other or held!r}); choose another folder")
