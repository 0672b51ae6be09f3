"""A gate's verdicts where people on GitHub look: annotations, step summary, comment, benchmark.

A task's or model's name may come from anywhere, and the runner takes any line of a step's output
that begins with ``::`` for a command. So names are escaped in commands (as @actions/core does), and
other output is printed under :func:`commands_stopped`.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ...harness.gate.result import GateResult, Inconclusive, Status, Verdict
from ..formatting import NBSP, count
from ..markdown import escape
from ..text import clean, one_line

if TYPE_CHECKING:
    import pandas as pd

MARKER = "<!-- medbench-gate -->"
"""First line of a comment, by which a workflow finds the one to update."""

COMMENT_LIMIT = 60_000
"""Characters of a comment or summary; GitHub takes 65,536 for a comment and 1 MiB for a summary."""

_SENTENCE = 600
_ORDER: tuple[Status, ...] = ("regression", "inconclusive", "pass")
_MARKS: dict[Status, str] = {"pass": "✅", "regression": "❌", "inconclusive": "❔"}
_HEADLINES: dict[Status, str] = {
    "pass": "No regression",
    "regression": "Regression",
    "inconclusive": "Inconclusive",
}


def publish(
    result: GateResult, inconclusive: Inconclusive, environ: Mapping[str, str], out: TextIO
) -> None:
    """Annotations to *out*; the summary and the output ``status`` to the files the runner names.

    Args:
        result: What the gate said.
        inconclusive: What becomes of inconclusive verdicts, as in :meth:`GateResult.exit_code`.
        environ: Where ``GITHUB_STEP_SUMMARY`` and ``GITHUB_OUTPUT`` stand; what is absent is left
            out, so that the same command can be tried outside a workflow.
        out: The step's standard output.
    """
    for line in annotate(result, inconclusive):
        print(line, file=out)
    for name, text in (
        ("GITHUB_STEP_SUMMARY", summary(result)),
        ("GITHUB_OUTPUT", f"status={result.status}\n"),
    ):
        if environ.get(name):
            with Path(environ[name]).open("a", encoding="utf-8", newline="\n") as file:
                file.write(text)


@contextlib.contextmanager
def commands_stopped(out: TextIO) -> Iterator[None]:
    """What is printed within is text to the runner, whatever it looks like."""
    token = secrets.token_hex(16)
    print(f"::stop-commands::{token}", file=out, flush=True)
    try:
        yield
    finally:
        print(f"\n::{token}::", file=out, flush=True)


def annotate(result: GateResult, inconclusive: Inconclusive = "inconclusive") -> list[str]:
    """A workflow command for each verdict that did not pass, worst first, and for each warning.

    What fails the job is an ``error``, an inconclusive verdict that is let pass a ``warning``.
    """
    found = []
    for verdict in _worst_first(result):
        if verdict.status != "pass":
            let_pass = verdict.status == "inconclusive" and inconclusive == "pass"
            title = f"{_HEADLINES[verdict.status]}: {verdict.task} ({verdict.rule})"
            found.append(command("warning" if let_pass else "error", title, verdict.sentence))
    return found + [command("notice", "medbench gate", warning) for warning in result.warnings]


def command(name: str, title: str, message: str) -> str:
    """A workflow command on one line, whatever *title* and *message* hold."""
    title = one_line(clean(title), 200)
    for old, new in (("%", "%25"), (":", "%3A"), (",", "%2C")):
        title = title.replace(old, new)
    message = clean(message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{name} title={title}::{message}"


def summary(result: GateResult) -> str:
    """The verdicts as Markdown: a headline, a table with the worst first, the warnings."""
    ranked = _worst_first(result)
    counts = [(status, sum(v.status == status for v in ranked)) for status in _ORDER]
    said = ", ".join(f"{number}{NBSP}{status}" for status, number in counts if number)
    against = f" against {_cell(result.baseline, 200)}" if result.baseline else ""
    lines = [
        f"## {_MARKS[result.status]} {_HEADLINES[result.status]}",
        "",
        f"{_cell(result.candidate, 200)}{against}: {said or 'no rule applies to anything'}.",
        "",
        "| | task | rule | questions | evidence |",
        "| --- | --- | --- | ---: | --- |",
    ]
    warnings = [f"* {_cell(warning, _SENTENCE)}" for warning in result.warnings[:20]]
    room = COMMENT_LIMIT - sum(map(len, (*lines, *warnings)))
    rows = _fitting([_row(verdict) for verdict in ranked], room)
    lines += rows
    if len(rows) < len(ranked):
        left = count(len(ranked) - len(rows), "verdict")
        lines += ["", f"{left} more stand in the JUnit file and in the log."]
    if warnings:
        lines += ["", "To be known when reading this:", "", *warnings]
    return "\n".join(lines) + "\n\n"


def comment(result: GateResult) -> str:
    """The summary as the body of a pull request's comment; see :data:`MARKER`."""
    return f"{MARKER}\n{summary(result)}"


def benchmark(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """The candidate's accuracies as github-action-benchmark's ``customBiggerIsBetter`` wants them.

    Percent, with the reach of the 95 % interval as ``range``. Tasks measured in bits per byte, of
    which fewer is better, have no place in that format and are left out.

    Args:
        samples: The samples of one model.
    """
    from ...harness.statistics.stats import summarise

    found = []
    for task, table in samples.groupby("task", sort=True):
        if table["metric"].iloc[0] != "acc":
            continue
        score = summarise(table)
        entry: dict[str, Any] = {
            "name": clean(str(task), 200),
            "unit": "% right",
            "value": round(100 * score.value, 3),
            "extra": clean(f"n = {score.n}; {table['protocol'].iloc[0]}", 500),
        }
        if score.low == score.low:  # there is an interval
            entry["range"] = f"± {50 * (score.high - score.low):.2f}"
        found.append(entry)
    return found


def _worst_first(result: GateResult) -> list[Verdict]:
    return sorted(result.verdicts, key=lambda verdict: _ORDER.index(verdict.status))


def _row(verdict: Verdict) -> str:
    cells = [
        _MARKS[verdict.status],
        _cell(verdict.task, 200),
        _cell(verdict.rule, 200),
        count(verdict.n),
        _cell(verdict.sentence, _SENTENCE),
    ]
    return f"| {' | '.join(cells)} |"


def _fitting(rows: list[str], room: int) -> list[str]:
    """As many of *rows*, from the first, as *room* characters hold."""
    for number, row in enumerate(rows):
        room -= len(row) + 1
        if room < 0:
            return rows[:number]
    return rows


def _cell(text: str, limit: int) -> str:
    return str(escape(one_line(clean(text), limit)))
