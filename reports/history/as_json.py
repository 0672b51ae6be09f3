"""A history as JSON; docs/reference/report.md has the keys."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..comparing.gate import finite
from .history import History, Point

FORMAT = 1
"""Version of these keys."""


def render(history: History) -> str:
    """The text of history.json, as ASCII."""
    return json.dumps(finite(as_value(history)), indent=2, allow_nan=False) + "\n"


def as_value(history: History) -> dict[str, Any]:
    """The JSON value: values of results.json unrounded, sentences as on the page."""
    return {
        "format": FORMAT,
        "title": history.title,
        "headlines": list(history.headlines),
        "models": list(history.models),
        "method": history.method,
        "runs": [
            {
                "label": run.label, "created": run.report.created,
                "headlines": list(run.report.headlines), "problems": list(run.report.problems),
            }
            for run in history.runs
        ],
        "scores": [
            {
                "task": line.task.name, "metric": line.task.metric, "model": line.model,
                "points": [_point(point) for point in line.points],
            }
            for line in history.lines
        ],
        "gates": [asdict(gate) for gate in history.gates],
    }  # fmt: skip


def _point(point: Point) -> dict[str, Any] | None:
    if point.score is None:
        return None
    return {key: getattr(point.score, key) for key in ("value", "low", "high", "n")}
