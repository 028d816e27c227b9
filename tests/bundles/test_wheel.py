"""The wheel brings the bundles along, and a volseg that was unpacked from it finds them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from volseg.models.bundles.metadata import read_bundle

PROGRAM = """
import volseg
from volseg.models.bundles.folders import carried_folder
print(volseg.__file__)
print(carried_folder())
print(volseg.load_model("sam2-nano", device="cpu").card.weights_sha256)
"""


def test_model_from_a_wheel(repository: Path, tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    built = next(wheel.WheelBuilder(str(repository)).build(directory=str(tmp_path), versions=["standard"]))
    site = tmp_path / "site"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "VOLSEG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    package, bundles, sha256 = done.stdout.split()
    assert Path(package) == site / "volseg" / "__init__.py"
    assert Path(bundles) == site / "volseg" / "bundles"
    assert sha256 == read_bundle(site / "volseg/bundles/sam2_prompted_segmentation").card.weights_sha256
    assert not list(site.rglob(".gitkeep"))
