"""What became of a case: the sidecar file that resuming trusts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from volseg.data.atomic import atomic_path

SCHEMA = "volseg.batch.case"
SCHEMA_VERSION = 1
FOLDER = "cases"
"""Where sidecars lie in the output folder."""


class Status(StrEnum):
    """How a case ended."""

    DONE = "done"
    FAILED = "failed"


class Stage(StrEnum):
    """What is done with a case, in order."""

    PLAN = "plan"
    READ = "read"
    COMPUTE = "compute"
    WRITE = "write"


class ErrorKind(StrEnum):
    """Why a case failed."""

    IMAGE = "image"
    """The image is missing, damaged, or not one sound volume."""
    PROMPT = "prompt"
    """There is no prompt, or it does not fit the image."""
    MODEL = "model"
    """The model cannot do what was asked."""
    OUTPUT = "output"
    """A file cannot be written."""
    OUT_OF_MEMORY = "out-of-memory"
    """No memory was left, on the machine or the device."""
    TOO_LARGE = "too-large"
    """The case needs more than the memory budget; it was not tried."""
    TIMEOUT = "timeout"
    """It took longer than it may."""
    WORKER_DIED = "worker-died"
    """The process that computed it died, every time."""
    MISSING_EXTRA = "missing-extra"
    """An optional dependency is not installed."""
    OTHER = "other"
    """Another error."""


@dataclass(frozen=True)
class CaseError:
    """Why a case failed; nothing of it names a patient or a path.

    Attributes:
        kind: for scripts.
        message: for people.
        stage: where it happened.
    """

    kind: ErrorKind
    message: str
    stage: Stage


@dataclass(frozen=True)
class Identity:
    """What a result depends on; the same identity has the same voxels (at the same number of threads).

    Attributes:
        image_sha256: of the image's files.
        prompts_sha256: of what was said.
        model: name and version.
        weights_sha256: of the model.
        options_sha256: see ``CaseOptions``.
    """

    image_sha256: str
    prompts_sha256: str
    model: str
    weights_sha256: str
    options_sha256: str


@dataclass(frozen=True)
class OutputFile:
    """A file that was written.

    Attributes:
        format: see ``OutputFormat``.
        name: in the output folder.
        sha256: of its bytes.
        bytes: its size.
    """

    format: str
    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class CaseRecord:
    """Everything about a case that ended.

    Attributes:
        case_id: its name.
        status: how it ended.
        identity: what the result depends on.
        run_id: of the run that did it.
        attempts: how many times it was begun in that run.
        options: see ``CaseOptions.to_json``.
        versions: of Python and the libraries.
        threads: that computed it.
        device: that computed it.
        seconds: of each stage.
        started: of the compute stage, seconds since the epoch.
        peak_memory_bytes: most that the worker held while it computed, other cases in flight included.
        estimated_bytes: what the plan took the case for.
        shape: of the image.
        modality: CT, MR or OTHER, where known.
        prompts: kinds of prompt.
        settings: what the model chose, such as the window.
        objects: rows of measurements, one an object.
        outputs: the files.
        warnings: that came up.
        error: why it failed.
    """

    case_id: str
    status: Status
    identity: Identity
    run_id: str = ""
    attempts: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    device: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = 0.0
    peak_memory_bytes: int = 0
    estimated_bytes: int = 0
    shape: tuple[int, ...] = ()
    modality: str = ""
    prompts: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    objects: tuple[dict[str, Any], ...] = ()
    outputs: tuple[OutputFile, ...] = ()
    warnings: tuple[str, ...] = ()
    error: CaseError | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` reads back."""
        return {"schema": SCHEMA, "version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> CaseRecord | None:
        """Reads what ``to_json`` gave; None for anything else, which makes the case be done again."""
        try:
            if data["schema"] != SCHEMA or data["version"] != SCHEMA_VERSION:
                return None
            fields = {name: value for name, value in data.items() if name not in ("schema", "version")}
            error = fields.pop("error")
            record = cls(
                **{
                    **fields,
                    "status": Status(fields["status"]),
                    "identity": Identity(**fields["identity"]),
                    "outputs": tuple(OutputFile(**item) for item in fields["outputs"]),
                    "shape": tuple(fields["shape"]),
                    "prompts": tuple(fields["prompts"]),
                    "settings": tuple((name, value) for name, value in fields["settings"]),
                    "objects": tuple(dict(item) for item in fields["objects"]),
                    "warnings": tuple(fields["warnings"]),
                }
            )
            if error is None:
                return record
            return replace(
                record, error=CaseError(ErrorKind(error["kind"]), str(error["message"]), Stage(error["stage"]))
            )
        except (KeyError, TypeError, ValueError):
            return None


def sidecar_path(output: Path, case_id: str) -> Path:
    """Where the sidecar of a case lies."""
    return output / FOLDER / f"{case_id}.json"


def write_record(record: CaseRecord, output: Path) -> None:
    """Writes a sidecar, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    path = sidecar_path(output, record.case_id)
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(record.to_json(), indent=1), encoding="utf-8")


def read_record(output: Path, case_id: str) -> CaseRecord | None:
    """Reads a sidecar; None if there is none or it is damaged."""
    try:
        data = json.loads(sidecar_path(output, case_id).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    record = CaseRecord.from_json(data)
    return record if record is not None and record.case_id == case_id else None
