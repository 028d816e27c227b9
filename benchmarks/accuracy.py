"""The table of accuracies: sam2-nano beside baselines, on patients it never saw.

    python benchmarks/accuracy.py --data ../shared/data --mobilesam ../shared/weights/mobilesam_onnx -o accuracy

Runs ``volseg evaluate`` with what is missing under the output folder and prints Markdown for docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.evaluation.cases import EvaluationCase, find_cases, limited
from volseg.evaluation.protocols import find_protocol
from volseg.evaluation.run import SUMMARY_FILE, evaluate
from volseg.evaluation.validation import validation_cases
from volseg.models.registry import load_model

MODELS = ("sam2-nano", "mobilesam", "random-walker", "region-growing", "ellipse", "ellipsoid")
BLIND = ("ellipse", "ellipsoid")
"""Models that do not look at the image: a blank one changes nothing."""


@dataclass(frozen=True)
class Run:
    """One call of ``evaluate``: folder name, protocol, parts, whether on blank images."""

    name: str
    protocol: str
    parts: tuple[str, ...] | None = None
    blank: bool = False


RUNS = (
    Run("static", "static", ("box", "box+clicks", "click", "box3d")),
    Run("blank", "static", ("box", "click", "box3d"), blank=True),
    Run("cvpr25", "cvpr25-interactive"),
)

HEADER = ("model", "n", "one box", "one click", "box + 5 clicks", "3D box", "box, extent given", "box, blank image",
          "slices past each end", "DSC AUC", "NSD AUC", "s a step")  # fmt: skip


def main() -> None:
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.cases is not None:
        every = find_cases(arguments.cases)
    else:
        every = validation_cases(arguments.training_config, arguments.data)
    names = [name for name in arguments.models if name != "mobilesam" or arguments.mobilesam is not None]
    for name in names:
        cases = limited(every, arguments.mobilesam_limit if name == "mobilesam" else arguments.limit)
        for run in _runs(name, arguments.protocols):
            _run(name, run, cases, arguments)
    print(table(arguments.output, arguments.models))


def table(folder: Path, models: Iterable[str]) -> str:
    """Markdown, a table a group; runs that are not there are left out."""
    found = {
        model: {run.name: json.loads(path.read_text()) for run in RUNS if (path := _path(folder, model, run)).exists()}
        for model in models
    }
    groups = list(dict.fromkeys(g for runs in found.values() for summary in runs.values() for g in summary["groups"]))
    parts = []
    for group in sorted(groups, key=lambda name: name == "all"):
        lines = ["| " + " | ".join(HEADER) + " |", "| " + " | ".join("---" for _ in HEADER) + " |"]
        for model, runs in found.items():
            if any(group in summary["groups"] for summary in runs.values()):
                of_group = {name: summary["groups"].get(group, {}) for name, summary in runs.items()}
                lines.append("| " + " | ".join(_line(model, of_group)) + " |")
        parts.append(f"### {group}\n\n" + "\n".join(lines))
    note = "Means over n cases with 95 % bootstrap intervals; Dice in 3D unless said otherwise; AUC of at most 4."
    return "\n\n".join([*parts, note])


def _line(model: str, runs: dict[str, Any]) -> list[str]:
    static, blank, cvpr = (runs.get(run.name, {}) for run in RUNS)
    steps, curves = static.get("steps", {}), cvpr.get("curves", {}).get("clicks", {})
    blank_box = steps.get("box") if model in BLIND else blank.get("steps", {}).get("box")
    box = steps.get("box") or {}
    times = [(one["seconds"]["mean"], one["seconds"]["n"]) for one in steps.values()]
    total = sum(n for _, n in times)
    return [
        model,
        str(static.get("cases") or cvpr.get("cases") or ""),
        *(_text((steps.get(name) or {}).get("dice")) for name in ("box", "click", "box+5", "box3d")),
        _text(box.get("dice_in_extent")),
        _text((blank_box or {}).get("dice")),
        _text(box.get("slices_past_end"), digits=1),
        _text(curves.get("dsc_auc")),
        _text(curves.get("nsd_auc")),
        f"{math.fsum(mean * n for mean, n in times) / total:.2f}" if total else "",
    ]


def _text(interval: dict[str, Any] | None, digits: int = 2) -> str:
    if not interval:
        return "-"
    ends = "" if interval["low"] is None else f" [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"
    return f"{interval['mean']:.{digits}f}{ends}"


def _runs(model: str, protocols: list[str]) -> list[Run]:
    return [
        run
        for run in RUNS
        if run.name in protocols and not (model in BLIND and (run.blank or run.protocol == "cvpr25-interactive"))
    ]


def _run(name: str, run: Run, cases: tuple[EvaluationCase, ...], arguments: argparse.Namespace) -> None:
    path = _path(arguments.output, name, run)
    model = load_model(arguments.mobilesam if name == "mobilesam" else name, device=arguments.device)
    logging.info("%s: %s on %d cases", name, run.name, len(cases))
    evaluate(model, cases, find_protocol(run.protocol), path.parent, parts=run.parts, blank=run.blank)


def _path(folder: Path, model: str, run: Run) -> Path:
    return folder / model / run.name / SUMMARY_FILE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, help="folder of the training configuration's paths")
    where.add_argument("--cases", type=Path, help="cases as volseg evaluate takes them, instead of validation patients")
    parser.add_argument("--training-config", default="sam2-nano")
    parser.add_argument("--mobilesam", type=Path, help="folder of MobileSAM's ONNX files; left out without")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--protocols", nargs="+", default=[run.name for run in RUNS], metavar="static|blank|cvpr25")
    parser.add_argument("--limit", type=int, help="cases a model, taken in turn from every group")
    parser.add_argument("--mobilesam-limit", type=int, default=4, help="of MobileSAM, which takes long (default 4)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
