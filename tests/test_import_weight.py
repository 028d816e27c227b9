"""Rooms that ``volseg --help`` and every front end touch load nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "transformers", "SimpleITK", "itk", "skimage", "matplotlib", "napari", "ray")


@pytest.mark.parametrize(
    "module",
    [
        "volseg",
        "volseg.geometry",
        "volseg.prompts",
        "volseg.data",
        "volseg.models.base",
        "volseg.text.report",
        "volseg.batch",
        "volseg.server",
    ],
)
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
