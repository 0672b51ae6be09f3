"""A paired difference in plain words.

"Better" and "worse" are said only when the 95 % interval leaves out 0 and the test, adjusted for
the number of tasks, agrees; otherwise the sentence says how large a difference the data cannot
exclude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .formatting import NBSP, Number, Scale, p_value, scale_of

Verdict = Literal["better", "worse", "no difference shown", "inconclusive"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """tuned − base on one task, as results.json has it, with the way to show it.

    Where two runs are compared that are not base and tuned, ``base`` names the first.
    """

    task: str
    base: str
    tuned: str
    n: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    test: str
    discordant: tuple[int, int] | None
    smallest_detectable: float | None
    higher_is_better: bool
    scale: Scale
    confidence: float = CONFIDENCE

    @classmethod
    def read(cls, one: Mapping[str, Any], higher_is_better: bool) -> Comparison:
        """From an entry of ``comparisons`` in results.json; NaN counts as missing, like null."""
        numbers = ("a", "b", "difference", "low", "high", "p", "p_holm", "smallest_detectable")
        only_a, only_b = one.get("discordant") or (None, None)
        return cls(
            task=one["task"],
            base=one["base"],
            tuned=one["tuned"],
            n=int(one.get("n") or 0),
            **{name: _known(one.get(name)) for name in numbers},
            test=one.get("test") or "test",
            discordant=None if only_a is None or only_b is None else (int(only_a), int(only_b)),
            higher_is_better=higher_is_better,
            scale=scale_of(one["metric"]),
            confidence=float(one.get("confidence", CONFIDENCE)),
        )

    @property
    def verdict(self) -> Verdict:
        if self.difference is None or self.low is None or self.high is None:
            return "inconclusive"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        p = self.p if self.p_holm is None else self.p_holm
        if p is not None and p >= 1 - self.confidence:
            return "inconclusive"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"

    @property
    def shown(self) -> str:
        return self.scale.difference(self.difference)

    @property
    def interval(self) -> str:
        return self.scale.interval(self.low, self.high)

    @property
    def p_shown(self) -> str:
        """p, and what Holm's adjustment makes of it where that shows."""
        p, adjusted = p_value(self.p), p_value(self.p_holm)
        return p if self.p_holm is None or adjusted == p else f"{p}, adjusted {adjusted}"

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
                f"{self._questions}: too few for an interval, so no verdict."
            )
        if self.verdict == "no difference shown":
            reach = self._amount(max(abs(low), abs(high)))
            found = (
                f"{self.tuned} and {self.base} score the same on each of the {self._questions} of "
                f"{self.task}: no difference shown"
                if self.discordant == (0, 0)
                else f"No difference shown between {self.tuned} and {self.base} on {self.task} "
                f"({self.shown}{NBSP}{self.scale.step}, {self._evidence(low, high)})"
            )
            return (
                f"{found}; a difference of up to {reach} either way cannot be excluded."
                f"{self._sensitivity}"
            )
        size, ends = abs(d), (low, high) if d > 0 else (-high, -low)
        evidence = self._sides + self._evidence(*ends)
        if self.verdict == "inconclusive":
            why = (
                "interval and test disagree"
                if self.p is not None and self.p >= 1 - self.confidence
                else "not enough after adjusting for the number of tasks"
            )
            return f"{self._claim(size)} ({evidence}): {why}, inconclusive."
        return f"{self._claim(size)} ({evidence})."

    @property
    def _sensitivity(self) -> str:
        """How small a difference so many questions show; empty where not known."""
        if self.smallest_detectable is None:
            return ""
        size = self._amount(self.smallest_detectable)
        return f" With {self._questions} a true difference of {size} is shown four times in five."

    @property
    def _questions(self) -> str:
        return f"{self.n}{NBSP}question{'' if self.n == 1 else 's'}"

    def _claim(self, size: float) -> str:
        more = (self.difference or 0) > 0
        verb, word = ("scores", "higher" if more else "lower")
        if not self.higher_is_better:
            verb, word = ("needs", "more" if more else "less")
        return f"{self.tuned} {verb} {self._amount(size)} {word} than {self.base} on {self.task}"

    @property
    def _sides(self) -> str:
        """Both values, where they are known."""
        if self.a is None or self.b is None:
            return ""
        return f"{self.scale.value(self.b)} against {self.scale.value(self.a)}; "

    def _amount(self, size: float) -> str:
        return f"{self.scale.difference(size, signed=False)}{NBSP}{self.scale.step}"

    def _evidence(self, low: Number, high: Number) -> str:
        parts = [] if self.higher_is_better else ["lower is better"]
        parts += [
            f"{100 * self.confidence:g}{NBSP}% interval {self.scale.interval(low, high)}",
            f"n{NBSP}={NBSP}{self.n}",
        ]
        if self.p is not None and math.isfinite(self.p):
            shown = p_value(self.p)
            sign = "" if shown.startswith("<") else f"={NBSP}"
            parts.append(f"{self.test} p{NBSP}{sign}{shown}")
            adjusted = p_value(self.p_holm)
            if self.p_holm is not None and adjusted != shown:
                parts.append(f"adjusted {adjusted}")
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


def _known(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
