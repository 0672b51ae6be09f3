"""A gate's verdicts: printed for people or programs, and written where CI systems look."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from ...harness.folder.store import atomic_path
from ...harness.gate.result import GateResult, Inconclusive, Status
from ..text import clean
from . import github, junit

if TYPE_CHECKING:
    import pandas as pd

MARKS: dict[Status, tuple[str, str]] = {
    "pass": ("✓", "green"),
    "regression": ("✗", "bold red"),
    "inconclusive": ("?", "yellow"),
}
_CLOSING: dict[Status, str] = {
    "pass": "Pass: no rule is broken.",
    "regression": "Regression.",
    "inconclusive": "Inconclusive: no regression is shown, and none is ruled out.",
}


@dataclass(frozen=True)
class Files:
    """Where the verdicts go besides standard output; None: nowhere.

    Attributes:
        junit: JUnit XML.
        comment: Markdown, the body of a comment.
        benchmark: JSON for github-action-benchmark.
        github: Whether annotations, step summary and output of a GitHub job are written.
    """

    junit: Path | None = None
    comment: Path | None = None
    benchmark: Path | None = None
    github: bool = False


def write(
    result: GateResult,
    samples: pd.DataFrame,
    form: Literal["terminal", "md", "json"],
    inconclusive: Inconclusive,
    files: Files,
) -> None:
    """Print *result* as *form*, and write *files*.

    Standard output stays pure Markdown or JSON where that was asked for: the annotations of a
    GitHub job, which its runner reads from either, then go to standard error.

    Args:
        result: What the gate said.
        samples: The candidate's, for the benchmark.
        form: Of standard output.
        inconclusive: What becomes of that verdict.
        files: What else is written.
    """
    contents: dict[Path | None, str] = {
        files.junit: junit.render(result, inconclusive),
        files.comment: github.comment(result),
    }
    if files.benchmark:
        contents[files.benchmark] = json.dumps(github.benchmark(samples), indent=2) + "\n"
    for path, text in contents.items():
        if path:
            with atomic_path(path) as draft:
                draft.write_text(text, "utf-8")
    if form == "json":
        sys.stdout.write(as_json(result, result.exit_code(inconclusive)) + "\n")
    elif form == "md":
        sys.stdout.write(github.summary(result))
    else:
        with github.commands_stopped(sys.stdout) if files.github else nullcontext():
            print_result(result, Console())
    if files.github:
        out = sys.stdout if form == "terminal" else sys.stderr
        github.publish(result, inconclusive, os.environ, out)


def print_result(result: GateResult, console: Console) -> None:
    """Every verdict with its sentence, then the warnings, then what the whole gate says."""
    against = f" against {result.baseline}" if result.baseline else ""
    console.print(Text(clean(f"{result.candidate}{against}"), "bold"))
    for verdict in result.verdicts:
        mark, style = MARKS[verdict.status]
        _item(console, f"{mark} {verdict.status:<12} ", style, verdict.sentence)
    for warning in result.warnings:
        _item(console, "! ", "yellow", warning)
    _, style = MARKS[result.status]
    console.print(Text(_CLOSING[result.status], style))


def as_json(result: GateResult, exit_code: int) -> str:
    """``{status, exit_code, candidate, baseline, verdicts, warnings}``, in ASCII alone."""
    value = {"status": result.status, "exit_code": exit_code, **asdict(result)}
    return json.dumps(finite(value), indent=2, allow_nan=False)


def finite(value: Any) -> Any:
    """The same JSON value with null for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _item(console: Console, mark: str, style: str, text: str) -> None:
    """A mark with hanging text."""
    lines = textwrap.wrap(clean(text), max(console.width - len(mark), 20)) or [""]
    for place, line in enumerate(lines):
        console.print(Text.assemble((mark if place == 0 else " " * len(mark), style), line))
