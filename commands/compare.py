"""``medbench compare``: what changed, and how sure that is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError
from . import options


def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="A B…",
            help="Run folders (RUN:MODEL where one holds several), predictions, lm-eval results or "
            "baseline files; the first is the reference. One run folder alone: each tuned model "
            "with its base.",
        ),
    ],
    columns: options.Columns = None,
    form: Annotated[
        Literal["terminal", "md", "html", "json"], typer.Option("--format", help="What is written.")
    ] = "terminal",
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write there instead of to the terminal."),
    ] = None,
    tasks: options.Counting = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of the intervals.")
    ] = 0.95,
    flips: Annotated[
        int | None,
        typer.Option(
            min=0, help="Changed answers shown of each task and kind; json has all by default."
        ),
    ] = None,
) -> None:
    """Compare models question by question: differences, intervals, tests, changed answers."""
    from ..harness.comparing.comparison import compare_sides, parse_tasks
    from ..harness.gate.sides import tuned_pairs
    from ..harness.predictions.load import numbers_of, parse_columns
    from ..reports.comparing.compare import FLIPS, as_json, page

    if form == "terminal" and out is not None:
        raise InputError(f"--out {out}: needs --format md, html or json")
    named = parse_columns(columns) if columns else None
    if len(sides) == 1:
        pairs = tuned_pairs(sides[0])
    else:
        others = numbers_of(sides, named)
        reference = next(others)
        pairs = ((reference, other) for other in others)
    kept = FLIPS[form] if flips is None else flips
    found = [compare_sides(a, b, parse_tasks(tasks), confidence, kept) for a, b in pairs]
    if form == "json":
        _write(as_json(found, confidence) + "\n", out)
    elif form == "md":
        from ..reports.comparing import markdown as compare_markdown

        _write(compare_markdown.render(page(found, confidence)), out)
    elif form == "html":
        from ..reports.comparing import html as compare_html

        _write(compare_html.render(page(found, confidence)), out)
    else:
        from rich.console import Console

        from ..reports.comparing.terminal import print_page

        print_page(page(found, confidence), Console())


def _write(text: str, out: Path | None) -> None:
    """To *out*, or to standard output and nothing but that."""
    if out is None:
        sys.stdout.write(text)
        return
    from ..harness.folder.store import atomic_path

    with atomic_path(out) as draft:
        draft.write_text(text, "utf-8")
