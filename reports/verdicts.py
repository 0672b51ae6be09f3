"""A paired difference in plain words.

"Better" and "worse" are said only when the 95 % interval leaves out 0 and, where there is a test,
the test agrees; otherwise the sentence says how large a difference the data cannot exclude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .formatting import NBSP, Number, Scale, p_value

Verdict = Literal["better", "worse", "no difference shown", "inconclusive"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """tuned − base on one task, as results.json has it, with the way to show it."""

    task: str
    base: str
    tuned: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str
    only_base_right: int | None
    only_tuned_right: int | None
    higher_is_better: bool
    scale: Scale

    @property
    def verdict(self) -> Verdict:
        if self.difference is None or self.low is None or self.high is None:
            return "inconclusive"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        if self.p is not None and self.p >= 1 - CONFIDENCE:
            return "inconclusive"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"

    @property
    def shown(self) -> str:
        return self.scale.difference(self.difference)

    @property
    def interval(self) -> str:
        return self.scale.interval(self.low, self.high)

    @property
    def sentence(self) -> str:
        """The verdict in plain words, with its evidence in brackets."""
        said = self.statement
        return f"{said[:-1]}: {self.verdict}." if self.verdict in ("better", "worse") else said

    @property
    def statement(self) -> str:
        """The sentence without its closing word, for where that word stands beside it."""
        d, low, high = self.difference, self.low, self.high
        if self.n == 0 or d is None:
            return f"{self.tuned} and {self.base} answered no question of {self.task} in common."
        if low is None or high is None:
            return (
                f"{self.tuned} differs from {self.base} on {self.task} by {self._amount(d)} over "
                f"{self.n}{NBSP}question{'s' if self.n > 1 else ''}: too few for an interval, "
                "so no verdict."
            )
        if low == high == 0:
            return (
                f"{self.tuned} and {self.base} score the same on each of the {self.n} questions "
                f"of {self.task}: no difference shown{self._unseen()}."
            )
        if self.verdict == "no difference shown":
            reach = max(abs(low), abs(high))
            return (
                f"No difference shown between {self.tuned} and {self.base} on {self.task} "
                f"({self.shown}{NBSP}{self.scale.step}, {self._evidence(low, high)}); a difference "
                f"of up to {self._amount(reach)} either way cannot be excluded."
            )
        size, ends = abs(d), (low, high) if d > 0 else (-high, -low)
        evidence = self._evidence(*ends)
        if self.verdict == "inconclusive":
            return f"{self._claim(size)} ({evidence}): interval and test disagree, inconclusive."
        return f"{self._claim(size)} ({evidence})."

    def _unseen(self) -> str:
        """What n questions without one disagreement leave open (Clopper and Pearson's bound)."""
        if self.scale.unit != "%":
            return ""
        reach = self._amount(1 - ((1 - CONFIDENCE) / 2) ** (1 / self.n))
        return f"; a difference of up to {reach} either way cannot be excluded"

    def _claim(self, size: float) -> str:
        more = (self.difference or 0) > 0
        if self.scale.unit == "%":
            return (
                f"{self.tuned} answers {self._amount(size)} {'more' if more else 'fewer'} of "
                f"{self.task} right than {self.base}"
            )
        return (
            f"{self.tuned} needs {self._amount(size)} {'more' if more else 'less'} than "
            f"{self.base} on {self.task}"
            if not self.higher_is_better
            else f"{self.tuned} scores {self._amount(size)} {'higher' if more else 'lower'} than "
            f"{self.base} on {self.task}"
        )

    def _amount(self, size: float) -> str:
        return f"{self.scale.difference(size, signed=False)}{NBSP}{self.scale.step}"

    def _evidence(self, low: Number, high: Number) -> str:
        parts = [] if self.higher_is_better else ["lower is better"]
        parts += [
            f"95{NBSP}% interval {self.scale.interval(low, high)}",
            f"n{NBSP}={NBSP}{self.n}",
        ]
        if self.p is not None and math.isfinite(self.p):
            shown = p_value(self.p)
            sign = "" if shown.startswith("<") else f"={NBSP}"
            parts.append(f"{self.test} p{NBSP}{sign}{shown}")
        return ", ".join(parts)


def headline(tuned: str, comparisons: Sequence[Comparison]) -> str:
    """One sentence for one tuned model over all its tasks."""
    found: dict[str, list[str]] = {}
    for one in comparisons:
        found.setdefault(one.verdict, []).append(one.task)
    base, total = comparisons[0].base, len(comparisons)
    clauses = [
        f"is {verdict} than {base} on {_tasks(found[verdict], total)}"
        for verdict in ("better", "worse")
        if verdict in found
    ]
    sentence = f"{tuned} {' and '.join(clauses)}" if clauses else ""
    rest = [
        f"{said} on {_tasks(found[verdict], total)}"
        for verdict, said in (
            ("no difference shown", "no difference is shown"),
            ("inconclusive", "the comparison is inconclusive"),
        )
        if verdict in found
    ]
    if not sentence:
        return f"{tuned} against {base}: {'; '.join(rest)}."
    return "; ".join([sentence, *rest]) + "."


def _tasks(names: list[str], total: int) -> str:
    if len(names) == 1:
        return names[0]
    if len(names) == total:
        return "both tasks" if total == 2 else f"all {total} tasks"
    return f"{len(names)} of {total} tasks"
