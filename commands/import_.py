"""``medbench import``: predictions that were made elsewhere, as a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Predictions (.jsonl, .json, .csv, .parquet), or what lm-eval logged: "
            "a samples_*.jsonl or its output folder.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to make.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the model is called.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="NAME=COLUMN,…", help="Which column holds what, e.g. doc_id=id,target=gold."
        ),
    ] = "",
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="The task, where the file does not say it.")
    ] = None,
) -> None:
    """Make a run folder of predictions, for report, compare and gate."""
    import shlex
    import sys

    from rich.console import Console

    from ..errors import InputError
    from ..harness.predictions.imported import model_name, write_run
    from ..harness.predictions.load import load_side, parse_columns
    from ..reports import Report, print_summary, write_reports

    mapping = parse_columns(columns)
    if task is not None:
        if "task" in mapping:
            raise InputError(f"--task {task}: --columns names the task too; leave one of them out")
        mapping["task"] = f"={task}"
    side = load_side(source, mapping)
    run = write_run(side, out, model_name(side, model), shlex.join(["medbench", *sys.argv[1:]]))
    report = Report.read(run)
    write_reports(run, report)
    console = Console()
    print_summary(report, console)
    console.print(f"Report: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
