"""Peak memory of a large volume, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
import numpy as np, torch
from monai.data import MetaTensor
from volseg.data.labelmap import Label, LabelMap
from volseg.geometry import Frame, Grid
from volseg.models.options import EncodeOptions
from volseg.models.registry import load_model
from volseg.prompts import Box, PromptSet

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

size, slices = int(sys.argv[1]), int(sys.argv[2])
model = load_model("sam2-nano", device="cpu")
warm = MetaTensor(torch.zeros(1, 32, 32, 4, dtype=torch.int16), affine=torch.eye(4))
model.segment(model.encode(warm), PromptSet.of(Grid.of(warm), [Box((4, 4, 2), (20, 20, 2), Frame.IJK)]))
loaded = peak()

array = np.zeros((slices, size, size), dtype=np.int16)
yy, xx = np.mgrid[:size, :size]
for k in range(slices):
    array[k] = np.where((xx - size // 2) ** 2 + (yy - size // 2) ** 2 < (size // 8) ** 2, 300, -200)
image = MetaTensor(torch.from_numpy(array.transpose(2, 1, 0))[None], affine=np.diag([-1.0, -1, 1, 1]))
half, low, high = slices // 2, size // 2 - size // 8, size // 2 + size // 8
prompts = PromptSet.of(Grid.of(image), [Box((low, low, half), (high, high, half), Frame.IJK)])
result = model.segment(model.encode(image, EncodeOptions(window="-250,350")), prompts)
labels = LabelMap.from_masks(Grid.of(image), result.masks, [Label(1, "tube", (255, 0, 0))])
print(json.dumps({"peak": peak() - loaded, "image": array.nbytes, "labels": labels.array.nbytes}))
"""


def measure(size: int, slices: int) -> dict[str, int]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(size), str(slices)], capture_output=True, text=True, check=True
    )
    result: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return result


@pytest.mark.accept
def test_a_volume_of_1000_slices_from_one_box() -> None:
    full, half = measure(512, 1000), measure(512, 500)
    assert full["peak"] <= 1.6e9
    added = full["peak"] - half["peak"]
    assert added <= 1.15 * (full["image"] + full["labels"] - half["image"] - half["labels"])


def test_memory_grows_by_no_more_than_image_and_labels() -> None:
    # 32 MB beyond: allocators round, and these volumes are small. What huge pages add differs from run to run by
    # tens of MB, so the least of a few counts.
    large, small = [measure(256, 240)], [measure(256, 120)]
    beyond = large[0]["image"] + large[0]["labels"] - small[0]["image"] - small[0]["labels"]
    for _ in range(5):
        added = min(one["peak"] for one in large) - min(one["peak"] for one in small)
        if added <= 1.15 * beyond + 32e6:
            break
        large.append(measure(256, 240))
    assert added <= 1.15 * beyond + 32e6
