"""The figure of a history: small multiples, a panel for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..history.history import History, Line
from ..sections.scores import Task
from .charts import BASE, TUNED, Chart
from .plot import Look, frame, grid, legend, title
from .svg import INK, render


def draw(history: History) -> Chart:
    """A panel for each task: every model's score and interval by run."""
    looks = {
        model: TUNED[history.tuned.index(model) % len(TUNED)] if model in history.tuned else BASE
        for model in history.models
    }
    figure, said = grid(len(history.tasks)), list[str]()
    for ax, task in zip(figure.axes, history.tasks, strict=True):
        lines = [line for line in history.lines if line.task.name == task.name]
        said += _panel(ax, task, lines, looks, len(history.runs))
    legend(figure, looks)
    description = " ".join(said)
    name = "Scores by run"
    return Chart("history", name, description, render(figure, "history", name, description))


def _panel(
    ax: Any, task: Task, lines: Sequence[Line], looks: dict[str, Look], runs: int
) -> list[str]:
    said, reach = [], [0.0]
    for place, line in enumerate(lines):
        look, factor = looks[line.model], (100 if task.metric == "acc" else 1)
        shift = 0.12 * (place - (len(lines) - 1) / 2)
        points = [
            (number + shift, factor * score.value, [score.low, score.high])
            for number, score in enumerate((point.score for point in line.points), 1)
            if score and score.value is not None
        ]
        ax.plot(
            [x for x, *_ in points], [y for _, y, _ in points], color=look.colour, lw=1.2,
            alpha=0.6, marker=look.marker, ms=6, mew=0, clip_on=False,
        )  # fmt: skip
        for x, y, (low, high) in points:
            reach.append(y)
            if low is not None and high is not None:
                ax.plot([x, x], [factor * low, factor * high], color=look.colour, lw=2, alpha=0.75)
                reach.append(factor * high)
        shown = ", ".join(point.shown or "–" for point in line.points)
        said.append(f"{task.name}, {line.model}: {shown}.")
    ax.set_ylim(0, 100 if task.metric == "acc" else 1.06 * max(*reach, 1e-9))
    ax.set_xlim(0.6, runs + 0.4)
    unit = "% right" if task.metric == "acc" else task.metric.replace("_", " ")
    frame(ax, f"{unit}, by run", rules="y")
    ax.locator_params(axis="y", nbins=5 if task.metric == "acc" else 3)
    step = -(-runs // 8)
    ax.set_xticks(range(1, runs + 1, step))
    title(ax, task.name)
    if task.chance is not None:
        ax.axhline(100 * task.chance, color=INK, lw=1, ls=(0, (2, 2)), alpha=0.7)
    return said
