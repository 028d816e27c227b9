"""Peak memory of reading and writing, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss and /proc are Linux's")

MAKE = """
import sys, nibabel, numpy as np
shape = tuple(int(n) for n in sys.argv[2].split(","))
plane = np.random.default_rng(0).integers(-1000, 1000, shape[:2]).astype(np.int16)
array = np.broadcast_to(plane[:, :, None], shape)
nibabel.Nifti1Image(array, np.diag((-0.7, -0.7, 1.0, 1.0)), dtype=np.int16).to_filename(sys.argv[1])
"""
# VmHWM is the peak since it was last reset, so imports and warming up do not count.
PEAK = """
import re, sys
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def reset():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status("VmRSS")
"""
READ = (
    PEAK
    + """
from volseg.data import image_sha256, read_image
read_image(sys.argv[2])
before = reset()
image = read_image(sys.argv[1])
image_sha256(image)
print((status("VmHWM") - before) / (image.numel() * image.element_size()))
"""
)
WRITE = (
    PEAK
    + """
import numpy as np
from pathlib import Path
from volseg.data import LabelMap, write_labelmap
from volseg.geometry import Grid
shape = tuple(int(n) for n in sys.argv[2].split(","))
path = Path(sys.argv[1])
small = LabelMap(Grid((2, 2, 2), np.eye(4)), (np.ones((2, 2, 2), np.uint16),), ())
write_labelmap(small, path)
before = reset()
array = np.zeros(shape, np.uint16, order="F")
array[::3] = 300
array[:, ::7] = 2
write_labelmap(LabelMap(Grid(shape, np.eye(4)), (array,), ()), path)
print((status("VmHWM") - before) / array.nbytes)
"""
)
FULL = "512,512,1000"
SMALL = "256,256,600"


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [SMALL, pytest.param(FULL, marks=pytest.mark.accept)])
def test_reading_takes_little_more_than_the_image(suffix: str, shape: str, tmp_path: Path) -> None:
    run(MAKE, tmp_path / f"image{suffix}", shape)
    run(MAKE, tmp_path / f"small{suffix}", "8,8,8")
    assert float(run(READ, tmp_path / f"image{suffix}", tmp_path / f"small{suffix}")) <= 1.3


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".seg.nrrd"])
@pytest.mark.parametrize("shape", [SMALL, pytest.param(FULL, marks=pytest.mark.accept)])
def test_writing_takes_little_more_than_the_labels(suffix: str, shape: str, tmp_path: Path) -> None:
    assert float(run(WRITE, tmp_path / f"labels{suffix}", shape)) <= 1.3
