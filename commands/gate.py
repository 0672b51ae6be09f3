"""``medbench gate``: pass, regression or inconclusive, for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import options


def gate(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run folder (RUN:MODEL where it has several tuned models) or predictions.",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            help="A run folder, predictions, a baseline file, or a git commit (REF or REF:PATH) "
            "that holds one; by default the candidate's own base."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Points of accuracy that may be lost; by default 1."),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(help="Rules in YAML; by default the section gate of the run's suite."),
    ] = None,
    inconclusive: Annotated[
        Literal["inconclusive", "pass", "fail"],
        typer.Option(help="What becomes of that verdict: exit code 3, 0 or 1."),
    ] = "inconclusive",
    confidence: Annotated[
        float | None, typer.Option(help="Of every verdict; by default 0.95.")
    ] = None,
    tasks: options.Counting = None,
    columns: options.Columns = None,
    form: Annotated[
        Literal["terminal", "md", "json"], typer.Option("--format", help="What is printed.")
    ] = "terminal",
    junit: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write JUnit XML there.")
    ] = None,
    comment: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the Markdown body of a comment there."),
    ] = None,
    benchmark_json: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write accuracies for github-action-benchmark there."),
    ] = None,
    on_github: Annotated[
        bool, typer.Option("--github", help="Annotations and the step summary of a GitHub job.")
    ] = False,
) -> None:
    """Say whether a model became worse than its baseline: exit code 0 no, 1 yes, 3 not known."""
    from ..harness.comparing.comparison import only_tasks, parse_tasks
    from ..harness.gate.judging import judge
    from ..harness.gate.sides import candidate_and_baseline, rules_of
    from ..harness.predictions.load import parse_columns
    from ..reports.comparing.gate import Files, write

    held_to = rules_of(candidate, rules).overridden(tolerance=tolerance, confidence=confidence)
    one, other = candidate_and_baseline(
        candidate, baseline, parse_columns(columns) if columns else None, held_to.compares
    )
    counting = parse_tasks(tasks)
    result = judge(one, other, held_to, counting)
    files = Files(junit=junit, comment=comment, benchmark=benchmark_json, github=on_github)
    write(result, only_tasks(one.side, counting), form, inconclusive, files)
    raise typer.Exit(result.exit_code(inconclusive))
