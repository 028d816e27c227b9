"""One self-contained HTML page of a run."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volseg.data.labelmap import Label, LabelMap, OverlapPolicy
from volseg.errors import VolsegError
from volseg.evaluation.answers import answers_path, read_answer
from volseg.evaluation.cases import EvaluationCase
from volseg.evaluation.plots import draw_curve
from volseg.evaluation.protocols.base import Protocol
from volseg.evaluation.reference import case_window, read_case_image, read_reference
from volseg.evaluation.rows import Row

if TYPE_CHECKING:
    from volseg.data.object_mask import ObjectMask

logger = logging.getLogger(__name__)

WORST = 6
"""Objects that are shown."""

TRUTH_RGB, ANSWER_RGB = (70, 220, 110), (240, 90, 70)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #dfe3e8; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } figure { margin: 1rem 0 2rem; } figcaption { margin-bottom: .3rem; }
.failed { color: #b3261e; } code { background: #f3f4f6; padding: 0 .25rem; }
"""


def shown_step(protocol: Protocol, steps: Sequence[str]) -> str:
    """The step whose answers are kept and shown: the last of the first curve's that an object has, else its first."""
    on_curves = [step for curve in protocol.curves for step in curve.steps if step in steps]
    return on_curves[-1] if on_curves else steps[0]


def write_page(
    path: Path, summary: dict[str, Any], rows: Sequence[Row], cases: Sequence[EvaluationCase], protocol: Protocol
) -> None:
    """Writes the page.

    Args:
        path: the file; answers lie in a folder beside it.
        summary: what summary.json holds.
        rows: the scores.
        cases: all of them.
        protocol: the one that was run.

    Raises:
        WriteError: the disk does not allow it.
    """
    from volseg.data import atomic_path

    title = f"{summary['model']} on {summary['protocol']}"
    facts = {
        "model": f"{summary['model']} {summary['model_version']}, weights {summary['model_sha256'][:12] or 'none'}",
        "protocol": f"{summary['protocol']}, version {summary['protocol_version']}",
        "cases": f"{summary['cases']}, data {summary['data_sha256'][:12]}",
        "images": "replaced by a constant (blank test)" if summary["blank"] else "as they are",
        "seed": summary["seed"],
        "volseg": summary["volseg"],
        "not asked": ", ".join(summary["not_served"]) or "nothing",
    }
    parts = [f"<h1>{escape(title)}</h1>", _table(("", ""), [(key, str(value)) for key, value in facts.items()])]
    for curve in protocol.curves:
        picture = draw_curve(rows, curve)
        if picture is not None:
            parts.append(f"<h2>Score per step</h2>{_image(picture, curve.name)}")
    parts += [_group(name, group) for name, group in summary["groups"].items()]
    parts += _failures(summary["failures"])
    parts += _worst(path.parent, rows, cases, protocol)
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    with atomic_path(path) as partial:
        partial.write_text(html, encoding="utf-8")


def _group(name: str, group: dict[str, Any]) -> str:
    def text(interval: dict[str, Any] | None, digits: int = 3) -> str:
        if interval is None:
            return ""
        ends = "" if interval["low"] is None else f" [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"
        return f"{interval['mean']:.{digits}f}{ends}"

    header = ("step", "Dice [95 %]", "NSD 2 mm [95 %]", "Dice in extent", "slices past end", "s", "peak MiB", "empty",
              "failed")  # fmt: skip
    lines = []
    for step, scores in group["steps"].items():
        past = scores["slices_past_end"]
        lines.append((step, text(scores["dice"]), text(scores["nsd"]), f"{scores['dice_in_extent']['mean']:.3f}",
                      "" if past is None else f"{past['mean']:.1f}", f"{scores['seconds']['mean']:.2f}",
                      f"{scores['peak_mib']:.0f}", str(scores["empty"]), str(scores["failed"])))  # fmt: skip
    areas = "".join(
        f"<p>{escape(curve)}: DSC AUC {text(found['dsc_auc'])}, NSD AUC {text(found['nsd_auc'])} (of 4)</p>"
        for curve, found in group["curves"].items()
    )
    size = f"{group['cases']} cases, {group['objects']} objects"
    return f"<h2>{escape(name)}</h2><p>{size}</p>{_table(header, lines)}{areas}"


def _failures(failures: list[dict[str, Any]]) -> list[str]:
    if not failures:
        return []
    items = "".join(
        f"<li>{escape(str(one['case']))}, object {one['object']}, {escape(one['step'])}: {escape(one['error'])}</li>"
        for one in failures
    )
    return [f'<h2 class="failed">Failed, scored 0</h2><ul>{items}</ul>']


def _worst(folder: Path, rows: Sequence[Row], cases: Sequence[EvaluationCase], protocol: Protocol) -> list[str]:
    steps = list(dict.fromkeys(row.step for row in rows))
    if not steps:
        return []
    step = shown_step(protocol, steps)
    ranked = sorted((row for row in rows if row.step == step), key=lambda row: row.dice)[:WORST]
    by_id = {case.case_id: case for case in cases}
    parts = [f"<h2>Worst at step <code>{escape(step)}</code></h2><p>Green: reference. Red: answer.</p>"]
    for row in ranked:
        caption = f"{row.case}, {row.name}: Dice {row.dice:.3f}, NSD {row.nsd:.3f}"
        if row.error:
            caption += f" ({row.error})"
        try:
            picture = _image(_overlay(folder, by_id[row.case], row), caption)
        except (VolsegError, OSError, ValueError) as error:
            logger.warning("case %s cannot be drawn: %s", row.case, error)
            picture = f'<p class="failed">cannot be drawn: {escape(str(error))}</p>'
        parts.append(f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>")
    return parts


def _overlay(folder: Path, case: EvaluationCase, row: Row) -> bytes:
    from volseg.overlay import draw_overlay

    reference = read_reference(case)
    truth = reference.objects[row.object - 1].truth
    answer = read_answer(answers_path(folder, case.case_id), row.object, reference.grid)
    pairs: list[tuple[Label, ObjectMask]] = [(Label(1, "reference", TRUTH_RGB), truth)]
    if answer is not None and answer.voxels:
        pairs.append((Label(2, "answer", ANSWER_RGB), answer))
    labels, masks = zip(*pairs, strict=True)
    labelmap = LabelMap.from_masks(reference.grid, masks, labels, OverlapPolicy.LAYERS)
    image = read_case_image(case)
    return draw_overlay(image, labelmap, window=case_window(case), modality=case.modality)


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header) if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"
