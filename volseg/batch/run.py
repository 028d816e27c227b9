"""Doing what the plan says: dispatch under the memory budget, retries, sidecars, progress."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from volseg.batch.executor import Event, Executor, Finished
from volseg.batch.memory import WORKER_BYTES
from volseg.batch.options import ModelChoice
from volseg.batch.outputs import remove_outputs, sweep_partial
from volseg.batch.plan import Plan, PlannedCase, State, identity_of
from volseg.batch.record import FOLDER, CaseError, CaseRecord, ErrorKind, Stage, Status, read_record, write_record
from volseg.batch.summary import Summary, write_summary
from volseg.batch.task import Task, WorkerSetup
from volseg.errors import WriteError

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""A case is given up when the worker died each time. The first time it may have been another case's fault; after that
the case is alone in its worker."""

POLL_S = 0.2
PATIENCE_S = 15.0
"""What is being written when the run is stopped has this long."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        total: cases of the plan that are to be done.
        done: ended well.
        failed: ended otherwise.
        seconds: since the run began.
        eta_s: until the end, None before the second case ended.
    """

    total: int
    done: int
    failed: int
    seconds: float
    eta_s: float | None

    @property
    def cases_per_minute(self) -> float:
        """Throughput so far."""
        return 60 * (self.done + self.failed) / self.seconds if self.seconds > 0 else 0.0


ProgressListener: TypeAlias = Callable[[Progress], None]
"""Told after every event, and now and then."""


def run_batch(
    plan: Plan,
    executor: Executor,
    model: ModelChoice,
    *,
    threads: int = 1,
    timeout_s: float | None = None,
    progress: ProgressListener | None = None,
    debug: bool = False,
) -> Summary:
    """Does the cases of a plan and writes the tables and pages of all of them.

    Args:
        plan: what to do.
        executor: where; closed at the end.
        model: the plan's, and how it is loaded.
        threads: a worker's, for computing.
        timeout_s: seconds a case may take, its waiting not counted.
        progress: told how far it is.
        debug: let libraries print in the workers.

    Returns:
        What became of every case. After ``KeyboardInterrupt``, which this catches, ``interrupted`` is set.

    Raises:
        PromptError: nothing is said about any case; see ``Plan.check``.
        CapabilityError: the model serves no case's prompts.
        ModelError: no worker can load the model.
        WriteError: the output folder cannot be written to.
    """
    plan.check()
    try:
        (plan.output / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"the output folder cannot be made: {error.strerror}") from error
    todo, refused = plan.of(State.TODO), plan.of(State.REFUSED)
    run = _Run(plan, executor, secrets.token_hex(8), progress)
    run.sweep({item.case.case_id for item in (*todo, *refused)})
    run.refuse(refused)
    interrupted = False
    if todo:
        setup = WorkerSetup(model, plan.options, plan.output, run.run_id, threads, timeout_s=timeout_s, debug=debug)
        try:
            executor.start(setup)
            run.loop()
        except KeyboardInterrupt:
            interrupted = True
            run.stop()
        finally:
            executor.close()
            run.sweep(set(run.attempts))  # what workers left that died
    records = {**{item.case.case_id: item.record for item in plan.cases if item.record is not None}, **run.records}
    kept = tuple(
        records[item.case.case_id]
        for item in plan.cases
        if item.case.case_id in records and (item.state is not State.TODO or item.case.case_id in run.records)
    )
    summary = Summary(
        run_id=run.run_id,
        records=kept,
        unfinished=tuple(item.case.case_id for item in todo if item.case.case_id not in run.records),
        seconds=time.perf_counter() - run.start,
        restarts=run.lost,
        interrupted=interrupted,
        workers=executor.workers,
    )
    write_summary(summary, plan)
    return summary


@dataclass
class _Run:
    """A run while it runs."""

    plan: Plan
    executor: Executor
    run_id: str
    progress: ProgressListener | None
    start: float = field(default_factory=time.perf_counter)
    records: dict[str, CaseRecord] = field(default_factory=dict)
    in_flight: dict[str, PlannedCase] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    pending: deque[PlannedCase] = field(default_factory=deque)
    lost: int = 0
    first_ended: tuple[int, float] | None = None
    """How many had ended when the first end was noticed, and when that was."""

    def refuse(self, refused: tuple[PlannedCase, ...]) -> None:
        """Cases that the plan says cannot be done fail by name, once for the same reason."""
        for item in refused:
            assert item.error is not None
            before = item.record
            identity = identity_of(item.case, self.plan.model, self.plan.options)
            if before is None or (before.error, before.identity) != (item.error, identity):
                self._fail(item, item.error)

    def loop(self) -> None:
        self.pending = deque(self.plan.of(State.TODO))
        while self.pending or self.in_flight:
            self._dispatch()
            for event in self.executor.poll(POLL_S):
                self._handle(event)
            self._tell()

    def stop(self) -> None:
        """Takes what still ends; a second Ctrl-C does not wait."""
        try:
            for event in self.executor.stop(PATIENCE_S):
                if isinstance(event, Finished):
                    self._handle(event)
        except KeyboardInterrupt:
            pass
        # What a killed worker wrote without saying so is whole all the same.
        for case_id in list(self.in_flight):
            record = read_record(self.plan.output, case_id)
            if record is not None and record.run_id == self.run_id:
                self._handle(Finished(record))

    def sweep(self, case_ids: set[str]) -> None:
        """Removes files of these cases that were begun and not finished, while no worker writes them."""
        sweep_partial(self.plan.output, self.plan.output / FOLDER, case_ids)

    def _dispatch(self) -> None:
        """In order, so that a large case gets its turn: it waits for memory, and those behind it wait with it."""
        while self.pending:
            item = self.pending[0]
            task = Task(item.case, self.attempts[item.case.case_id] + 1, item.size.bytes)
            if not self._fits(item) or not self.executor.takes(task):
                return
            self.pending.popleft()
            self.in_flight[item.case.case_id] = item
            self.attempts[item.case.case_id] += 1
            self.executor.submit(task)

    def _fits(self, item: PlannedCase) -> bool:
        held = sum(other.size.bytes for other in self.in_flight.values())
        room = self.plan.budget_bytes - WORKER_BYTES * self.executor.workers
        return not self.in_flight or held + item.size.bytes <= room

    def _handle(self, event: Event) -> None:
        if isinstance(event, Finished):
            if self.in_flight.pop(event.record.case_id, None) is not None:
                self.records[event.record.case_id] = event.record
            return
        item = self.in_flight.pop(event.case_id, None)
        if item is None:
            return
        record = read_record(self.plan.output, event.case_id)
        attempt = self.attempts[event.case_id]
        if record is not None and (record.run_id, record.attempts) == (self.run_id, attempt):
            # It ended, and the worker died before it could say so; or the watchdog ended the worker for this case.
            self.records[event.case_id] = record
            return
        self.lost += 1
        logger.info("a worker %s with case %s in it (attempt %d)", event.reason, event.case_id, attempt)
        if attempt < MAX_ATTEMPTS:
            self.pending.append(item)
            return
        message = f"its worker {event.reason}; {attempt} attempts, the last ones with no other case beside it"
        self._fail(item, CaseError(ErrorKind.WORKER_DIED, message, Stage.COMPUTE))

    def _fail(self, item: PlannedCase, error: CaseError) -> None:
        case_id = item.case.case_id
        record = CaseRecord(
            case_id=case_id,
            status=Status.FAILED,
            identity=identity_of(item.case, self.plan.model, self.plan.options),
            run_id=self.run_id,
            attempts=self.attempts[case_id],
            options=self.plan.options.to_json(),
            estimated_bytes=item.size.bytes,
            shape=item.size.shape,
            modality=item.size.modality,
            error=error,
        )
        remove_outputs(self.plan.output, case_id)
        write_record(record, self.plan.output)
        self.records[case_id] = record

    def _tell(self) -> None:
        if self.progress is None:
            return
        todo = {item.case.case_id for item in self.plan.of(State.TODO)}
        ended = [record for case_id, record in self.records.items() if case_id in todo]
        failed = sum(record.status is Status.FAILED for record in ended)
        seconds = time.perf_counter() - self.start
        left = len(todo) - len(ended)
        if ended and self.first_ended is None:
            self.first_ended = (len(ended), seconds)
        eta = 0.0 if left == 0 else None
        if left and self.first_ended is not None and len(ended) > self.first_ended[0]:
            # Loading the model is over by the time the first case ends, so it is not counted for those to come.
            eta = (seconds - self.first_ended[1]) / (len(ended) - self.first_ended[0]) * left
        self.progress(Progress(len(todo), len(ended) - failed, failed, seconds, eta))
