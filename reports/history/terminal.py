"""A history in the terminal: a line for each score and for each verdict of the gate."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..comparing.gate import MARKS
from .history import History


def print_history(history: History, console: Console) -> None:
    """Print the scores by run, then what the gate says of each run."""
    console.print(Text(history.title, "bold"))
    for sentence in history.headlines:
        console.print(Text(sentence))
    for number, run in enumerate(history.runs, 1):
        console.print(
            Text.assemble((f"  {number}  ", "dim"), run.label, "  ", (run.report.created, "dim"))
        )
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("task", "model"):
        table.add_column(Text(name), overflow="fold")
    for number in range(1, len(history.runs) + 1):
        table.add_column(Text(str(number)), justify="right")
    for line in history.lines:
        cells = [line.task.name, line.model, *(point.shown or "–" for point in line.points)]
        table.add_row(*map(Text, cells))
    console.print(table)
    for gate in history.gates:
        mark, style = MARKS[gate.status] if gate.status else ("–", "dim")
        said = gate.status or "not judged"
        head = f"{mark} {said}"
        console.print(
            Text.assemble(
                "\n", (head, style), f"  {gate.model} in {gate.run} against {gate.before}"
            )
        )
        for sentence in gate.said:
            console.print(Text(f"  {sentence}"))
