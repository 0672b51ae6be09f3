"""The history of a model as one HTML file in the style of the report, with small multiples."""

from __future__ import annotations

from ..figures.charts import Chart
from ..html import render_page, tone
from .history import History


def render(history: History, chart: Chart) -> str:
    """The whole page; the Content-Security-Policy allows its style and nothing else."""
    return render_page(
        "history.html.j2",
        history=history,
        chart=chart,
        tone=lambda model: tone(model, history.tuned),
    )
