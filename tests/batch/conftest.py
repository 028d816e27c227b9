"""A run without processes of its own, and one that has them."""

from __future__ import annotations

import pytest
from batch_models import TroubleModel

from volseg.batch import (
    CaseOptions,
    FindSettings,
    IdStyle,
    InlineExecutor,
    ModelChoice,
    OutputFormat,
    find_cases,
    make_plan,
)
from volseg.batch.run import run_batch

GB = 10**9


@pytest.fixture
def plan_of(tmp_path):
    """Plans the cases in ``tmp_path / "in"`` for ``tmp_path / "out"``."""

    def plan(model=None, formats=(OutputFormat.NIFTI,), settings=None, budget=4 * GB, workers=1, **choices):
        retry_failed = choices.pop("retry_failed", False)
        found = find_cases([tmp_path / "in"], settings or FindSettings(ids=IdStyle.NAMES))
        return make_plan(found.cases, tmp_path / "out", CaseOptions(tuple(formats), **choices),
                         (model or TroubleModel()).card, budget_bytes=budget, workers=workers,
                         retry_failed=retry_failed)  # fmt: skip

    return plan


@pytest.fixture
def run(plan_of):
    """Plans and runs in this process."""

    def run(model=None, **choices):
        model = model or TroubleModel()
        return run_batch(plan_of(model, **choices), InlineExecutor(model), ModelChoice("given"))

    return run
