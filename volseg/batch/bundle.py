"""A MONAI bundle's ``batch_inference``: a data list through the bundle's own model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volseg.batch.find import FindSettings, find_cases
from volseg.batch.inline import InlineExecutor
from volseg.batch.memory import default_budget_bytes
from volseg.batch.options import CaseOptions, ModelChoice, OutputFormat
from volseg.batch.plan import make_plan
from volseg.batch.run import run_batch
from volseg.errors import VolsegError
from volseg.models.options import EncodeOptions

if TYPE_CHECKING:
    from volseg.batch.summary import Summary
    from volseg.models.base import Model


class BatchError(VolsegError, RuntimeError):
    """A batch came to its end and some of its cases failed; the message names them."""


@dataclass(frozen=True)
class BundleBatch:
    """What a bundle's configuration says about a batch.

    Attributes:
        model: the bundle's, loaded.
        datalist: JSON list of ``{"image": ..., "prompts": ...}``; paths start from its folder.
        key: which list of the file.
        output: folder for the results.
        formats: see ``OutputFormat``.
        window: as for ``volseg segment``.
        plane: likewise.
        modality: likewise.
        retry_failed: do cases again that failed before.
    """

    model: Model
    datalist: str
    key: str
    output: str
    formats: tuple[str, ...] = ("nifti",)
    window: str | None = None
    plane: str | None = None
    modality: str | None = None
    retry_failed: bool = False

    def run(self) -> Summary:
        """Does what ``volseg batch`` would do, in this process.

        Raises:
            BatchError: cases failed; the others have their results.
            VolsegError: the list cannot be read, or nothing is in it.
        """
        import torch

        from volseg.data import Modality
        from volseg.geometry import Plane

        output = Path(self.output)
        encode = EncodeOptions(
            self.window,
            None if self.plane is None else Plane(self.plane),
            None if self.modality is None else Modality(self.modality),
        )
        options = CaseOptions(tuple(OutputFormat(name) for name in self.formats), encode)
        found = find_cases([self.datalist], FindSettings(list_key=self.key, leave_out=output))
        card = self.model.card
        plan = make_plan(
            found.cases,
            output,
            options,
            card,
            budget_bytes=default_budget_bytes(),
            retry_failed=self.retry_failed,
        )
        summary = run_batch(plan, InlineExecutor(self.model), ModelChoice(card.name), threads=torch.get_num_threads())
        if summary.interrupted:
            raise KeyboardInterrupt
        if summary.failed:
            listed = "; ".join(f"{item.case_id}: {item.error.message}" for item in summary.failed if item.error)
            raise BatchError(f"{len(summary.failed)} of {len(summary.records)} cases failed: {listed}")
        return summary
