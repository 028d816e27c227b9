"""Inside a worker: one model, and cases whose reading, computing and writing overlap."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from volseg.batch.failures import case_error
from volseg.batch.hashing import image_files_sha256, prompts_sha256
from volseg.batch.memory import peak_bytes, reset_peak
from volseg.batch.outputs import measure_objects, measurement_rows, remove_outputs, write_outputs
from volseg.batch.plan import model_identity
from volseg.batch.privacy import private_message
from volseg.batch.reading import read_case_image
from volseg.batch.record import CaseError, CaseRecord, Identity, Stage, Status, write_record
from volseg.batch.task import Task, WorkerSetup
from volseg.batch.watchdog import Watchdog
from volseg.errors import Cancelled, ModelError, WriteError
from volseg.prompts import PromptedObject, PromptKind, PromptSet, Text

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from volseg.data import LabelMap
    from volseg.models.base import Model

Result = TypeVar("Result")


@dataclass
class _Work:
    """A case on its way through the stages."""

    task: Task
    stage: Stage = Stage.READ
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = 0.0
    image_sha256: str = ""
    said_sha256: str = ""
    shape: tuple[int, ...] = ()
    modality: str = ""
    kinds: tuple[str, ...] = ()
    peak: int = 0
    warnings: list[str] = field(default_factory=list)


class CaseRunner:
    """Does cases with one model; ``run`` may be called from several threads, which then overlap.

    Each stage has one thread of its own: while one case is computed, the next is read and the one before is written.
    """

    def __init__(self, setup: WorkerSetup, model: Model | None = None) -> None:
        """Loads the model and the libraries, so that the first case does not wait for them.

        Args:
            setup: what to do.
            model: one that is loaded already.

        Raises:
            ModelError: it cannot be loaded.
        """
        self.setup = setup
        self.cancelled = threading.Event()
        import monai.data  # noqa: F401
        import torch

        import volseg.sessions  # noqa: F401

        torch.set_num_threads(setup.threads)
        self.model = load_chosen(setup) if model is None else model
        self._identity = model_identity(self.model.card)
        self._versions = _versions()
        self._watchdog = Watchdog(setup.timeout_s, self._overdue)
        self._threads = {
            stage: ThreadPoolExecutor(1, thread_name_prefix=str(stage), initializer=torch.set_num_threads,
                                      initargs=(setup.threads,))
            for stage in (Stage.READ, Stage.COMPUTE, Stage.WRITE)
        }  # fmt: skip
        self._working: dict[int, _Work] = {}
        self._listener = _Listener(self._working)
        logging.getLogger("volseg").addHandler(self._listener)

    def run(self, task: Task) -> CaseRecord | None:
        """Does one case and writes its sidecar; the sidecar is last, so it stands for whole outputs.

        Returns:
            What became of it; None if the run was cancelled before.
        """
        work = _Work(task)
        try:
            record = self._finish(work, *self._compute(work, *self._read(work)))
        except Cancelled:
            return None
        except Exception as error:  # a case that fails must not take others with it
            if self.cancelled.is_set():
                return None
            _free_memory()
            record = self._failed(work, case_error(error, task.case, work.stage))
        try:
            write_record(record, self.setup.output)
        except WriteError as error:
            return self._failed(work, case_error(error, task.case, Stage.WRITE))
        return record

    def cancel(self) -> None:
        """Stops computing soon; what is being written is finished."""
        self.cancelled.set()

    def close(self) -> None:
        """Ends the threads and listens to the log no more."""
        logging.getLogger("volseg").removeHandler(self._listener)
        for pool in self._threads.values():
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- stages

    def _read(self, work: _Work) -> tuple[MetaTensor, PromptSet | None]:
        case, options = work.task.case, self.setup.options

        def read() -> tuple[MetaTensor, PromptSet | None]:
            from volseg.geometry import Grid

            work.image_sha256 = image_files_sha256(case)
            work.said_sha256 = prompts_sha256(case)
            image = read_case_image(case, options.channel, options.encode.modality)
            work.shape = tuple(image.shape[1:])
            work.modality = str(image.meta.get("modality", ""))
            prompts = None if case.prompts is None else case.prompts.read(Grid.of(image), case.sources)
            return image, prompts

        return self._in_stage(work, Stage.READ, read)

    def _compute(
        self, work: _Work, image: MetaTensor, prompts: PromptSet | None
    ) -> tuple[MetaTensor, PromptSet | None, LabelMap]:
        def compute() -> tuple[MetaTensor, PromptSet | None, LabelMap]:
            work.started = time.time()
            reset_peak()
            labelmap, said = self._segment(image, prompts)
            work.peak = peak_bytes()
            work.kinds = tuple(sorted(said.kinds)) if said is not None else ()
            return image, said, labelmap

        return self._in_stage(work, Stage.COMPUTE, compute)

    def _segment(self, image: MetaTensor, prompts: PromptSet | None) -> tuple[LabelMap, PromptSet | None]:
        from volseg.sessions import Session

        options = self.setup.options
        if prompts is None and PromptKind.TEXT in self.model.card.positive:
            prompts = _all_labels(self.model, image)
        if prompts is None:
            return self._segment_unprompted(image), None
        with Session(self.model, image, options.encode, options.overlap) as session:
            session.add_prompts(prompts)
            return session.predict(self._progress, exact=options.exact), session.prompts

    def _segment_unprompted(self, image: MetaTensor) -> LabelMap:
        """For a model that segments what it knows by itself."""
        from volseg import __version__
        from volseg.data import LabelMap, Provenance, image_sha256
        from volseg.geometry import Grid

        card, grid = self.model.card, Grid.of(image)
        with self.model.encode(image, self.setup.options.encode, self._progress) as encoding:
            done = self.model.segment(
                encoding, PromptSet(grid, ()), exact=self.setup.options.exact, progress=self._progress
            )
            settings = encoding.settings
        labels = {label.value: label for label in card.labels}
        unknown = sorted({mask.object_id for mask in done.masks} - set(labels))
        if unknown:
            raise ModelError(f"model {card.name} gave objects {unknown} that are not among its labels")
        provenance = Provenance(
            f"volseg {__version__}", f"{card.name} {card.version}", card.weights_sha256, image_sha256(image), settings
        )
        chosen = [labels[mask.object_id] for mask in done.masks]
        return LabelMap.from_masks(grid, done.masks, chosen, self.setup.options.overlap, provenance)

    def _finish(self, work: _Work, image: MetaTensor, prompts: PromptSet | None, labelmap: LabelMap) -> CaseRecord:
        def write() -> CaseRecord:
            setup, case = self.setup, work.task.case
            measured = measure_objects(labelmap, image) if setup.options.measures else ()
            outputs = write_outputs(case, image, labelmap, prompts, measured, setup.options, setup.output)
            return self._record(
                work,
                status=Status.DONE,
                settings=labelmap.provenance.settings,
                objects=measurement_rows(measured),
                outputs=outputs,
            )

        record = self._in_stage(work, Stage.WRITE, write)
        return replace(record, seconds=dict(work.seconds))

    def _in_stage(self, work: _Work, stage: Stage, function: Callable[[], Result]) -> Result:
        """Runs a stage in its thread, on the clock."""

        def timed() -> Result:
            if self.cancelled.is_set():
                raise Cancelled("cancelled")
            work.stage = stage
            self._working[threading.get_ident()] = work
            start = time.perf_counter()
            try:
                with self._watchdog.watching(work, sum(work.seconds.values())):
                    return function()
            finally:
                self._working.pop(threading.get_ident(), None)
                work.seconds[str(stage)] = round(time.perf_counter() - start, 6)

        return self._threads[stage].submit(timed).result()

    # ---- records

    def _record(self, work: _Work, **fields: Any) -> CaseRecord:
        setup = self.setup
        identity = Identity(work.image_sha256, work.said_sha256, *self._identity, setup.options.sha256)
        return CaseRecord(
            case_id=work.task.case.case_id,
            identity=identity,
            run_id=setup.run_id,
            attempts=work.task.attempt,
            options=setup.options.to_json(),
            versions=self._versions,
            threads=setup.threads,
            device=setup.device,
            seconds=dict(work.seconds),
            started=work.started,
            peak_memory_bytes=work.peak,
            estimated_bytes=work.task.estimated_bytes,
            shape=work.shape,
            modality=work.modality,
            prompts=work.kinds,
            warnings=tuple(work.warnings),
            **fields,
        )

    def _failed(self, work: _Work, error: CaseError) -> CaseRecord:
        remove_outputs(self.setup.output, work.task.case.case_id)
        return self._record(work, status=Status.FAILED, error=error)

    def _overdue(self, work: Any, error: CaseError) -> None:
        """Called by the watchdog before it ends the process: the sidecar tells whose fault it was."""
        write_record(self._failed(work, error), self.setup.output)

    def _progress(self, fraction: float, text: str) -> bool:
        return not self.cancelled.is_set()


class _Listener(logging.Handler):
    """Keeps warnings with the case whose thread they came from, cleaned; nothing is printed."""

    def __init__(self, working: dict[int, _Work]) -> None:
        super().__init__(logging.WARNING)
        self._working = working

    def emit(self, record: logging.LogRecord) -> None:
        work = self._working.get(threading.get_ident())
        if work is not None:
            work.warnings.append(private_message(record.getMessage(), work.task.case))


def load_chosen(setup: WorkerSetup) -> Model:
    """Loads the model of a run.

    Raises:
        ModelError: it cannot be loaded.
    """
    choice = setup.model
    if choice.loader:
        import importlib

        module, _, function = choice.loader.partition(":")
        try:
            made: Model = getattr(importlib.import_module(module), function)(setup.device)
        except (ImportError, AttributeError) as error:
            raise ModelError(f"the loader {choice.loader!r} cannot be imported: {error}") from error
        return made
    from volseg.models.registry import load_model

    return load_model(choice.name, device=setup.device, trust=choice.trust)


def _all_labels(model: Model, image: MetaTensor) -> PromptSet:
    """Asks for every structure the model knows, by name."""
    from volseg.geometry import Grid

    objects = tuple(PromptedObject(label.value, (Text(label.name),), label.name) for label in model.card.labels)
    return PromptSet(Grid.of(image), objects)


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("volseg", "torch", "monai", "numpy", "scikit-image", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
