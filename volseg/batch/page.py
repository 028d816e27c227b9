"""All cases on one HTML page, for people who look through results."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from volseg.batch.options import OutputFormat
from volseg.batch.record import CaseRecord, Stage, Status

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c62828; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #81c784; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
.totals { color: GrayText; margin: 0 0 1rem; }
nav { position: sticky; top: 0; background: Canvas; padding: .6rem 0; border-bottom: 1px solid var(--line);
  z-index: 1; }
nav input { font: inherit; padding: .25rem .5rem; width: 16rem; }
nav label { margin-left: 1rem; }
article { border-bottom: 1px solid var(--line); padding: 1rem 0; display: grid; gap: .4rem 1.4rem;
  grid-template-columns: minmax(0, 1fr) minmax(0, 26rem); }
article > header { grid-column: 1 / -1; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
article h2 { font: 600 1rem/1.3 ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; }
.status { font-size: .8rem; font-weight: 600; text-transform: uppercase; letter-spacing: .04em; }
.done .status { color: var(--good); } .failed .status { color: var(--bad); }
.about { color: GrayText; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; align-self: start; }
th { text-align: right; font-weight: 500; color: GrayText; } th:first-child, td:first-child { text-align: left; }
td, th { padding: .15rem .5rem; border-bottom: 1px solid var(--soft); }
td { text-align: right; font-variant-numeric: tabular-nums; }
.error { color: var(--bad); grid-column: 1 / -1; margin: 0; overflow-wrap: anywhere; }
.files { font-size: .85rem; margin: .5rem 0 0; } .files a { margin-right: .8rem; }
a.picture img { width: 100%; max-height: 26rem; object-fit: cover; object-position: top; border-radius: 4px; }
@media (max-width: 800px) { article { grid-template-columns: 1fr; } }
"""

_SCRIPT = """
const words = document.getElementById('words'), bad = document.getElementById('bad');
function show() {
  const word = words.value.toLowerCase();
  for (const item of document.querySelectorAll('article'))
    item.hidden = !item.dataset.words.includes(word) || (bad.checked && item.className === 'done');
}
words.addEventListener('input', show); bad.addEventListener('change', show);
"""

_COLUMNS = (
    ("volume_ml", "ml", 2),
    ("longest_in_plane_mm", "in plane mm", 1),
    ("longest_3d_mm", "3D mm", 1),
    ("mean", "mean", 1),
    ("std", "std", 1),
    ("presence", "presence", 2),
)
"""Measurements that a person looks for; the table of all is in the CSV file."""


def overview_page(records: Sequence[CaseRecord], unfinished: Sequence[str] = ()) -> str:
    """The page; pictures and files are linked, so it lies beside them.

    Args:
        records: of the cases that ended.
        unfinished: ids of those that did not.
    """
    done = sum(record.status is Status.DONE for record in records)
    failed = len(records) - done
    totals = f"{done} done, {failed} failed" + (f", {len(unfinished)} not finished" if unfinished else "")
    models = sorted({record.identity.model for record in records if record.identity.model})
    # What failed is what a person has to do something about, so it comes first.
    ordered = sorted(records, key=lambda record: (record.status is Status.DONE, record.case_id))
    articles = "\n".join([_article(record) for record in ordered] + [_waiting(case_id) for case_id in unfinished])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>volseg batch: {escape(totals)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{len(records) + len(unfinished)} cases</h1><p class="totals">{escape(totals)}'
        f"{' &middot; ' + escape(', '.join(models)) if models else ''}</p>\n"
        '<nav><input id="words" type="search" placeholder="Find case or object" aria-label="Find case or object">'
        '<label><input id="bad" type="checkbox" style="width:auto"> only what is not done</label></nav>\n'
        f"{articles}\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _article(record: CaseRecord) -> str:
    names = " ".join(str(item.get("name", "")) for item in record.objects)
    size = " &times; ".join(str(n) for n in record.shape)
    about = [part for part in (escape(record.modality), size) if part]
    compute = record.seconds.get(str(Stage.COMPUTE))
    if compute is not None:
        about.append(f"{compute:.1f} s")
    body = (
        f'<p class="error">{escape(str(record.error.kind))}: {escape(record.error.message)}</p>'
        if record.error is not None
        else f"<div>{_table(record)}{_files(record)}</div>{_picture(record)}"
    )
    warnings = "".join(f'<p class="about">warning: {escape(text)}</p>' for text in record.warnings)
    return (
        f'<article class="{record.status}" data-words="{escape(f"{record.case_id} {names}".lower(), quote=True)}">'
        f'<header><h2>{escape(record.case_id)}</h2><span class="status">{record.status}</span>'
        f'<span class="about">{" &middot; ".join(about)}</span></header>{body}{warnings}</article>'
    )


def _waiting(case_id: str) -> str:
    return (
        f'<article class="waiting" data-words="{escape(case_id.lower(), quote=True)}"><header>'
        f'<h2>{escape(case_id)}</h2><span class="status">not finished</span></header></article>'
    )


def _table(record: CaseRecord) -> str:
    if not record.objects:
        return ""
    columns = [
        (name, title, digits) for name, title, digits in _COLUMNS if any(name in item for item in record.objects)
    ]
    head = "".join(f"<th>{title}</th>" for _, title, _ in columns)
    rows = []
    for item in record.objects:
        cells = "".join(f"<td>{_number(item.get(name), digits)}</td>" for name, _, digits in columns)
        rows.append(f"<tr><td>{escape(str(item.get('name', '')))}</td>{cells}</tr>")
    return f"<table><tr><th>object</th>{head}</tr>{''.join(rows)}</table>"


def _files(record: CaseRecord) -> str:
    links = "".join(
        f'<a href="{escape(item.name, quote=True)}">{escape(item.format)}</a>'
        for item in record.outputs
        if item.format != OutputFormat.OVERLAY
    )
    return f'<p class="files">{links}</p>'


def _picture(record: CaseRecord) -> str:
    for item in record.outputs:
        if item.format == OutputFormat.OVERLAY:
            name = escape(item.name, quote=True)
            alt = f"Three planes through the objects of {escape(record.case_id, quote=True)}"
            return f'<a class="picture" href="{name}"><img loading="lazy" src="{name}" alt="{alt}"></a>'
    return ""


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""
