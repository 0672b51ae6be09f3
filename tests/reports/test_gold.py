"""Markdown, JSON and terminal output of the made-up run, compared with what lies in gold/.

After a wanted change: ``MEDBENCH_UPDATE_GOLD=1 pytest tests/reports/test_gold.py``, then read the
difference before it is committed.
"""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, print_summary, write_reports

GOLD = Path(__file__).parent / "gold"


def check(name: str, text: str) -> None:
    path = GOLD / name
    if os.environ.get("MEDBENCH_UPDATE_GOLD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_markdown(whole_run: RunFolder) -> None:
    write_reports(whole_run)
    check("report.md", (whole_run / "report.md").read_text("utf-8"))


def test_json(whole_run: RunFolder) -> None:
    write_reports(whole_run)
    check("report.json", (whole_run / "report.json").read_text("utf-8"))


@pytest.mark.parametrize("width", [80, 120])
def test_terminal(whole_run: RunFolder, width: int) -> None:
    out = io.StringIO()
    print_summary(Report.read(whole_run), Console(file=out, width=width))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    if width == 80:
        check("summary.txt", "\n".join(lines) + "\n")
