"""What a judge found beside exact match, and how far the two agree (docs/how-to/judge.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..formatting import DASH, count, interval, number, percent
from .scores import Task

JUDGED = (
    "A judge is a second opinion and changes no score. Where it cannot be read, or there was no "
    "final answer to judge, the answer counts as not correct. Agreement with exact match is over "
    "the readable verdicts; κ (Cohen) is 1 where the two always agree and 0 where they agree as "
    "often as chance makes them."
)


@dataclass(frozen=True)
class Judged:
    """The verdicts on one model and task.

    Attributes:
        value: Share of all *n* answers found correct, with *low* and *high*.
        exact: The task's own score; None where it is no exact match.
        agreement: ``rate``, ``low``, ``high``, ``kappa``, ``judge_only``, ``exact_only``, ``n``;
            empty where exact match graded nothing.
    """

    model: str
    task: str
    judge: str
    n: int
    value: float | None
    low: float | None
    high: float | None
    unreadable: int
    unanswered: int
    exact: float | None
    agreement: dict[str, Any]

    @property
    def shown(self) -> str:
        return percent(self.value)

    @property
    def interval(self) -> str:
        return _interval(self.low, self.high)

    @property
    def cells(self) -> tuple[str, ...]:
        """Exact match, agreement, its interval, κ, judge only, exact match only."""
        found = self.agreement
        if not found:
            return (percent(self.exact), DASH, "", DASH, DASH, DASH)
        return (
            percent(self.exact),
            percent(found.get("rate")),
            _interval(found.get("low"), found.get("high")),
            number(found.get("kappa"), 2),
            count(found.get("judge_only")),
            count(found.get("exact_only")),
        )

    @property
    def line(self) -> str:
        """One line for the terminal."""
        parts = [f"judge {self.shown} ({self.interval})"]
        if self.agreement:
            kappa = number(self.agreement.get("kappa"), 2)
            parts.append(
                f"agrees with exact match on {percent(self.agreement.get('rate'))}, κ {kappa}"
            )
        if self.unreadable:
            parts.append(count(self.unreadable, "unreadable verdict"))
        if self.unanswered:
            parts.append(f"{count(self.unanswered)} unanswered")
        return "; ".join(parts)


def read_judged(results: dict[str, Any], tasks: Sequence[Task]) -> tuple[Judged, ...]:
    """The judge's entries of results.json; empty without a judge."""
    exact = {
        (score.model, task.name): score.value
        for task in tasks
        for score in task.scores
        if task.metric == "acc"
    }
    return tuple(
        Judged(
            model=one["model"],
            task=one["task"],
            judge=str(one.get("judge") or ""),
            n=int(one.get("n") or 0),
            **{key: one.get(key) for key in ("value", "low", "high")},
            **{key: int(one.get(key) or 0) for key in ("unreadable", "unanswered")},
            exact=exact.get((one["model"], one["task"])),
            agreement=one.get("agreement") or {},
        )
        for one in results.get("judge") or []
    )


def who_judged(judged: Sequence[Judged]) -> str:
    """The judge or judges, in words; empty without one."""
    names = list(dict.fromkeys(one.judge for one in judged if one.judge))
    if not names:
        return ""
    return f"Judged by {', '.join(names)}."


def _interval(low: float | None, high: float | None) -> str:
    low, high = (None if end is None else 100 * end for end in (low, high))
    return interval(low, high)
