"""The paired differences of one comparison as a forest plot."""

from __future__ import annotations

from ..comparing.compare import Pair
from .charts import TUNED
from .forest import forest
from .svg import render


def differences(pair: Pair, place: int) -> str:
    """An inline SVG of the rows of *pair*; empty where no difference is known."""
    shown = [line.said for line in pair.shown if line.said.difference is not None]
    if not shown:
        return ""
    figure = forest(shown, dict.fromkeys((one.tuned for one in shown), TUNED[place % len(TUNED)]))
    said = " ".join(one.sentence for one in shown)
    return render(figure, f"differences{place}", f"{pair.b} minus {pair.a}", said)
