"""Writes every form of a history into a folder."""

from __future__ import annotations

from pathlib import Path

from ...harness.folder.store import RunFolder
from ..figures.history import draw
from . import as_json, html, markdown
from .history import History


def write_history(history: History, folder: RunFolder) -> list[Path]:
    """Write history.html, history.md, history.json and figures/history.svg; return their paths."""
    chart = draw(history)
    return [
        folder.write_text("history.html", html.render(history, chart)),
        folder.write_text("history.md", markdown.render(history, chart)),
        folder.write_text("history.json", as_json.render(history)),
        folder.write_text(f"figures/{chart.name}.svg", chart.svg),
    ]
