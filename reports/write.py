"""Writes every report of a run into a folder."""

from __future__ import annotations

from pathlib import Path

from ..harness.folder.store import RunFolder
from . import as_json, html, markdown
from .figures.charts import draw
from .report import Report


def write_reports(run: RunFolder, report: Report | None = None) -> list[Path]:
    """Write report.html, report.md, report.json and figures/*.svg; return their paths.

    Args:
        run: The run folder, read and written.
        report: What was read from it already, if it was.
    """
    report = report or Report.read(run)
    charts = draw(report)
    written = [run.write_text(f"figures/{chart.name}.svg", chart.svg) for chart in charts]
    for figure in (run / "figures").glob("*.svg"):
        if figure not in written:
            figure.unlink()  # of an earlier plan in this folder
    return [
        run.write_text("report.html", html.render(report, charts)),
        run.write_text("report.md", markdown.render(report, charts)),
        run.write_text("report.json", as_json.render(report)),
        *written,
    ]
