"""A comparison in the terminal: verdicts, numbers, changed answers.

Everything is drawn from :class:`rich.text.Text`, in which rich reads no markup.
"""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..formatting import DASH, MINUS, NBSP, p_value
from ..terminal import MARKS
from ..text import one_line
from .compare import Kind, Page, Pair

COLUMNS = ("n", "a", "b", f"b {MINUS} a", "interval", "p, adj.", "lost/gained", "detects")
"""Beside the task; the last is left out where they do not fit."""

_LINE = 300


def print_page(page: Page, console: Console) -> None:
    """Print what a reader needs of *page*."""
    for pair in page.pairs:
        _pair(pair, page.confidence, console)
    for line in textwrap.wrap(page.method, max(console.width, 20)):
        console.print(Text(line, "dim"))


def _pair(pair: Pair, confidence: float, console: Console) -> None:
    _item(console, "", "bold", pair.headline, "bold")
    for line in pair.shown:
        mark, style = MARKS.get(line.said.verdict, ("○", "dim"))
        _item(console, f"{mark} ", style, line.said.sentence)
    for warning in pair.warnings:
        _item(console, "! ", "bold yellow", warning)
    console.print()
    for letter, name, origin in (("a", pair.a, pair.origin_a), ("b", pair.b, pair.origin_b)):
        said = name if origin in name else f"{name}, {origin}"
        _item(console, f"{letter}  ", "dim", said, "dim")
    table = _table(pair, confidence, COLUMNS)
    if (
        console.measure(table, options=console.options.update(max_width=999)).maximum
        > console.width
    ):
        table = _table(pair, confidence, COLUMNS[:-1])  # the sentences say what goes undetected
    console.print()
    console.print(table)
    console.print()
    for kind in pair.kinds:
        _kind(kind, pair, console)


def _table(pair: Pair, confidence: float, columns: tuple[str, ...]) -> Table:
    """The numbers; p is the adjusted one, as the sentences above have both."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(Text("task"), overflow="fold", min_width=8)
    for name in columns:
        shown = f"{100 * confidence:g}{NBSP}% interval" if name == "interval" else name
        table.add_column(Text(shown), justify="right", no_wrap=True)
    for line in pair.shown:
        one = line.said
        a, b, difference, between, _, changed, least = line.cells
        p = p_value(one.p_holm)
        cells = [str(one.n), a, b, difference, between, p, changed, least][: len(columns)]
        table.add_row(*map(Text, (one.task, *cells)))
    return table


def _kind(kind: Kind, pair: Pair, console: Console) -> None:
    shown = f", {len(kind.flips)} shown" if len(kind.flips) < kind.total else ""
    console.print(Text.assemble((kind.name, "bold"), (f"  {kind.total}{shown}", "dim")))
    for flip in kind.flips:
        _item(console, f"  {one_line(flip.doc_id, 20)}  ", "dim", one_line(flip.question, _LINE))
        right = one_line(flip.target, _LINE)
        answers = (
            ("right ", right),
            ("a     ", one_line(flip.prediction_a, _LINE) or DASH),
            ("b     ", one_line(flip.prediction_b, _LINE) or DASH),
        )
        for name, text in answers:
            _item(console, f"    {name}", "dim", text)
    console.print()


def _item(console: Console, mark: str, style: str, text: str, rest: str = "") -> None:
    """A mark with hanging text."""
    lines = textwrap.wrap(text, max(console.width - len(mark), 20)) or [""]
    for place, line in enumerate(lines):
        console.print(Text.assemble((mark if place == 0 else " " * len(mark), style), (line, rest)))
