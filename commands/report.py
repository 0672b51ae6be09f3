"""``medbench report``: the reports of a run folder, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Rebuild the reports of a run folder; needs no model, no data and no network."""
    from rich.console import Console

    from ..harness.store import RunFolder
    from ..reports import Report, print_summary, write_reports

    target = RunFolder.open(folder)
    write_reports(target)
    console = Console()
    print_summary(Report.read(target), console)
    console.print(
        f"Report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )
