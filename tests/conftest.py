"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Several test processes share few cores; oversubscribed threads make torch tens of times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Time per example says nothing on a busy machine.
settings.register_profile("volseg", deadline=None, max_examples=50)
settings.load_profile("volseg")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public volumes beside the checkout; tests that need them are skipped where there are none."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the public volumes in ../shared/data, which stand beside a developer's checkout only")
    return folder
