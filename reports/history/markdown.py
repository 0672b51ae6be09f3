"""A history as Markdown for GitHub; every value passes through markdown.escape."""

from __future__ import annotations

from ..figures.charts import Chart
from ..markdown import render_document
from .history import History


def render(history: History, chart: Chart) -> str:
    """The whole document; its figure is referred to as ``figures/history.svg``."""
    return render_document("history.md.j2", history=history, chart=chart)
