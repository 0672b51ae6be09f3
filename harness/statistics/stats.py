"""Scores with their uncertainty, and paired differences. Pure functions over tables of samples.

A task's value is Σ score / Σ weight: the mean for accuracies (weight 1), bits per byte for
log-likelihoods (score in bits, weight in bytes). Its standard error is that of a ratio,
sd(score − value·weight) / (mean(weight)·√n), which for weight 1 is the usual one of a mean. Rows of
one ``cluster`` (the same question under several option orders) are no independent evidence: their
residuals are summed before they are squared. Differences are paired: the same questions, answered
by both sides. All after Miller 2024, "Adding Error Bars to Evals" (arXiv:2411.00640); formulas,
sources and simulated coverage are in docs/reference/statistics.md.

A table of *pairs* has one row for each question and order that both sides answered, with the
columns ``score_a``, ``score_b``, ``weight``, ``cluster`` and ``metric``;
harness/comparing/join.py makes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from .distributions import coin, normal_quantile, t_quantile
from .intervals import wilson
from .pairs import ACCURACY, Pairs, Ratio, clusters, numbers, weights
from .resampling import sign_flip

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """One model on one task. ``low`` and ``high`` bound a 95 % interval; NaN where n is too small.

    ``n`` counts questions (clusters); ``unparsed`` and ``truncated`` are shares of the answers.
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int
    unparsed: float
    truncated: float


@dataclass(frozen=True)
class OrderEffect:
    """One model on one task whose questions were asked under several orders of their options.

    ``mean`` and ``worst`` are accuracies over all orders and in the order that suits the model
    least; ``changed`` is the share of questions whose answer (its text) depends on the order.
    """

    orders: int
    mean: float
    worst: float
    changed: float


@dataclass(frozen=True)
class Paired:
    """Two sides on the questions both answered; see :func:`compare`.

    Attributes:
        n: Questions (clusters).
        a: Value of the first side; an accuracy is a share of 1.
        b: Value of the second side.
        difference: b − a.
        stderr: Its standard error, clustered.
        low: Lower end of the two-sided interval of the difference.
        high: Upper end.
        p: Two-sided p value of "no difference".
        test: Which test gave it.
        discordant: (only a right, only b right); None unless scores are 0/1, one to a question.
    """

    n: int
    a: float
    b: float
    difference: float
    stderr: float
    low: float
    high: float
    p: float
    test: str
    discordant: tuple[int, int] | None


@dataclass(frozen=True)
class OneSided:
    """One-sided bounds of b − a, each at the confidence asked for; see :func:`one_sided`.

    Attributes:
        low: b − a lies above this.
        high: b − a lies below this.
        p_worse_than_margin: Small: b is worse than a by more than the margin.
        p_not_worse: Small: b is not worse than a by the margin or more.
    """

    low: float
    high: float
    p_worse_than_margin: float
    p_not_worse: float


@dataclass(frozen=True)
class Spread:
    """How a question's difference varies.

    Attributes:
        n: Questions (clusters).
        sd: Standard deviation of the difference over them.
        differing: Share of questions on which the sides differ; None unless scores are 0/1, one to
            a question.
    """

    n: int
    sd: float
    differing: float | None


def summarise(samples: pd.DataFrame) -> Score:
    """The score of the samples of one model on one task.

    The interval of an accuracy is Wilson's (1927), which stays inside 0 to 1 and does not collapse
    at its ends; over clusters with the number of independent questions that would have the same
    standard error (Korn and Graubard 1998). Other metrics get value ± t·stderr.

    Raises:
        InputError: A score or weight is no number.
    """
    found = Ratio.of(numbers(samples, "score"), weights(samples), clusters(samples))
    value, stderr, n = found.value, found.stderr, found.n
    if n == 0:
        low = high = math.nan
    elif samples["metric"].iloc[0] == ACCURACY:
        z = normal_quantile((1 - CONFIDENCE) / 2)
        low, high = wilson(value, _effective(value, stderr, n, len(samples), z), z)
    elif n == 1:
        low = high = math.nan
    else:
        reach = t_quantile((1 - CONFIDENCE) / 2, n - 1) * stderr
        low, high = value - reach, value + reach
    shares = samples[["unparsed", "truncated"]].mean()
    return Score(value, stderr, low, high, n, float(shares["unparsed"]), float(shares["truncated"]))


def order_effect(samples: pd.DataFrame) -> OrderEffect | None:
    """How much the order of the options matters; None when there was only one."""
    if samples["order"].nunique() < 2:
        return None
    by_order = samples.groupby("order")["score"].mean()
    answers = samples.groupby("cluster")["prediction"].nunique()
    return OrderEffect(
        orders=len(by_order),
        mean=float(samples["score"].mean()),
        worst=float(by_order.min()),
        changed=float((answers > 1).mean()),
    )


def compare(pairs: pd.DataFrame, confidence: float = CONFIDENCE) -> Paired:
    """The paired comparison of two sides on one task (or on several: pooling.py).

    0/1 scores with one row a question: Tango's score interval and McNemar's exact test. Anything
    else: difference ± t·stderr, clustered, and a sign-flip test over clusters. Where all
    differences are equal, or there is one question only, the interval says what so few questions
    can have missed (intervals.unseen).

    Args:
        pairs: See the module.
        confidence: Of the two-sided interval.

    Returns:
        The comparison; every number NaN where there is no question, the interval NaN where there
        is one and the metric has no bounds.

    Raises:
        InputError: A score or weight is no number, or the rows are of several metrics.
    """
    table = Pairs.read(pairs)
    tail = (1 - confidence) / 2
    low, high = table.bounds(tail)
    if table.discordant:
        only_a, only_b = table.discordant
        moved = only_a + only_b
        p, test = coin(only_a, moved), "exact McNemar"
    elif table.n == 0:
        p, test = math.nan, "sign flip"
    else:
        found = sign_flip(table.sums)
        p, test = found.p, "exact sign flip" if found.exact else "sign flip"
    return Paired(
        table.n, table.a, table.b, table.difference, table.stderr, low, high, p, test,
        table.discordant,
    )  # fmt: skip


def one_sided(
    pairs: pd.DataFrame,
    margin: float,
    confidence: float = CONFIDENCE,
    higher_is_better: bool = True,
) -> OneSided:
    """Bounds and p values for the question whether b is worse than a by more than *margin*.

    The bounds and the p values agree: b is shown to be worse than the margin at *confidence*
    exactly where ``high < −margin``, and shown not to be exactly where ``low > −margin`` (for a
    metric of which less is better, where ``low > margin`` and ``high < margin``). For 0/1 scores
    they are Tango's with a continuity correction of one question, which keeps the rate of false
    alarms below its level; otherwise those of t.

    Args:
        pairs: See the module.
        margin: How much worse b may be, in units of the score (0.01 is one point), at least 0.
        confidence: Of each bound by itself.
        higher_is_better: False for a metric such as bits per byte.

    Raises:
        InputError: As for :func:`compare`.
    """
    table = Pairs.read(pairs)
    low, high = table.bounds(1 - confidence, correction=1.0)
    if higher_is_better:
        above, below = table.tails(-margin)
        return OneSided(low, high, p_worse_than_margin=below, p_not_worse=above)
    above, below = table.tails(margin)
    return OneSided(low, high, p_worse_than_margin=above, p_not_worse=below)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given; NaN stays NaN and counts as no test."""
    adjusted = [math.nan] * len(ps)
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def spread(pairs: pd.DataFrame) -> Spread:
    """How a question's difference varies; the power of a comparison follows from it.

    Accuracies that are equal on every question count as 0/1 scores that never differ; of other
    differences that are all equal nothing is known, and their sd is NaN.
    """
    table = Pairs.read(pairs)
    if table.discordant:
        return Spread(table.n, _sd(table), sum(table.discordant) / table.n)
    if table.n and table.flat:
        same = table.bounded and abs(table.difference) < 1e-12
        return Spread(table.n, math.nan, 0.0 if same else None)
    return Spread(table.n, _sd(table), None)


def _sd(table: Pairs) -> float:
    return table.stderr * math.sqrt(table.n)


def _effective(value: float, stderr: float, n: int, rows: int, z: float) -> float:
    """How many independent questions would give an accuracy this standard error."""
    if n == rows or n == 1 or not 0 < value < 1:
        return n
    if stderr == 0:
        return rows
    trials = value * (1 - value) / stderr**2 * (z / t_quantile((1 - CONFIDENCE) / 2, n - 1)) ** 2
    return min(rows, trials)
