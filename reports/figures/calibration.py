"""The figures of calibration: small multiples over tasks, every model in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..formatting import number, percent
from ..sections.calibration import Calibration
from ..sections.scores import Task
from .plot import Look, frame, grid, guide, legend, title

Drawing = tuple[Any, list[str]]
"""A figure, and what is seen in it."""
QUARTERS = (0, 25, 50, 75, 100)
LARGEST, SMALLEST = 21, 5
"""Pixels across a bin that holds all answers, and across one that holds hardly any."""


def reliability(tasks: Sequence[Task], looks: Mapping[str, Look]) -> Drawing:
    """Accuracy against confidence; the area of a point is its bin's share of the answers."""
    figure, said = grid(len(tasks)), []
    for ax, task in _panels(figure, tasks, "% right, by % confidence", 100):
        ax.set_yticks(QUARTERS)
        guide(ax, (0, 100), (0, 100))
        for model, found in _models(task):
            look, total = looks[model], sum(one.n for one in found.bins)
            for one in found.bins:
                size = max(LARGEST * (one.n / total) ** 0.5, SMALLEST)
                ax.plot(
                    [100 * one.confidence], [100 * one.accuracy], marker=look.marker, ms=size,
                    mew=0, color=look.colour, alpha=0.85, clip_on=False,
                )  # fmt: skip
            said.append(
                f"{task.name}, {model}: {percent(found.confidence)} sure on average, "
                f"{percent(found.accuracy)} right, ECE {number(found.ece, 3)}."
            )
    return _finish(figure, looks, tasks), said


def risk_coverage(tasks: Sequence[Task], looks: Mapping[str, Look]) -> Drawing:
    """Error rate against the share of questions answered, the surest answers first."""
    figure, said = grid(len(tasks)), []
    risks = [
        risk for task in tasks for _, found in _models(task) for _, risk in found.risk_coverage
    ]
    risks += [1 - task.chance for task in tasks if task.chance is not None]
    top = min(max(106 * max(risks, default=1), 5), 100)
    for ax, task in _panels(figure, tasks, "% wrong, by % answered", top):
        if task.chance is not None:
            guide(ax, (0, 100), [100 * (1 - task.chance)] * 2)
        for model, found in _models(task):
            if not found.risk_coverage:
                continue
            look = looks[model]
            points = [(100 * share, 100 * risk) for share, risk in found.risk_coverage]
            ax.plot(
                *zip(*points, strict=True), color=look.colour, lw=1.8, marker=look.marker, ms=5,
                mew=0, clip_on=False,
            )  # fmt: skip
            ends = [
                f"{percent(risk)} wrong at {percent(share, 0)} answered"
                for share, risk in (found.risk_coverage[0], found.risk_coverage[-1])
            ]
            said.append(f"{task.name}, {model}: {', '.join(ends)}.")
    return _finish(figure, looks, tasks), said


def _panels(
    figure: Any, tasks: Sequence[Task], unit: str, top: float
) -> Iterator[tuple[Any, Task]]:
    for place, (ax, task) in enumerate(zip(figure.axes, tasks, strict=True)):
        ax.set_xlim(0, 100)
        ax.set_ylim(0, top)
        frame(ax, unit, rules="y")
        ax.set_xticks(QUARTERS)
        ax.tick_params(labelleft=place % 2 == 0)
        title(ax, task.name)
        yield ax, task


def _models(task: Task) -> Iterator[tuple[str, Calibration]]:
    for score in task.scores:
        if score.calibration and score.calibration.bins:
            yield score.model, score.calibration


def _finish(figure: Any, looks: Mapping[str, Look], tasks: Sequence[Task]) -> Any:
    shown = {model for task in tasks for model, _ in _models(task)}
    legend(figure, {model: look for model, look in looks.items() if model in shown})
    return figure
