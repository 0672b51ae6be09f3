"""The report as JSON: what it says and the numbers that it says it of, for other programs.

docs/reference/report.md has the keys. The figures of the page are here, unrounded: those of
results.json, and those that the report itself works out (by subject, by protocol, answers not read,
effect of overlap, memory, front). Verdicts and sentences are the page's. Questions, answers and raw
timings stay in the run's tables.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from .comparing.gate import finite
from .formatting import Estimate
from .report import Report
from .sections.memory import Forecast
from .sections.overlap import Check
from .sections.scores import Group, Score, Task
from .verdicts import Comparison

FORMAT = 1
"""Version of these keys."""
_TASK = ("name", "protocol", "higher_is_better", "chance", "source", "licence")
_SCORE = ("value", "low", "high", "n", "unparsed", "truncated")
_RAW = ("ttft_ms", "tpot_ms")
_MEMORY = ("precision", "weights", "adapter", "optimizer", "activations", "peak", "measured")
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
        "subjects": _plain(report.subjects),
        "protocols": [
            {
                "data": one.data,
                "columns": _plain(one.columns),
                "models": {model: _plain(cells) for model, cells in one.rows},
            }
            for one in report.protocols
        ],
        "answers": [asdict(one) | {"unparsed": one.unparsed} for one in report.parsing],
        "judge": _plain(report.judged),
        "tunings": [
            {"model": one.model, "facts": dict(one.facts)} for one in report.trainings
        ],
        "memory": [_memory(one) for one in report.memory],
        "exports": [
            {"model": one.model, "format": one.format, "facts": dict(one.facts)}
            for one in report.exports
        ],
        "latency": [_latency(row) for row in report.latency],
        "front": _plain(report.front),
        "overlap": [_check(check) for check in report.overlap],
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
            key: getattr(score.calibration, key)
            for key in ("confidence", "accuracy", "ece", "brier", "aurc")
        }
    if score.orders:
        found["orders"] = asdict(score.orders)
    return found


def _comparison(one: Comparison) -> dict[str, Any]:
    return {key: getattr(one, key) for key in _COMPARISON}


def _memory(one: Forecast) -> dict[str, Any]:
    lines = [{key: getattr(line, key) for key in _MEMORY} for line in one.lines]
    return {
        "model": one.model, "precision": one.precision, "lines": lines,
        "sentences": list(one.sentences),
    }  # fmt: skip


def _check(one: Check) -> dict[str, Any]:
    return {
        "title": one.title, "statement": one.statement, "policy": one.policy,
        "pairs": len(one.pairs) + one.more, "effects": _plain(one.effects),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Fields by name; an estimate without the way to show it."""
    if isinstance(value, Estimate):
        return {key: getattr(value, key) for key in ("value", "low", "high")}
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _latency(row: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key not in _RAW}
