"""What a run will do, decided before it begins: which cases, why, and what they will take."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from volseg.batch.case import Case
from volseg.batch.failures import case_error
from volseg.batch.hashing import image_files_sha256, prompts_sha256
from volseg.batch.memory import WORKER_BYTES, Size, size_of
from volseg.batch.options import CaseOptions, OutputFormat
from volseg.batch.record import CaseError, CaseRecord, ErrorKind, Identity, Stage, Status, read_record
from volseg.errors import CapabilityError, PromptError, VolsegError
from volseg.models.card import ModelCard
from volseg.models.checkpoints.hashing import file_sha256


class State(StrEnum):
    """What the plan has for a case."""

    TODO = "to do"
    DONE = "done before"
    FAILED = "failed before"
    REFUSED = "cannot be done"


@dataclass(frozen=True)
class PlannedCase:
    """A case and what will become of it.

    Attributes:
        case: the case.
        state: what the plan has for it.
        reason: why, in a few words.
        size: what its header says.
        record: how it ended before, if it did.
        seconds: estimated from cases that are done, None without any.
        error: why it is refused.
    """

    case: Case
    state: State
    reason: str
    size: Size
    record: CaseRecord | None = None
    seconds: float | None = None
    error: CaseError | None = None


@dataclass(frozen=True)
class Plan:
    """All cases of a run, and its limits.

    Attributes:
        cases: sorted by id.
        output: where results go.
        options: what decides them.
        model: name and version, and hash of the weights.
        budget_bytes: memory that all workers together may take.
        workers: how many share it.
        elsewhere: ids of the cases that other shards do; the tables and the page have them too.
    """

    cases: tuple[PlannedCase, ...]
    output: Path
    options: CaseOptions
    model: tuple[str, str]
    budget_bytes: int
    workers: int
    elsewhere: tuple[str, ...] = ()

    def of(self, state: State) -> tuple[PlannedCase, ...]:
        """The cases in that state."""
        return tuple(item for item in self.cases if item.state is state)

    @property
    def seconds(self) -> float | None:
        """Estimated time of what is to do, None if no case of this model was done before."""
        known = [item.seconds for item in self.of(State.TODO)]
        if any(item is None for item in known):
            return None
        return sum(item for item in known if item is not None) / max(1, self.workers)

    def check(self) -> None:
        """Refuses to begin where no case can be done, for a reason that is no single case's own.

        Raises:
            PromptError: nothing is said about any case, and the model needs prompts.
            CapabilityError: the model serves no case's prompts.
        """
        errors = [item.error for item in self.cases if item.error is not None]
        if not errors or len(errors) < len(self.cases):
            return
        kinds = {error.kind for error in errors}
        if kinds == {ErrorKind.PROMPT} and all(item.case.prompts is None for item in self.cases):
            raise PromptError(
                f"nothing is said about any of the {len(errors)} cases and model {self.model[0]} needs prompts; put "
                "prompt files beside the images, name them in a list (--write-mapping FILE.csv makes one to fill in), "
                "or give --text"
            )
        if kinds == {ErrorKind.MODEL}:
            raise CapabilityError(errors[0].message)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--dry-run --json``."""
        return {
            "model": {"name": self.model[0], "weights_sha256": self.model[1]},
            "options": self.options.to_json(),
            "workers": self.workers,
            "memory_budget_bytes": self.budget_bytes,
            "states": dict(Counter(str(item.state) for item in self.cases)),
            "estimated_seconds": self.seconds,
            "cases": [
                {
                    "id": item.case.case_id,
                    "state": str(item.state),
                    "reason": item.reason,
                    "format": item.case.format,
                    "shape": list(item.size.shape),
                    "modality": item.size.modality or None,
                    "estimated_bytes": item.size.bytes,
                    "estimated_seconds": item.seconds,
                    "error": None if item.error is None else item.error.message,
                }
                for item in self.cases
            ],
        }


def in_shard(case: Case, index: int, count: int) -> bool:
    """Whether part ``index`` (from 0) of ``count`` does a case.

    Depends on nothing but the case's id, so parts that start at different times agree, also when cases came in
    between.
    """
    import hashlib

    return int.from_bytes(hashlib.sha256(case.case_id.encode()).digest()[:8], "big") % count == index


def model_identity(card: ModelCard) -> tuple[str, str]:
    """Name and version, and hash of the weights."""
    return f"{card.name} {card.version}", card.weights_sha256


def make_plan(
    cases: Sequence[Case],
    output: Path,
    options: CaseOptions,
    card: ModelCard,
    *,
    budget_bytes: int,
    workers: int = 1,
    retry_failed: bool = False,
    elsewhere: Sequence[str] = (),
) -> Plan:
    """Decides what to do with each case: reads sidecars, headers, and the files of cases that were done before.

    A case is done when its sidecar says so, made from these files, prompts, model and options, and when every file it
    wrote is there with the same hash. File presence alone counts for nothing.

    Args:
        cases: of this run.
        output: where results go.
        options: what decides them.
        card: of the model.
        budget_bytes: memory that all workers together may take.
        workers: how many share it.
        retry_failed: do cases again that failed before, though nothing changed.
        elsewhere: ids of the cases that other shards do.
    """
    model = model_identity(card)
    room = budget_bytes - WORKER_BYTES * workers
    planned = []
    for case in cases:
        size = size_of(case)
        error = _refusal(case, size, card, options, room)
        record = read_record(output, case.case_id)
        identity = None if record is None else identity_of(case, model, options)
        if error is not None:
            planned.append(PlannedCase(case, State.REFUSED, str(error.kind), size, record, None, error))
            continue
        state, reason = _state(record, identity, output, retry_failed)
        planned.append(PlannedCase(case, state, reason, size, record))
    rate = _seconds_a_byte([item.record for item in planned if item.record is not None], model)
    timed = tuple(
        item if rate is None else PlannedCase(item.case, item.state, item.reason, item.size, item.record,
                                              rate * item.size.bytes, item.error)
        for item in planned
    )  # fmt: skip
    return Plan(timed, output, options, model, budget_bytes, workers, tuple(elsewhere))


def identity_of(case: Case, model: tuple[str, str], options: CaseOptions) -> Identity:
    """What the case's result depends on; reads its files."""
    return Identity(image_files_sha256(case), prompts_sha256(case), *model, options.sha256)


def _refusal(case: Case, size: Size, card: ModelCard, options: CaseOptions, room: int) -> CaseError | None:
    if case.prompts is None and not card.labels:
        return CaseError(ErrorKind.PROMPT, f"nothing is said about it, and model {card.name} needs prompts", Stage.PLAN)
    if case.prompts is not None:
        try:
            case.prompts.check_served(card)
        except VolsegError as error:
            return case_error(error, case, Stage.PLAN)
    if size.bytes > room:
        return CaseError(
            ErrorKind.TOO_LARGE,
            f"needs about {size.bytes / 1e9:.2f} GB and {max(0, room) / 1e9:.2f} GB of the budget are left beside "
            f"what the workers take ({WORKER_BYTES / 1e9:.2f} GB each); give more with --memory-gb or fewer --workers",
            Stage.PLAN,
        )
    if not options.formats_for(dicom=case.is_dicom):
        return CaseError(
            ErrorKind.OUTPUT,
            f"{', '.join(options.formats)} need a DICOM image, this one is {case.format}",
            Stage.PLAN,
        )
    return None


def _state(record: CaseRecord | None, identity: Identity | None, output: Path, retry_failed: bool) -> tuple[State, str]:
    if record is None or identity is None:
        return State.TODO, "new"
    old = record.identity
    # A refused case was never hashed by a worker; comparing hashes would always find a change.
    for changed, what in (
        (old.options_sha256 != identity.options_sha256, "options changed"),
        ((old.model, old.weights_sha256) != (identity.model, identity.weights_sha256), "model changed"),
        (old.prompts_sha256 != identity.prompts_sha256, "prompts changed"),
        (old.image_sha256 != identity.image_sha256, "image changed"),
    ):
        if changed:
            return State.TODO, what
    if record.status is Status.FAILED:
        fits_now = record.error is not None and record.error.stage is Stage.PLAN
        if retry_failed or fits_now:
            return State.TODO, "failed before"
        return State.FAILED, "" if record.error is None else str(record.error.kind)
    for item in record.outputs:
        path = output / item.name
        if not path.is_file():
            return State.TODO, f"{OutputFormat(item.format)} is missing"
        if file_sha256(path) != item.sha256:
            return State.TODO, f"{OutputFormat(item.format)} was changed"
    return State.DONE, ""


def _seconds_a_byte(records: Sequence[CaseRecord], model: tuple[str, str]) -> float | None:
    rates = [
        sum(record.seconds.values()) / record.estimated_bytes
        for record in records
        if record.status is Status.DONE
        and (record.identity.model, record.identity.weights_sha256) == model
        and record.estimated_bytes
    ]
    return statistics.median(rates) if rates else None
