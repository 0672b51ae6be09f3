"""``medbench doctor``: what this machine has and lacks."""

from __future__ import annotations


def doctor() -> None:
    """Say what this machine has, what is missing, and the command that adds it."""
    from rich.console import Console
    from rich.table import Table

    from ..harness.doctor import examine

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in examine():
        mark = "[green]✓[/]" if finding.good else "[yellow]–[/]"
        remedy = f"\n[dim]{finding.remedy}[/]" if finding.remedy else ""
        table.add_row(mark, finding.name, finding.found + remedy)
    Console().print(table)
