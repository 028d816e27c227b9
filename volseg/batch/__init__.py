"""Many cases: found, planned, computed in workers, and taken up again after anything."""

from volseg.batch.archive import SeriesFilter
from volseg.batch.case import Case, FileSource, PromptSource, SeriesSource
from volseg.batch.executor import Executor
from volseg.batch.find import FindSettings, find_cases
from volseg.batch.ids import IdStyle
from volseg.batch.inline import InlineExecutor
from volseg.batch.local import LocalExecutor
from volseg.batch.options import CaseOptions, ModelChoice, OutputFormat
from volseg.batch.plan import Plan, make_plan
from volseg.batch.record import CaseRecord, Status
from volseg.batch.run import Progress, run_batch
from volseg.batch.shard import Shard
from volseg.batch.summary import Summary

__all__ = [
    "Case",
    "CaseOptions",
    "CaseRecord",
    "Executor",
    "FileSource",
    "FindSettings",
    "IdStyle",
    "InlineExecutor",
    "LocalExecutor",
    "ModelChoice",
    "OutputFormat",
    "Plan",
    "Progress",
    "PromptSource",
    "SeriesFilter",
    "SeriesSource",
    "Shard",
    "Status",
    "Summary",
    "find_cases",
    "make_plan",
    "run_batch",
]
