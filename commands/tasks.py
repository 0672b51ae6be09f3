"""``medbench tasks``: what can be asked."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer


def tasks(
    suite: Annotated[
        str | None,
        typer.Option(help="Only the tasks of this suite, its own files of questions among them."),
    ] = None,
) -> None:
    """List the tasks: how each is asked, how many questions, from where, under which licence."""
    from rich.console import Console
    from rich.text import Text

    from ..harness.suite import load_suite
    from ..tasks import catalog

    console = Console(highlight=False)
    if suite is None:
        found = list(catalog.tasks().values())
    else:
        chosen = load_suite(suite)
        asked = catalog.expand(chosen.tasks, chosen.question_files)
        found = [chosen.prompt.on(task) for task in asked]
    found.sort(key=lambda task: task.data)
    width = max(len(task.name) for task in found)
    for _, several in groupby(found, key=lambda task: task.data):
        members = list(several)
        first = members[0]
        console.print(Text(f"{first.source}, {first.licence}", style="bold"), soft_wrap=True)
        for task in members:
            count = f"{task.questions:,}" if task.questions else "–"
            console.print(
                Text(f"  {task.name:{width}}  {count:>5}  {task.protocol}"), soft_wrap=True
            )
    if suite is None:
        console.print(Text("Groups, their members weighted by size", style="bold"))
        for name, inside in catalog.groups().items():
            console.print(Text(f"  {name}: {', '.join(inside)}"), soft_wrap=True)
