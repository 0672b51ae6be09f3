"""Tasks and their scores, as results.json has them, with the way to show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..formatting import DASH, Scale, count, percent, scale_of
from ..verdicts import Comparison
from .calibration import (
    Calibration,
    OrderEffect,
    even_guess,
    order_sentence,
    read_calibration,
    read_orders,
)

NAMES = {"acc": "accuracy", "bits_per_byte": "bits per byte"}


@dataclass(frozen=True)
class Score:
    """One model on one task, with the tuned models' comparison with their base."""

    model: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    unparsed: float | None
    truncated: float | None
    scale: Scale
    comparison: Comparison | None
    calibration: Calibration | None
    orders: OrderEffect | None

    @property
    def shown(self) -> str:
        return self.scale.value(self.value)

    @property
    def interval(self) -> str:
        return self.scale.interval(self.low, self.high)

    @property
    def detectable(self) -> str:
        """The smallest true difference that its questions show; empty without a comparison."""
        one = self.comparison
        return one.scale.difference(one.smallest_detectable, signed=False) if one else ""


@dataclass(frozen=True)
class Task:
    """One task with the scores of every model, in the order of the run."""

    name: str
    protocol: str
    metric: str
    higher_is_better: bool
    chance: float | None
    source: str
    licence: str
    scores: tuple[Score, ...]

    @property
    def metric_shown(self) -> str:
        name = NAMES.get(self.metric, self.metric.replace("_", " "))
        return name if self.higher_is_better else f"{name}, lower is better"

    @property
    def about(self) -> str:
        """Metric and size."""
        return f"{self.metric_shown}{f', n = {self.scores[0].n}' if self.scores else ''}"

    @property
    def chance_shown(self) -> str:
        return percent(self.chance)

    @property
    def asked(self) -> str:
        """How many questions, of each model where they were not asked the same number."""
        sizes = {score.model: count(score.n) for score in self.scores}
        if len(set(sizes.values())) == 1:
            return next(iter(sizes.values()))
        return ", ".join(f"{model} {size}" for model, size in sizes.items()) or DASH

    @property
    def even_guess(self) -> Calibration | None:
        return None if self.chance is None else even_guess(self.chance)

    @property
    def order_sentence(self) -> str:
        """How much its models depend on the order of the options; empty where that is not known."""
        found = [(score.model, score.orders) for score in self.scores if score.orders]
        return order_sentence(self.name, found) if found else ""


@dataclass(frozen=True)
class Data:
    """Where the questions of *tasks* come from."""

    tasks: tuple[str, ...]
    source: str
    licence: str


@dataclass(frozen=True)
class Group:
    """Tasks whose questions are pooled, each counting once."""

    name: str
    members: tuple[str, ...]
    metric: str
    scores: tuple[Score, ...]

    @property
    def metric_shown(self) -> str:
        name = NAMES.get(self.metric, self.metric.replace("_", " "))
        return f"{name} over {count(len(self.members), 'task')}"

    @property
    def about(self) -> str:
        """Metric, number of tasks and of questions."""
        return f"{self.metric_shown}{f', n = {self.scores[0].n}' if self.scores else ''}"


def read_tasks(results: dict[str, Any]) -> tuple[Task, ...]:
    """Every task of results.json, each with the comparisons that concern it."""
    compared = results.get("comparisons", [])
    return tuple(
        _task(name, task, [one for one in compared if one["task"] == name])
        for name, task in results.get("tasks", {}).items()
    )


def data_of(tasks: Sequence[Task]) -> tuple[Data, ...]:
    """Sources and licences, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        found.setdefault((task.source, task.licence), []).append(task.name)
    return tuple(Data(tuple(names), *where) for where, names in found.items())


def read_groups(results: dict[str, Any]) -> tuple[Group, ...]:
    """The groups of results.json; those of a format without a metric are accuracies."""
    return tuple(
        Group(
            name=name,
            members=tuple(map(str, group.get("members", []))),
            metric=group.get("metric", "acc"),
            scores=_scores(
                group.get("scores", {}), group.get("metric", "acc"), True,
                group.get("comparisons", []),
            ),
        )
        for name, group in (results.get("groups") or {}).items()
    )  # fmt: skip


def _task(name: str, task: dict[str, Any], compared: list[dict[str, Any]]) -> Task:
    metric, higher = task["metric"], bool(task.get("higher_is_better", True))
    return Task(
        name=name,
        protocol=str(task.get("protocol") or ""),
        metric=metric,
        higher_is_better=higher,
        chance=task.get("chance"),
        source=str(task.get("source") or ""),
        licence=str(task.get("licence") or ""),
        scores=_scores(task.get("scores", {}), metric, higher, compared),
    )


def _scores(
    found: dict[str, Any], metric: str, higher: bool, compared: list[dict[str, Any]]
) -> tuple[Score, ...]:
    scale = scale_of(metric)
    by_tuned = {one["tuned"]: Comparison.read(one, higher) for one in compared}
    return tuple(
        Score(
            model=model,
            value=score.get("value"),
            low=score.get("low"),
            high=score.get("high"),
            n=int(score.get("n") or 0),
            unparsed=score.get("unparsed"),
            truncated=score.get("truncated"),
            scale=scale,
            comparison=by_tuned.get(model),
            calibration=read_calibration(score),
            orders=read_orders(score),
        )
        for model, score in found.items()
    )
