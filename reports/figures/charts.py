"""The figures of a report, drawn for a column 440 CSS pixels wide.

Labels stand above their rows instead of beside them, so that a figure keeps its whole width for
the data and stays legible on a phone. The base is grey and round, tuned models are coloured and
angular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..formatting import number
from ..report import Report
from ..sections.scores import Task
from .calibration import reliability, risk_coverage
from .forest import forest
from .latency import scatter, strips
from .memory import memory
from .plot import SMALL, Look, bands, frame, guide, heading, interval, label, legend, page
from .svg import INK, render
from .training import curves

BASE = Look("#848d97", "o")
TUNED = (Look("#2f7de1", "D"), Look("#d1660a", "s"), Look("#1a9a74", "^"), Look("#b25fa5", "v"))
"""Mid-tones that keep a contrast of 3 on white and on near-black, apart for colour-blind eyes."""
NAMES = (
    "accuracy", "differences", "reliability", "risk", "loss", "memory", "latency", "front",
)  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """One figure: ``svg`` is whole and usable inline or as a file; ``figure`` is matplotlib's."""

    name: str
    title: str
    description: str
    svg: str
    figure: Any = field(default=None, repr=False, compare=False)


def draw(report: Report) -> tuple[Chart, ...]:
    """The figures that this report has data for."""
    found = (
        _accuracy(report), _differences(report), *_calibration(report), _loss(report),
        _memory(report), _latency(report), _front(report),
    )  # fmt: skip
    return tuple(chart for chart in found if chart)


def _accuracy(report: Report) -> Chart | None:
    tasks = [task for task in report.tasks if task.metric == "acc" and task.scores]
    if not tasks:
        return None
    looks = _looks(report)
    heights = [36 + 18 * len(task.scores) for task in tasks]
    figure, [ax] = page(sum(heights))
    ax.set_xlim(0, 100)
    chance = "; dashed: chance" if any(task.chance is not None for task in tasks) else ""
    frame(ax, f"% right, with 95 % interval{chance}")
    tops = [sum(heights[:place]) for place in range(len(tasks))]
    bands(ax, [(top + 21, top + height - 11) for top, height in zip(tops, heights, strict=True)])
    said = []
    for top, task in zip(tops, tasks, strict=True):
        said += _accuracy_rows(ax, top, task, looks)
    legend(figure, {score.model: looks[score.model] for task in tasks for score in task.scores})
    return _chart(figure, "accuracy", "Accuracy of each model per task", said)


def _accuracy_rows(ax: Any, top: float, task: Task, looks: dict[str, Look]) -> list[str]:
    label(ax, top + 11, task.name)
    if task.chance is not None:
        ends = (top + 21, top + 25 + 18 * len(task.scores))
        guide(ax, [100 * task.chance] * 2, ends)
    said = []
    for place, score in enumerate(task.scores):
        if score.value is None:
            continue
        y = top + 32 + 18 * place
        value = 100 * score.value
        low, high = (value if end is None else 100 * end for end in (score.low, score.high))
        interval(ax, y, (value, low, high), looks[score.model])
        # Near the right edge the value is written left of its interval.
        at, side = (high + 2.5, "left") if high < 86 else (low - 2.5, "right")
        if side == "left" and -1 < 100 * (task.chance or 0) - at < 9:
            at = 100 * (task.chance or 0) + 2.5  # clear of the dashes
        ax.text(at, y, number(value), ha=side, va="center", color=INK, fontsize=SMALL)
        said.append(f"{task.name}, {score.model}: {score.shown} ({score.interval}).")
    return said


def _differences(report: Report) -> Chart | None:
    shown = [one for one in report.comparisons if one.difference is not None]
    if not shown:
        return None
    several = len({one.tuned for one in shown}) > 1
    figure = forest(shown, _looks(report), named=several)
    pair = (
        "each model minus the one it stands on"
        if several
        else f"{shown[0].tuned} minus {shown[0].base}"
    )
    heading(figure, f"{pair}, same questions")
    said = [one.sentence for one in shown]
    return _chart(figure, "differences", "Paired differences, tuned minus base", said)


def _calibration(report: Report) -> list[Chart]:
    tasks, looks = report.calibrated, _looks(report)
    if not tasks:
        return []
    figure, said = reliability(tasks, looks)
    chart = _chart(figure, "reliability", "Accuracy against confidence", said)
    figure, said = risk_coverage(tasks, looks)
    return [chart, _chart(figure, "risk", "Error rate when only the surest answers count", said)]


def _loss(report: Report) -> Chart | None:
    trainings = [training for training in report.trainings if training.losses]
    if not trainings:
        return None
    figure, said = curves(trainings, _looks(report))
    return _chart(figure, "loss", "Training loss", said)


def _memory(report: Report) -> Chart | None:
    if not report.memory:
        return None
    figure, said = memory(report.memory)
    return _chart(figure, "memory", "Memory of tuning by precision", said)


def _latency(report: Report) -> Chart | None:
    rows = [row for row in report.latency if row.ttft_ms]
    if not rows:
        return None
    figure, said = strips(rows, _looks(report), BASE)
    return _chart(figure, "latency", "Latency of single requests", said)


def _front(report: Report) -> Chart | None:
    if report.front is None:
        return None
    figure, said = scatter(report.front, _looks(report), BASE)
    return _chart(figure, "front", "Accuracy against latency", said)


def _looks(report: Report) -> dict[str, Look]:
    """The look of every model: grey for a base, the tuned ones by their place."""
    names = dict.fromkeys(model.name for model in report.models)
    names |= dict.fromkeys(score.model for task in report.tasks for score in task.scores)
    names |= dict.fromkeys(training.model for training in report.trainings)
    tuned = report.tuned
    return {
        name: TUNED[tuned.index(name) % len(TUNED)] if name in tuned else BASE for name in names
    }


def _chart(figure: Any, name: str, title: str, said: Sequence[str]) -> Chart:
    description = " ".join(said)
    return Chart(name, title, description, render(figure, name, title, description), figure)
