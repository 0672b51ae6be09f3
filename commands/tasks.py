"""``medbench tasks``: what can be asked."""

from __future__ import annotations


def tasks() -> None:
    """List the tasks: how each is asked, how many questions, from where, under which licence."""
    from rich.console import Console
    from rich.table import Table

    from ..tasks import catalog

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "protocol", "questions", "source", "licence"):
        right = column == "questions"
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for task in catalog.tasks().values():
        table.add_row(
            task.name, task.protocol, str(task.questions or "–"), task.source, task.licence
        )
    Console().print(table)
