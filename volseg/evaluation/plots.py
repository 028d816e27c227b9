"""Curves of scores over steps, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from volseg.evaluation.intervals import bootstrap
from volseg.evaluation.protocols.base import Curve
from volseg.evaluation.rows import Row
from volseg.evaluation.summary import grouped, per_case

INCHES = (9.0, 3.4)
DPI = 110


def draw_curve(rows: Sequence[Row], curve: Curve) -> bytes | None:
    """Mean Dice and NSD at every step of a curve, a line a group, with intervals; None where there are no scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    on_curve = [row for row in rows if row.step in curve.steps]
    steps = [step for step in curve.steps if any(row.step == step for row in on_curve)]
    if len(steps) < 2:
        return None
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, score) in enumerate((("Dice", lambda row: row.dice), ("NSD at 2 mm", lambda row: row.nsd))):
        axes = figure.add_subplot(1, 2, place + 1)
        for number, (group, found) in enumerate(grouped(on_curve).items()):
            cases = [list(per_case([row for row in found if row.step == step], score).values()) for step in steps]
            intervals = [bootstrap(values) for values in cases]
            x = np.arange(len(steps)) + 0.03 * number
            means = [np.nan if one is None else one.mean for one in intervals]
            ends = [
                (np.nan, np.nan) if one is None or one.low is None or one.high is None else (one.low, one.high)
                for one in intervals
            ]
            color = f"C{number}"
            axes.plot(x, means, "o-", color=color, markersize=3.5, label=f"{group} (n={max(map(len, cases))})")
            axes.vlines(x, [low for low, _ in ends], [high for _, high in ends], color=color, alpha=0.35)
        axes.set_xticks(range(len(steps)), steps, rotation=20, ha="right", fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        if place == 0:
            axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(curve.name, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
