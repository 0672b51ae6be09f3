"""Accuracy against latency of all that was both scored and timed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ...harness.naming import MARK
from ..formatting import count, milliseconds, percent
from .latency import Latency
from .scores import Task


@dataclass(frozen=True)
class Point:
    """One model in one format: how often it is right, and how long a token takes.

    Attributes:
        model: As scored, e.g. ``tuned@onnx-int4``.
        base: The model that it is, or was made from: decides how it is drawn.
        runtime: Engine and format.
        accuracy, low, high: Mean over the tasks and its 95 % interval, fractions.
        tpot_ms: Median time per following token.
        best: Whether nothing else is at least as accurate and as fast, and better in one of both.
    """

    model: str
    base: str
    runtime: str
    accuracy: float
    low: float
    high: float
    tpot_ms: float
    best: bool

    @property
    def name(self) -> str:
        return f"{self.base}, {self.runtime}"

    @property
    def time(self) -> str:
        return milliseconds(self.tpot_ms)

    @property
    def sentence(self) -> str:
        shown = f"{percent(self.accuracy)} ({percent(self.low)} to {percent(self.high)})"
        rank = "on the front" if self.best else "behind the front"
        return f"{self.name}: {shown}, {milliseconds(self.tpot_ms)} ms a token, {rank}."


@dataclass(frozen=True)
class Front:
    """Accuracy against latency of all that was both scored and timed.

    Attributes:
        points: Fastest first.
        tasks: Whose accuracies are averaged, each task counting once.
        shape: Of the requests timed.
        unscored: What was timed and not scored as it is.
    """

    points: tuple[Point, ...]
    tasks: tuple[str, ...]
    shape: str
    unscored: tuple[str, ...]

    @property
    def about(self) -> str:
        """What is seen, in one sentence."""
        tasks = f"the mean of {count(len(self.tasks), 'task')}" if self.tasks[1:] else self.tasks[0]
        left = f" Not scored: {', '.join(self.unscored)}." if self.unscored else ""
        return (
            f"Accuracy ({tasks}) against the median time per following token ({self.shape}). A "
            "model is on the front when no other is at least as accurate and as fast. Intervals of "
            f"neighbours that overlap do not decide an order.{left}"
        )


def front(latency: Iterable[Latency], tasks: Iterable[Task]) -> Front | None:
    """Accuracy against latency over the first shape timed; None with fewer than two points.

    A torch series has its model's accuracy. An ONNX series has that of the export, which must have
    been scored under its own name: how much a format costs is what the picture is about.
    """
    rows = list(latency)
    judged = [task for task in tasks if task.metric == "acc" and task.scores]
    if not rows or not judged:
        return None
    found, unscored = [], []
    for row in rows:
        if row.shape != rows[0].shape or not row.percentiles.get("tpot_ms_p50"):
            continue
        onnx = row.engine == "onnxruntime"
        model = f"{row.model}{MARK}{row.format}" if onnx else row.model
        score = _mean(judged, model)
        if score is None:
            unscored.append(f"{row.model} in {row.runtime}")
        else:
            found.append((row, model, score))
    if len(found) < 2:
        return None
    spots = [(score[0], row.percentiles["tpot_ms_p50"] or math.inf) for row, _, score in found]
    points = [
        Point(model, row.model, row.runtime, *score, tpot_ms=spot[1], best=_best(spot, spots))
        for (row, model, score), spot in zip(found, spots, strict=True)
    ]
    points.sort(key=lambda point: point.tpot_ms)
    names = tuple(task.name for task in judged)
    return Front(tuple(points), names, rows[0].shape, tuple(unscored))


def _best(spot: tuple[float, float], spots: list[tuple[float, float]]) -> bool:
    """Whether no other spot (accuracy, time) is at least as good in both and not the same."""
    return not any(other[0] >= spot[0] and other[1] <= spot[1] and other != spot for other in spots)


def _mean(tasks: list[Task], model: str) -> tuple[float, float, float] | None:
    """Mean accuracy of *model* and its interval, from those of the tasks; None where one lacks."""
    scores = [score for task in tasks for score in task.scores if score.model == model]
    if len(scores) != len(tasks):
        return None
    values, below, above = [], 0.0, 0.0
    for score in scores:
        if score.value is None or score.low is None or score.high is None:
            return None
        values.append(score.value)
        below += (score.value - score.low) ** 2
        above += (score.high - score.value) ** 2
    mean, n = sum(values) / len(values), len(values)
    # Tasks are independent: squared distances to the ends add up (Newcombe 1998, method 10).
    return mean, max(0.0, mean - math.sqrt(below) / n), min(1.0, mean + math.sqrt(above) / n)
