"""``medbench site``: a folder of runs as static pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def site(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS…", help="Run folders, or folders that hold some.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the site, made or replaced.")] = Path(
        "site"
    ),
    samples: Annotated[
        Literal["none", "hashes", "flips", "all"],
        typer.Option(help="What of questions and answers is shown, where their licence allows it."),
    ] = "hashes",
    licensed: options.Licensed = None,
) -> None:
    """Make pages for any static host: an index, a report for each run, a history for each suite."""
    from ..reports.history.site import build_site, find_runs
    from ..reports.redaction import sharing

    entries = build_site(
        find_runs(runs),
        out,
        sharing(samples, licensed, published=True),
        lambda name: typer.echo(f"  {name}", err=True),
    )
    typer.echo(f"{len(entries)} run{'s' if len(entries) > 1 else ''}: {out / 'index.html'}")
