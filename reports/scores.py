"""Tasks and their scores, as results.json has them, with the way to show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .calibration import (
    Calibration,
    OrderEffect,
    even_guess,
    order_sentence,
    read_calibration,
    read_orders,
)
from .formatting import Scale, percent, scale_of
from .verdicts import Comparison

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
    def chance_shown(self) -> str:
        return percent(self.chance)

    @property
    def even_guess(self) -> Calibration | None:
        return None if self.chance is None else even_guess(self.chance)

    @property
    def order_sentence(self) -> str:
        """How much its models depend on the order of the options; empty where that is not known."""
        found = [(score.model, score.orders) for score in self.scores if score.orders]
        return order_sentence(self.name, found) if found else ""


def read_tasks(results: dict[str, Any]) -> tuple[Task, ...]:
    """Every task of results.json, each with the comparisons that concern it."""
    compared = results.get("comparisons", [])
    return tuple(
        _task(name, task, [one for one in compared if one["task"] == name])
        for name, task in results.get("tasks", {}).items()
    )


def _task(name: str, task: dict[str, Any], compared: list[dict[str, Any]]) -> Task:
    metric, higher = task["metric"], bool(task.get("higher_is_better", True))
    scale = scale_of(metric)
    by_tuned = {one["tuned"]: Comparison.read(one, higher) for one in compared}
    scores = tuple(
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
        for model, score in task.get("scores", {}).items()
    )
    return Task(
        name=name,
        protocol=str(task.get("protocol") or ""),
        metric=metric,
        higher_is_better=higher,
        chance=task.get("chance"),
        source=str(task.get("source") or ""),
        licence=str(task.get("licence") or ""),
        scores=scores,
    )
