"""SAM 2: volseg against transformers' session and Meta's predictor (``sam2==1.1.0``), same weights and frames.

``python benchmarks/sam2.py [--quick] [--only NAME] [-o FILE.json]`` runs everybody in turn, prints medians and the
ratio to the best peer beside its target, and writes JSON. Ratios on a CPU are of the process's CPU time, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# This folder must not stand in the path: this file would hide Meta's package of the same name.
sys.path[0] = str(REPOSITORY)
sys.path.append(str(REPOSITORY / "tests" / "networks"))
os.environ.setdefault("TQDM_DISABLE", "1")

import torch  # noqa: E402

from benchmarks.sam2_cases import CASES, Options, memory_of  # noqa: E402
from benchmarks.sam2_measure import Outcome  # noqa: E402

ON_GPU = ("one-direction", "eight-objects")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and one run, to see whether all works")
    parser.add_argument("--only", choices=sorted(CASES), action="append", help="this case only (may be repeated)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant (3)")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no further run of a case after this (5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--memory-size", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        side, count = map(int, arguments.memory_size.split(","))
        arguments.output.write_text(json.dumps({"bytes": memory_of(arguments.memory_of, side, count)}))
        return
    device = torch.device(arguments.device)
    options = Options(arguments.quick, 1 if arguments.quick else arguments.runs, device, arguments.minutes * 60)
    print(
        f"{device}, {torch.get_num_threads()} torch thread(s), torch {torch.__version__}; medians of interleaved runs"
    )
    outcomes = []
    names = arguments.only or [name for name in CASES if device.type == "cpu" or name in ON_GPU]
    for name in names:
        for outcome in CASES[name](options):
            outcomes.append(outcome)
            show(outcome)
            if arguments.output:
                arguments.output.write_text(report(outcomes, arguments))


def show(outcome: Outcome) -> None:
    verdict = "held" if outcome.held else "MISSED"
    print(f"\n{outcome.case}: {outcome.ratio:.3f} (target {outcome.target}) {verdict}, {outcome.runs} run(s) each")
    for name, value in outcome.medians.items():
        print(f"    {name:48} {value:10.3f} {outcome.unit}")
    for name, note in outcome.notes.items():
        print(f"    {name}: {note if isinstance(note, str) else format(note, '.3g')}")
    sys.stdout.flush()


def report(outcomes: list[Outcome], arguments: argparse.Namespace) -> str:
    lines = [{**asdict(outcome), "held": outcome.held} for outcome in outcomes]
    setting = {"device": arguments.device, "threads": arguments.threads, "quick": arguments.quick}
    return json.dumps({**setting, "torch": torch.__version__, "outcomes": lines}, indent=1)


if __name__ == "__main__":
    main()
