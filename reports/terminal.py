"""The report as a summary in the terminal: verdicts, scores, latency. Fits 80 columns.

Everything is drawn from :class:`rich.text.Text`, in which rich reads no markup.
"""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .formatting import p_value
from .report import Report
from .sections.latency_terminal import latency_table
from .sections.scores import Group, Task

MARKS = {"better": ("▲", "green"), "worse": ("▼", "red")}


def print_summary(report: Report, console: Console) -> None:
    """Print what a reader needs at the end of a run."""
    console.print(Text(report.title, "bold"))
    for note in report.notes + report.problems:
        _item(console, "! ", "bold yellow", note)
    console.print()
    for sentence in report.headlines:
        _item(console, "", "", sentence)
    for one in report.pooled + report.comparisons:
        mark, style = MARKS.get(one.verdict, ("○", "dim"))
        _item(console, f"{mark} ", style, one.sentence)
    for check in report.overlap:
        if check.pairs:
            _item(console, "  ", "", check.summary)
    if report.tasks:
        _heading(console, "Scores", "with 95 % intervals; differences are tuned minus base")
    for group in report.groups:
        _scores(console, group)
    for task in report.tasks:
        _scores(console, task)
        for score in task.scores:
            if score.orders:
                _item(console, f"    {score.model:<13} ", "", score.orders.line)
        for parsed in report.parsing:
            if parsed.task == task.name and parsed.line:
                _item(console, f"    {parsed.model:<13} ", "", parsed.line)
        for judged in report.judged:
            if judged.task == task.name and judged.line:
                _item(console, f"    {judged.model:<13} ", "", judged.line)
    _protocols(console, report)
    for part in report.subjects:
        _item(console, "  ", "", f"{part.task}: {part.looks}, side by side in the report")
    if report.latency:
        _heading(console, "Latency", "medians, then 90th percentiles")
        console.print(Padding(latency_table(report.latency), (0, 0, 0, 2)))
    console.print()


def _heading(console: Console, name: str, rest: str) -> None:
    console.print()
    console.print(Text.assemble((name, "bold"), (f", {rest}", "dim")))


def _item(console: Console, mark: str, style: str, text: str) -> None:
    """A mark with hanging text. textwrap, unlike rich, keeps a number and its unit together."""
    lines = textwrap.wrap(text, max(console.width - len(mark), 20)) or [""]
    for place, line in enumerate(lines):
        console.print(Text.assemble((mark if place == 0 else " " * len(mark), style), line))


def _scores(console: Console, task: Task | Group) -> None:
    about = task.about if task.scores else f"{task.metric_shown}, not scored"
    console.print(Padding(Text.assemble((task.name, "bold"), (f"  {about}", "dim")), (0, 0, 0, 2)))
    grid = Table.grid(padding=(0, 1))
    longest = max((len(score.model) for score in task.scores), default=0)
    grid.add_column(width=min(max(13, longest), 16), overflow="fold")
    grid.add_column(width=7, justify="right")
    grid.add_column(width=14, style="dim")
    grid.add_column(width=7, justify="right")
    grid.add_column(width=16, style="dim")
    grid.add_column(width=9)
    for score in task.scores:
        one = score.comparison
        cells = [score.model, score.shown, score.interval]
        cells += [one.shown, one.interval, f"p {_sign(one.p)}"] if one else ["", "", ""]
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(Padding(grid, (0, 0, 0, 4)))


def _protocols(console: Console, report: Report) -> None:
    """The same questions by several protocols: one line a model."""
    if report.protocols:
        _heading(console, "Protocols", "the same questions asked in another way")
    for found in report.protocols:
        for model, cells in found.rows:
            shown = [
                f"{column.task} {cell.shown}"
                + (f" ({cell.difference}, {cell.difference_interval})" if cell.difference else "")
                for column, cell in zip(found.columns, cells, strict=True)
                if cell.shown
            ]
            _item(console, f"    {model:<13} ", "", "; ".join(shown))


def _sign(p: float | None) -> str:
    shown = p_value(p)
    return shown if shown.startswith("<") else f"= {shown}"
