"""``medbench report``: the reports of a run folder, made again; the history of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="A run folder; several: the history of their models."),
    ],
    samples: Annotated[
        Literal["none", "hashes", "flips", "all"],
        typer.Option(
            help="What of questions and answers is shown. Less than all is meant for others: then "
            "licences hold as well."
        ),
    ] = "all",
    licensed: options.Licensed = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to: the run folder by default; of a history, this one."),
    ] = None,
) -> None:
    """Rebuild the reports of run folders; needs no model, no data and no network."""
    from rich.console import Console

    from ..harness.folder.store import RunFolder

    runs = [RunFolder.open(folder) for folder in folders]
    target = RunFolder(out or (folders[0] if len(runs) == 1 else Path()))
    console = Console()
    if len(runs) == 1:
        from ..reports import Report, print_summary, write_reports
        from ..reports.redaction import sharing

        found = Report.read(runs[0], sharing(samples, licensed))
        write_reports(target, found)
        print_summary(found, console)
        name = "report.html"
    else:
        from ..reports.history.history import read_history
        from ..reports.history.terminal import print_history
        from ..reports.history.write import write_history

        history = read_history(runs)
        name = "history.html"
        write_history(history, target)
        print_history(history, console)
    console.print(
        f"Report: {target.path / name}", highlight=False, markup=False, soft_wrap=True
    )  # fmt: skip
