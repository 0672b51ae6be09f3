"""The report as JSON: what it says and the numbers that it says it of, for other programs.

docs/reference/report.md has the keys. The values are those of results.json, unrounded; verdicts and
sentences are the page's. Questions, answers and raw timings stay in the run's tables.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from .comparing.gate import finite
from .report import Report
from .sections.scores import Group, Score, Task
from .verdicts import Comparison

FORMAT = 1
"""Version of these keys."""
_TASK = ("name", "protocol", "higher_is_better", "chance", "source", "licence")
_SCORE = ("value", "low", "high", "n", "unparsed", "truncated")
_RAW = ("ttft_ms", "tpot_ms")
_COMPARISON = (
    "base", "tuned", "n", "a", "b", "difference", "low", "high", "p", "p_holm", "test",
    "discordant", "smallest_detectable", "confidence", "verdict", "sentence",
)  # fmt: skip


def render(report: Report) -> str:
    """The text of report.json, as ASCII."""
    return json.dumps(finite(as_value(report)), indent=2, allow_nan=False) + "\n"


def as_value(report: Report) -> dict[str, Any]:
    """The JSON value."""
    plain = ("title", "suite", "description", "created", "took", "command", "disclaimer", "method")
    lists = ("notes", "problems", "headlines", "left_out")
    return {
        "format": FORMAT,
        **{key: getattr(report, key) for key in plain},
        **{key: list(getattr(report, key)) for key in lists},
        "models": [asdict(model) for model in report.models],
        "groups": [
            {"name": group.name, "members": list(group.members), **_scored(group)}
            for group in report.groups
        ],
        "tasks": [
            {
                **{key: getattr(task, key) for key in _TASK},
                **_scored(task),
            }
            for task in report.tasks
        ],
        "answers": [asdict(one) | {"unparsed": one.unparsed} for one in report.parsing],
        "tunings": [
            {"model": one.model, "facts": dict(one.facts)} for one in report.trainings
        ],
        "exports": [
            {"model": one.model, "format": one.format, "facts": dict(one.facts)}
            for one in report.exports
        ],
        "latency": [_latency(row) for row in report.latency],
        "overlap": [check.statement for check in report.overlap],
        "environment": dict(report.environment),
        "stages": [asdict(stage) for stage in report.stages],
    }  # fmt: skip


def _scored(part: Task | Group) -> dict[str, Any]:
    return {
        "metric": part.metric,
        "scores": {score.model: _score(score) for score in part.scores},
        "comparisons": [_comparison(s.comparison) for s in part.scores if s.comparison],
    }


def _score(score: Score) -> dict[str, Any]:
    found = {key: getattr(score, key) for key in _SCORE}
    if score.calibration:
        found["calibration"] = {
            key: getattr(score.calibration, key) for key in ("ece", "brier", "aurc")
        }
    if score.orders:
        found["orders"] = asdict(score.orders)
    return found


def _comparison(one: Comparison) -> dict[str, Any]:
    return {key: getattr(one, key) for key in _COMPARISON}


def _latency(row: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key not in _RAW}
