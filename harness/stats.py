"""Scores with their uncertainty, and paired differences. Pure functions over the samples table.

A task's value is Σ score / Σ weight: the mean for accuracies (weight 1), bits per byte for
log-likelihoods (score in bits, weight in bytes). Both get the linearised standard error of a
ratio, sd(score − value·weight) / (mean(weight)·√n), which for weight 1 is the usual standard error
of a mean. Rows of one ``cluster`` (the same question under several option orders) are no
independent evidence: their residuals are summed before they are squared. Differences are paired:
the same questions, answered by both models. Both after Miller 2024, "Adding Error Bars to Evals"
(arXiv:2411.00640).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ..errors import InputError

CONFIDENCE = 0.95

Array = npt.NDArray[np.float64]


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
class Comparison:
    """tuned − base on the questions both answered; 95 % interval; see :func:`compare`."""

    n: int
    difference: float
    stderr: float
    low: float
    high: float
    p: float
    test: str
    only_base_right: int | None
    only_tuned_right: int | None


def summarise(samples: pd.DataFrame) -> Score:
    """The score of the samples of one model on one task.

    The interval is Wilson's for accuracies (Wilson 1927), which stays inside 0 to 1 and does not
    collapse at its ends, and value ± t·stderr otherwise.
    """
    score, weight = _columns(samples)
    value, stderr, n = _ratio(score, weight, samples["cluster"])
    if n == 0:
        low = high = math.nan
    elif samples["metric"].iloc[0] == "acc" and n == len(samples):
        interval = stats.binomtest(round(float(score.sum())), n).proportion_ci(
            CONFIDENCE, method="wilson"
        )
        low, high = float(interval.low), float(interval.high)
    else:
        low, high = _t_interval(value, stderr, n)
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


def compare(base: pd.DataFrame, tuned: pd.DataFrame) -> Comparison:
    """The paired comparison of two models' samples on one task, joined on ``doc_hash``.

    The interval is from the t distribution with n − 1 degrees of freedom; it has no width of its
    own (NaN) below n = 2. p is McNemar's exact test for accuracies of independent questions (1 when
    no pair disagrees), and the paired t-test, clustered where there are clusters, otherwise.

    Raises:
        InputError: The two have different right answers for a question.
    """
    pairs = _join(base, tuned)
    a, weight = _columns(pairs.rename(columns={"score_base": "score", "weight_base": "weight"}))
    b = pairs["score_tuned"].to_numpy(np.float64)
    difference, stderr, n = _ratio(b - a, weight, pairs["cluster_base"])
    low, high = _t_interval(difference, stderr, n)
    if n and n == len(pairs) and pairs["metric_base"].iloc[0] == "acc":
        only_base, only_tuned = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
        discordant = only_base + only_tuned
        p = float(stats.binomtest(only_base, discordant).pvalue) if discordant else 1.0
        return Comparison(
            n, difference, stderr, low, high, p, "exact McNemar", only_base, only_tuned
        )
    if n < 2:
        p = math.nan
    elif stderr == 0:
        p = 1.0 if difference == 0 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(difference) / stderr, n - 1))
    return Comparison(n, difference, stderr, low, high, p, "paired t", None, None)


def _join(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """The two tables side by side, by question; its second copy joins the second copy.

    A question that stands in the data twice is one cluster, so that it counts as one.
    """
    columns = ["doc_hash", "target_hash", "metric", "score", "weight", "cluster", "copy"]
    left, right = (
        table.assign(copy=table.groupby("doc_hash").cumcount())[columns] for table in (base, tuned)
    )
    pairs = left.merge(right, on=["doc_hash", "copy"], suffixes=("_base", "_tuned"))
    unlike = int((pairs["target_hash_base"] != pairs["target_hash_tuned"]).sum())
    if unlike:
        raise InputError(
            f"task {base['task'].iloc[0]}: {unlike} questions have different right answers in the "
            "two sets of samples; score both models on the same data"
        )
    return pairs


def _columns(samples: pd.DataFrame) -> tuple[Array, Array]:
    return samples["score"].to_numpy(np.float64), samples["weight"].to_numpy(np.float64)


def _ratio(score: Array, weight: Array, cluster: pd.Series[str]) -> tuple[float, float, int]:
    """Σ score / Σ weight, its standard error, and the number of clusters; NaN where undefined."""
    if len(score) == 0:
        return math.nan, math.nan, 0
    value = float(score.sum() / weight.sum())
    residual = pd.Series(score - value * weight).groupby(cluster.to_numpy()).sum()
    n = len(residual)
    if n == 1:
        return value, math.nan, 1
    return value, float(residual.std(ddof=1) * math.sqrt(n) / weight.sum()), n


def _t_interval(value: float, stderr: float, n: int) -> tuple[float, float]:
    if n < 2:
        return math.nan, math.nan
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stderr
    return value - reach, value + reach
