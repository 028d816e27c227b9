"""A grounded report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from volseg.data.labelmap import LabelMap
from volseg.data.modality import Modality
from volseg.grounding.document import finding_label
from volseg.grounding.ground import GroundedFinding, Grounding, Status
from volseg.overlay import draw_overlay
from volseg.text.assertions import Assertion

if TYPE_CHECKING:
    from monai.data import MetaTensor

MAX_PICTURES = 40
"""Findings beyond these have no picture: a page has to open."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1.5rem;color:#1c2330;background:#fff}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.meta{color:#5b6472;font-size:.9rem}
.report{white-space:pre-wrap;border:1px solid #d7dce4;border-radius:6px;padding:1rem;background:#fafbfc}
.report a{color:inherit;text-decoration:none;border-bottom:3px solid;border-radius:2px;padding:0 .1em}
.report a.absent{text-decoration:line-through}.report a.uncertain{border-bottom-style:dotted}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e7ed;vertical-align:top}
td:first-child{white-space:nowrap}
td.number{text-align:right;font-variant-numeric:tabular-nums}
.dot{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}
section{border:1px solid #d7dce4;border-radius:6px;padding:1rem;margin:1rem 0}
section img{max-width:100%;height:auto;border-radius:4px;background:#000}
section h3{margin:0 0 .3rem;font-size:1.05rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.6rem 0;font-size:.92rem}
dt{color:#5b6472}dd{margin:0}
.warn{color:#8a3b00;background:#fff3e6;border-radius:4px;padding:.3rem .6rem}
@media print{section{break-inside:avoid}}
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page loads nothing and runs nothing, whatever a report contains."""

_SAID = {Assertion.PRESENT: "present", Assertion.ABSENT: "absent", Assertion.UNCERTAIN: "uncertain"}
_BECAME = {Status.FOUND: "found", Status.NOT_FOUND: "not found", Status.NOT_OFFERED: "not offered by the model"}


def draw_page(
    image: MetaTensor,
    grounding: Grounding,
    *,
    title: str = "Grounded report",
    window: str | None = None,
    modality: Modality | None = None,
) -> str:
    """The page: the report with its findings marked, a table, and three planes through each finding.

    Args:
        image: [1, I, J, K], the one that was grounded on.
        grounding: from ``ground_report``.
        title: shown at the top.
        window: see ``EncodeOptions.window``.
        modality: see ``EncodeOptions.modality``.

    Returns:
        HTML with pictures inside; no script, nothing is loaded from elsewhere.
    """
    pictures = _pictures(image, grounding, window, modality)
    card = grounding.card
    size = " x ".join(map(str, grounding.grid.shape))
    spacing = " x ".join(f"{value:.3g}" for value in grounding.grid.spacing_mm)
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="meta">model {escape(card.name)} {escape(card.version)} &middot; {size} voxels of {spacing} mm '
        "&middot; positions in RAS mm &middot; the patient's right is on the left of the pictures &middot; "
        "not for clinical use</p>",
    ]
    if card.random_weights:
        parts.append('<p class="warn">The weights of this model are random: its answers mean nothing.</p>')
    parts += ["<h2>Report</h2>", f'<div class="report">{_marked(grounding)}</div>']
    parts += ["<h2>Findings</h2>", _table(grounding)]
    parts += [_section(item, pictures.get(item.mask.object_id)) for item in grounding.findings]
    if len(pictures) == MAX_PICTURES:
        parts.append(f'<p class="meta">Only the first {MAX_PICTURES} findings have pictures.</p>')
    if grounding.problems:
        lines = "".join(f"<li>{escape(item.message)}</li>" for item in grounding.problems)
        parts.append(f"<h2>Not clear</h2><ul>{lines}</ul>")
    if grounding.unread:
        lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in grounding.unread)
        parts.append(f"<h2>Sentences without a known word</h2><ul>{lines}</ul>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _pictures(
    image: MetaTensor, grounding: Grounding, window: str | None, modality: Modality | None
) -> Mapping[int, str]:
    """Data URLs by the finding's number; findings with the same mask share one picture's work."""
    pictures: dict[int, str] = {}
    for item in grounding.findings:
        if item.status is not Status.FOUND or len(pictures) == MAX_PICTURES:
            continue
        labelmap = LabelMap.from_masks(grounding.grid, [item.mask], [finding_label(item)])
        png = draw_overlay(image, labelmap, window=window, modality=modality)
        pictures[item.mask.object_id] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return pictures


def _marked(grounding: Grounding) -> str:
    """The report's text with each finding's words linked to its section."""
    text, at, parts = grounding.text, 0, []
    for item in grounding.findings:
        finding = item.finding
        start = text.find(finding.phrase, max(finding.start, at))
        if start < 0 or start > finding.start + len(finding.sentence) or start < at:
            continue  # named by a heading, or twice in one place
        stop = start + len(finding.phrase)
        number = item.mask.object_id
        parts.append(escape(text[at:start]))
        parts.append(
            f'<a class="{finding.assertion}" href="#finding-{number}" style="border-color:{_color(item)}">'
            f"{escape(text[start:stop])}</a>"
        )
        at = stop
    return "".join(parts) + escape(text[at:])


def _table(grounding: Grounding) -> str:
    rows = []
    for item in grounding.findings:
        number = item.mask.object_id
        presence = "" if item.presence is None else f"{item.presence:.2f}"
        volume = f"{item.mask.volume_ml:.3g}" if item.status is Status.FOUND else ""
        rows.append(
            f'<tr><td><span class="dot" style="background:{_color(item)}"></span>'
            f'<a href="#finding-{number}">{number}</a></td><td>{escape(item.finding.query.describe())}</td>'
            f"<td>{_SAID[item.finding.assertion]}</td><td>{_BECAME[item.status]}</td>"
            f'<td class="number">{presence}</td><td class="number">{volume}</td></tr>'
        )
    head = "<tr><th>no.</th><th>finding</th><th>report</th><th>model</th><th>presence</th><th>ml</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _section(item: GroundedFinding, picture: str | None) -> str:
    finding, number = item.finding, item.mask.object_id
    facts = [("report", f"{_SAID[finding.assertion]}: {finding.sentence}"), ("model", _BECAME[item.status])]
    if finding.query.attributes:
        facts.append(("described as", ", ".join(finding.query.attributes)))
    if item.attribute_prompt != finding.query.describe():
        facts.append(("asked as", item.attribute_prompt))
    if item.presence is not None:
        facts.append(("presence", f"{item.presence:.2f}"))
    if item.box is not None and item.oriented_box is not None and item.key_slice is not None:
        low, high = (_numbers(corner) for corner in (item.box.low_ras_mm, item.box.high_ras_mm))
        facts.append(("volume", f"{item.mask.volume_ml:.3g} ml, {item.mask.voxels} voxels"))
        facts.append(("box", f"{low} to {high} mm"))
        sizes = " x ".join(f"{value:.1f}" for value in item.oriented_box.size_mm)
        facts.append(("oriented box", f"{sizes} mm around {_numbers(item.oriented_box.center_ras_mm)} mm"))
        key = item.key_slice
        facts.append(("key slice", f"{key.plane} {key.index} (from 0), {key.area_mm2:.0f} mm²"))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    warning = f'<p class="warn">{escape(item.message)}</p>' if item.message else ""
    shown = f'<img alt="three planes through finding {number}" src="{picture}">' if picture else ""
    return (
        f'<section id="finding-{number}"><h3><span class="dot" style="background:{_color(item)}"></span>'
        f"{number}. {escape(finding.query.describe())}</h3>{warning}<dl>{listed}</dl>{shown}</section>"
    )


def _color(item: GroundedFinding) -> str:
    return "#{:02x}{:02x}{:02x}".format(*finding_label(item).color_rgb)


def _numbers(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"
