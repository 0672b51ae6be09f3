"""The paired differences of one comparison as a forest plot."""

from __future__ import annotations

from ..comparing.compare import Pair
from .charts import TUNED
from .plot import frame, interval, label, page
from .svg import INK, render

_ROW = 46


def forest(pair: Pair, place: int, confidence: float) -> str:
    """An inline SVG of the accuracies among the rows of *pair*; empty where there is none."""
    shown = [
        line.said
        for line in pair.shown
        if line.said.scale.unit == "%" and None not in (line.said.difference, line.said.low)
    ]
    if not shown:
        return ""
    ends = [[100 * (end or 0.0) for end in (one.difference, one.low, one.high)] for one in shown]
    figure, [ax] = page(_ROW * len(shown))
    known = [0.0, *(end for three in ends for end in three)]
    pad = 0.06 * (max(known) - min(known)) or 1.0
    ax.set_xlim(min(known) - pad, max(known) + pad)
    frame(ax, f"points, with {100 * confidence:g} % interval; right of 0 is better")
    for row, (one, three) in enumerate(zip(shown, ends, strict=True)):
        y = float(_ROW * row)
        label(ax, y + 11, one.task, f"{one.shown}  ({one.interval})")
        ax.plot([0, 0], [y + 20, y + 40], color=INK, lw=1.2, alpha=0.8)
        interval(ax, y + 30, three, TUNED[place % len(TUNED)])
    said = " ".join(one.sentence for one in shown)
    return render(figure, f"differences{place}", f"{pair.b} minus {pair.a}", said)
