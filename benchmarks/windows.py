"""Sliding windows against MONAI: time and peak memory, with the same network and the same output.

    python benchmarks/windows.py time            2 and 100 classes, a small U-Net
    python benchmarks/windows.py memory          120 classes on 512x512x600, a network that costs nothing
    python benchmarks/windows.py queries         1, 10 and 100 queries of a text-query network
    python benchmarks/windows.py all --reduced   the same on smaller volumes

Each measurement runs in a process of its own. Memory is what the process had resident at most, less what it had before
inference began; process_peak_gb is all of it, with the image and the libraries. One thread, unless --threads says
otherwise.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

OURS, MONAI = "volseg", "monai"


def cheap(classes: int) -> Callable[[Tensor], Tensor]:
    """Logits without a network: every class prefers another intensity. One pass over them, as a last layer takes."""
    centres = torch.linspace(0, 1, classes)
    line = torch.stack([centres, -(centres**2) / 2], dim=1)

    def network(windows: Tensor) -> Tensor:
        values = windows[:, :1].flatten(2)
        logits = torch.matmul(line, torch.cat([values, torch.ones_like(values)], dim=1))
        return torch.unflatten(logits, 2, windows.shape[2:])

    return network


def unet(classes: int) -> Callable[[Tensor], Tensor]:
    """A small network of the usual kind."""
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    network = UNet(3, 1, classes, (16, 32, 64), (2, 2)).eval()
    result: Callable[[Tensor], Tensor] = network
    return result


def labels(engine: str, image: Tensor, network: Callable[[Tensor], Tensor], window: int, overlap: float) -> Tensor:
    """One label for each voxel."""
    if engine == OURS:
        from volseg.inferers.windows import SlidingWindows, WindowSettings

        return SlidingWindows(WindowSettings((window,) * 3, overlap)).labels(image, network)
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        logits = sliding_window_inference(image[None], (window,) * 3, 1, network, overlap=overlap, mode="gaussian")
        return logits[0].argmax(dim=0).to(torch.uint8)  # type: ignore[union-attr]


def measured(case: dict[str, object]) -> dict[str, float]:
    """Runs one case in this process."""
    torch.set_num_threads(int(str(case["threads"])))
    shape, classes = case["shape"], int(str(case["classes"]))
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))  # type: ignore[misc]
    network = (cheap if case["network"] == "cheap" else unet)(classes)
    # What is imported and compiled on first use is not what is compared.
    labels(str(case["engine"]), image[:, :32, :32, :32], network, 16, 0.25)
    before = resident()
    start, cpu = time.perf_counter(), time.process_time()
    result = labels(str(case["engine"]), image, network, int(str(case["window"])), 0.25)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_gb": (peak - before) / 1e9,
        "process_peak_gb": peak / 1e9,
        "checksum": float(result.double().sum()),
    }


def queries(counts: list[int], threads: int, rounds: int = 2) -> dict[str, float]:
    """CPU seconds of a text-query network for different numbers of queries, the best of some rounds."""
    from volseg.data.modality import Modality
    from volseg.inferers.text_query.search import NetworkPredictor
    from volseg.inferers.windows import LabelVolume, SlidingWindows, WindowSettings
    from volseg.networks.text_query.config import TextQuerySpec
    from volseg.networks.text_query.network import TextQueryNetwork

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    concepts = tuple(f"structure {n}" for n in range(max(counts)))
    # As text-nano has them: presence with a layer and a scout of its own.
    spec = TextQuerySpec(concepts=concepts, presence_layers=1, scout_widths=(16, 32, 64, 96))
    network = TextQueryNetwork(spec).eval()
    image = torch.rand(2, 96, 96, 96)
    windows = SlidingWindows(WindowSettings((64, 64, 64), 0.5))
    best = dict.fromkeys(counts, float("inf"))
    for _ in range(rounds):
        for count in counts:
            with torch.inference_mode():
                predictor = NetworkPredictor(network, [(one,) for one in concepts[:count]], Modality.MR, 1.5)
            start = time.process_time()
            windows.run(image, predictor, LabelVolume((96, 96, 96), background=False))
            best[count] = min(best[count], time.process_time() - start)
    return {f"{count} queries": seconds / best[counts[0]] for count, seconds in best.items()} | {
        "cpu_seconds of 1": best[counts[0]]
    }


def resident() -> float:
    """Bytes resident now."""
    from pathlib import Path

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def in_own_process(case: dict[str, object]) -> dict[str, float]:
    """Runs a case in a fresh interpreter."""
    call = [sys.executable, __file__, "case", "--case", json.dumps(case)]
    done = subprocess.run(call, check=False, capture_output=True, text=True)
    if done.returncode:
        return {"failed": float(done.returncode)}
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(title: str, case: dict[str, object], engines: tuple[str, ...] = (OURS, MONAI)) -> None:
    """Prints one comparison."""
    results = {engine: in_own_process({**case, "engine": engine}) for engine in engines}
    for engine, numbers in results.items():
        print(f"{title} {engine}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)
    if len(results) == 2 and all("failed" not in numbers for numbers in results.values()):
        ours, theirs = results[OURS], results[MONAI]
        same = ours["checksum"] == theirs["checksum"]
        print(
            f"{title}: wall ratio {ours['seconds'] / theirs['seconds']:.3f}, "
            f"CPU ratio {ours['cpu_seconds'] / theirs['cpu_seconds']:.3f}, "
            f"memory ratio {ours['peak_gb'] / theirs['peak_gb']:.3f}, same labels: {same}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "memory", "queries", "all", "case"])
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", default="{}")
    given = parser.parse_args()
    if given.what == "case":
        print(json.dumps(measured(json.loads(given.case))))
        return
    if given.what in ("time", "all"):
        side = 96 if given.reduced else 160
        for classes in (2, 100):
            case = {"shape": [side] * 3, "classes": classes, "window": 64, "network": "unet", "threads": given.threads}
            compare(f"{classes} classes on {side}^3", case)
    if given.what in ("memory", "all"):
        shape = [160, 160, 200] if given.reduced else [512, 512, 600]
        window = 32 if given.reduced else 96
        case = {"shape": shape, "classes": 120, "window": window, "network": "cheap", "threads": given.threads}
        engines = (OURS, MONAI) if given.reduced else (OURS,)
        compare(f"120 classes on {'x'.join(map(str, shape))}", case, engines)
        if not given.reduced:
            # More than the machine has: MONAI keeps the logits of all classes, and the weights, in float32.
            needed = (120 + 1) * 512 * 512 * 600 * 4 / 1e9
            print(f"MONAI would keep {needed:.1f} GB for sums and weights alone (computed)", flush=True)
    if given.what in ("queries", "all"):
        ratios = queries([1, 10, 100], given.threads)
        print("text-query network: " + ", ".join(f"{name} {value:.3f}" for name, value in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
