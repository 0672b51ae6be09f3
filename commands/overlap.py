"""``medbench overlap``: which training rows are test questions, copied or in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def overlap(
    train: Annotated[
        Path, typer.Argument(metavar="TRAIN", help="Training rows: JSONL, JSON, CSV or Parquet.")
    ],
    test: Annotated[
        Path, typer.Argument(metavar="EVAL", help="Test questions: JSONL, JSON, CSV or Parquet.")
    ],
    train_column: Annotated[str, typer.Option(help="Column of TRAIN that is compared.")],
    eval_column: Annotated[str, typer.Option(help="Column of EVAL that is compared.")],
    form: Annotated[
        Literal["terminal", "json", "md"], typer.Option("--format", help="What is printed.")
    ] = "terminal",
) -> None:
    """Find training rows that are test questions, copied or reworded; says what it may miss."""
    import json

    from rich.console import Console

    from ..reports.sections.overlap import markdown, print_overlap
    from ..tasks.overlap import as_json, find
    from ..tasks.overlap.texts import texts

    left = texts(train, train_column, "--train-column")
    right = texts(test, eval_column, "--eval-column")
    with Console(stderr=True).status(f"comparing {len(left):,} rows with {len(right):,}"):
        found = as_json(find(left, right), left, right)
    if form == "json":
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    elif form == "md":
        typer.echo(markdown(found), nl=False)
    else:
        print_overlap(found, Console())
