"""A table of scores, or of pairs of scores, in numbers: its ratio, standard error and bounds.

What stats.py says in words of statistics is computed here; formulas and sources are in
docs/reference/statistics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ...errors import InputError
from .distributions import normal_above, normal_quantile, t_above, t_quantile
from .intervals import tango, tango_z, unseen

ACCURACY = "acc"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """Σ score / Σ weight over *n* clusters, its clustered standard error; NaN where undefined."""

    value: float
    stderr: float
    n: int

    @classmethod
    def of(cls, score: Array, weight: Array, codes: npt.NDArray[np.intp]) -> Ratio:
        """The ratio; *codes* are the rows' clusters, counted from 0."""
        if len(score) == 0:
            return cls(math.nan, math.nan, 0)
        total = float(weight.sum())
        value = float(score.sum()) / total
        residual = np.bincount(codes, weights=score - value * weight)
        n = len(residual)
        if n == 1:
            return cls(value, math.nan, 1)
        return cls(value, float(residual.std(ddof=1)) * math.sqrt(n) / total, n)


@dataclass(frozen=True)
class Pairs:
    """A table of pairs (see stats.py).

    Attributes:
        n: Questions (clusters).
        a: Value of the first side.
        b: Value of the second side.
        difference: b − a.
        stderr: Its clustered standard error.
        sums: The clusters' summed score differences.
        reach: No question's difference is larger: 1 for an accuracy, else the largest value seen.
        bounded: Whether that is so by the metric's nature.
        discordant: (only a right, only b right) of 0/1 scores with one row a question, else None.
    """

    n: int
    a: float
    b: float
    difference: float
    stderr: float
    sums: Array
    reach: float
    bounded: bool
    discordant: tuple[int, int] | None

    @classmethod
    def read(cls, pairs: pd.DataFrame) -> Pairs:
        """The numbers of the table.

        Raises:
            InputError: A score or weight is no number, or the rows are of several metrics.
        """
        a, b, weight = numbers(pairs, "score_a"), numbers(pairs, "score_b"), weights(pairs)
        if len(pairs) == 0:
            nan = math.nan
            return cls(0, nan, nan, nan, nan, np.zeros(0), 1.0, False, None)
        if pairs["metric"].nunique() > 1:
            raise InputError("the pairs are of several metrics; compare one metric at a time")
        bounded = str(pairs["metric"].iloc[0]) == ACCURACY
        codes, total = clusters(pairs), float(weight.sum())
        ratio = Ratio.of(b - a, weight, codes)
        return cls(
            ratio.n,
            float(a.sum()) / total,
            float(b.sum()) / total,
            ratio.value,
            ratio.stderr,
            np.bincount(codes, weights=b - a).astype(np.float64),
            1.0 if bounded else float(np.maximum(np.abs(a / weight), np.abs(b / weight)).max()),
            bounded,
            _discordant(a, b) if bounded and ratio.n == len(pairs) else None,
        )

    def bounds(self, tail: float, correction: float = 0.0) -> tuple[float, float]:
        """Lower and upper bound of the difference, each missed with probability *tail*."""
        if self.discordant:
            lower, upper = tango(*self.discordant, self.n, normal_quantile(tail), correction)
            return float(lower), float(upper)
        if self._unknown:
            return math.nan, math.nan
        if self.flat:
            return unseen(self.difference, self.n, self.reach, tail)
        half = t_quantile(tail, self.n - 1) * self.stderr
        low, high = self.difference - half, self.difference + half
        return (max(-1.0, low), min(1.0, high)) if self.bounded else (low, high)

    def tails(self, delta: float) -> tuple[float, float]:
        """The p values of "the difference is not above δ" and of "it is not below δ"."""
        if self.discordant:
            down, up = tango_z(*self.discordant, self.n, delta, correction=1.0)
            return normal_above(float(down)), normal_above(-float(up))
        if self._unknown:
            return math.nan, math.nan
        away = self.difference - delta
        if self.flat:
            return self._flat_tail(away, 1), self._flat_tail(-away, -1)
        t = away / self.stderr
        return t_above(t, self.n - 1), t_above(-t, self.n - 1)

    @property
    def _unknown(self) -> bool:
        return self.n == 0 or (self.n == 1 and not self.bounded)

    @property
    def flat(self) -> bool:
        """All clusters show one difference, so that the standard error says nothing."""
        return self.n == 1 or self.stderr <= 1e-12 * self.reach

    def _flat_tail(self, room: float, side: int) -> float:
        """The level at which the bound of intervals.unseen is *room* away from the difference."""
        reach = max(self.reach, abs(self.difference)) + side * self.difference
        if room <= 0:
            return 1.0
        return (1 - min(1.0, room / reach)) ** self.n if reach > 0 else 0.0


def numbers(samples: pd.DataFrame, column: str) -> Array:
    """A column of scores or weights.

    Raises:
        InputError: One of them is no finite number; the message names the question.
    """
    values = samples[column].to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        names = samples["doc_id"].to_numpy() if "doc_id" in samples else samples.index.to_numpy()
        more = f" (and of {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(
            f"{column} of question {names[wrong[0]]} is {values[wrong[0]]}{more}; expected a "
            "number; score every question, a missing answer as 0"
        )
    return values


def weights(samples: pd.DataFrame) -> Array:
    """The column ``weight``.

    Raises:
        InputError: A weight is no number, or not above 0.
    """
    found = numbers(samples, "weight")
    if (found <= 0).any():
        raise InputError("a weight is 0 or less; the weight of an accuracy is 1")
    return found


def clusters(samples: pd.DataFrame) -> npt.NDArray[np.intp]:
    """The rows' clusters, counted from 0."""
    return pd.factorize(samples["cluster"])[0]


def _discordant(a: Array, b: Array) -> tuple[int, int] | None:
    if not ((a == 0) | (a == 1)).all() or not ((b == 0) | (b == 1)).all():
        return None
    return int((a > b).sum()), int((b > a).sum())
