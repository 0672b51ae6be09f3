"""The rules of a gate that are about answers: difference, floor, rates.

A *regression* is claimed only on evidence whose p value, adjusted by Holm's method over every such
claim the gate could make, is at most 1 − confidence: so a gate over any number of tasks raises a
false alarm at most that often. A *pass* needs no adjustment: the gate passes only if all of its
rules do, so that the chance to pass in spite of one true regression is that of this one rule
(Berger 1982, intersection–union tests).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...errors import InputError
from ..comparing.comparison import ACCURACY, HIGHER_IS_BETTER
from ..statistics import power, stats
from .result import Status, Verdict
from .rules import GateRules, TaskRule

MINUS = "−"
NBSP = "\u00a0"
"""Between a number and its unit, so that no line ends there."""


@dataclass(frozen=True)
class Claim:
    """Something estimated that must not lie below its limit.

    Attributes:
        rule: ``difference`` or ``floor``.
        task: The task, or the patterns of a pooled rule.
        observed, limit: As in :class:`Verdict`; larger is better.
        low, high: One-sided bounds of *observed*.
        p: Small: it lies below the limit.
        n: Questions.
        spread: How one question varies, for the number needed.
        perfect: Every answer is right, so nothing can have become worse.
        percent: Whether the numbers are shares of the baseline's value instead of points.
        said: What was observed, in words.
    """

    rule: str
    task: str
    observed: float
    limit: float
    low: float
    high: float
    p: float
    n: int
    spread: stats.Spread
    perfect: bool
    percent: bool
    said: str


def difference(task: str, pairs: pd.DataFrame, tolerance: float, confidence: float) -> Claim:
    """The claim that the candidate (b) is worse than the baseline (a) by at most *tolerance*.

    Args:
        task: What the verdict calls it.
        pairs: See stats.compare; of one metric.
        tolerance: In points (hundredths) of an accuracy, else in percent of the baseline's value.
        confidence: Of each bound.
    """
    metric = str(pairs["metric"].iloc[0])
    better_is_more, accuracy = HIGHER_IS_BETTER[metric], metric == ACCURACY
    found = stats.compare(pairs)
    unit = 1.0 if accuracy else found.a
    margin = tolerance / 100 * unit
    bounds = stats.one_sided(pairs, margin, confidence, better_is_more)
    sign = 1 if better_is_more else -1
    low, high = sorted((sign * bounds.low / unit, sign * bounds.high / unit))
    spread = stats.spread(pairs)
    if accuracy:
        values = f"{_percent(found.b)} right, baseline {_percent(found.a)}"
        if found.discordant:
            values += f"; {found.discordant[0]} lost, {found.discordant[1]} gained"
    else:
        values = f"{found.b:.4g}{NBSP}{metric.replace('_', ' ')}, baseline {found.a:.4g}"
    return Claim(
        rule="difference",
        task=task,
        observed=sign * found.difference / unit,
        limit=0.0 - tolerance / 100,
        low=low,
        high=high,
        p=bounds.p_worse_than_margin,
        n=found.n,
        spread=stats.Spread(spread.n, spread.sd / unit, spread.differing),
        perfect=accuracy and found.b == 1,
        percent=not accuracy,
        said=values,
    )


def floor(task: str, samples: pd.DataFrame, limit: float, confidence: float) -> Claim:
    """The claim that the candidate's accuracy is at least *limit*.

    Clopper and Pearson's bounds and the exact binomial test; t over clusters where a question was
    asked under several option orders.

    Raises:
        InputError: The task has no accuracy.
    """
    if samples["metric"].iloc[0] != ACCURACY:
        raise InputError(
            f"gate: floor of {task}: it is measured in {samples['metric'].iloc[0]}, and a floor is "
            "an accuracy; give it a tolerance instead"
        )
    pairs = samples.assign(score_a=limit * samples["weight"], score_b=samples["score"])
    n = samples["cluster"].nunique()
    value = float(samples["score"].sum() / samples["weight"].sum())
    if n == len(samples) and bool(np.isin(samples["score"], (0, 1)).all()):
        from scipy.stats import binom, binomtest  # late: it takes most of a second

        right = int(samples["score"].sum())
        ends = binomtest(right, n).proportion_ci(2 * confidence - 1, method="exact")
        low, high = float(ends.low), float(ends.high)
        p = float(binom.cdf(right, n, limit))
        sd = math.sqrt(value * (1 - value))
    else:
        bounds = stats.one_sided(pairs, 0.0, confidence)
        low, high, p = bounds.low + limit, bounds.high + limit, bounds.p_worse_than_margin
        sd = stats.spread(pairs).sd
    return Claim(
        rule="floor",
        task=task,
        observed=value,
        limit=limit,
        low=low,
        high=high,
        p=p,
        n=n,
        spread=stats.Spread(n, sd, None),
        perfect=value == 1,
        percent=False,
        said=f"{_percent(value)} right",
    )


def judge_claims(claims: Sequence[Claim], rules: GateRules) -> Iterator[Verdict]:
    """A verdict for each claim; regressions at one level for all of them together."""
    level = 1 - rules.confidence
    for claim, p in zip(claims, stats.holm([one.p for one in claims]), strict=True):
        worse = not claim.perfect and claim.observed < claim.limit and p <= level
        status: Status = "inconclusive"
        if claim.perfect or claim.low > claim.limit:
            status = "pass"
        elif worse:
            status = "regression"
        needed = _needed(claim, rules, len(claims)) if status == "inconclusive" else None
        said = _sentence(claim, status, p, needed, rules, len(claims))
        yield Verdict(
            claim.rule, claim.task, status, claim.observed, claim.limit, _known(claim.low),
            _known(claim.high), claim.n, needed, said,
        )  # fmt: skip


def rates(task: str, samples: pd.DataFrame, rule: TaskRule) -> Iterator[Verdict]:
    """Unparsed and truncated answers against their limits, as observed: no estimate is made.

    Raises:
        InputError: The candidate's file does not say which answers were.
    """
    for name, limit in (("unparsed", rule.unparsed), ("truncated", rule.truncated)):
        if limit is None:
            continue
        if samples[name].isna().any():
            raise InputError(
                f"gate: {name} of {task}: the candidate does not say which answers were {name}; "
                "name the run folder they come from, or leave the rule out"
            )
        count, total = int(samples[name].sum()), len(samples)
        yield Verdict(
            name, task, "pass" if count / total <= limit else "regression", count / total, limit,
            None, None, total, None,
            f"{task}: {count} of {total} answers {name} ({_percent(count / total)}); "
            f"at most {100 * limit:g}{NBSP}% is allowed.",
        )  # fmt: skip


def _needed(claim: Claim, rules: GateRules, claims: int) -> int | None:
    """Questions that decide it, if what was observed is the truth; None where no number does.

    A regression has to hold among all claims of the gate, hence the first step of Holm's method.
    """
    level = 1 - rules.confidence
    if claim.observed < claim.limit:
        level /= claims
    return power.questions_needed(
        claim.spread, claim.observed - claim.limit, rules.power, level, sides=1
    )


def _sentence(
    claim: Claim, status: Status, p: float, needed: int | None, rules: GateRules, claims: int
) -> str:
    """The verdict in plain words, with its evidence."""
    limit = f"{100 * abs(claim.limit):g}{NBSP}"
    if claim.rule == "floor":
        kept, broken = (f"{side} the floor of {limit}%" for side in ("above", "below"))
        observed, low, high = claim.said, _percent(claim.low), _percent(claim.high)
    else:
        unit = "%" if claim.percent else "points"
        limit += "point" if claim.limit == -0.01 and not claim.percent else unit
        kept, broken = (f"{side} the tolerance of {limit}" for side in ("within", "beyond"))
        observed, low, high = (
            f"{_signed(share)}{NBSP}{unit}" for share in (claim.observed, claim.low, claim.high)
        )
        observed += f" ({claim.said})"
    if math.isnan(claim.low):
        return f"{claim.task}: {observed}, n = {claim.n}: too few for a bound, so no verdict."
    head = f"{claim.task}: {observed} over {claim.n} question{'' if claim.n == 1 else 's'}"
    sure = f"with {100 * rules.confidence:g}{NBSP}% confidence"
    if claim.perfect:
        return f"{head}; every answer is right, so it passes."
    if status == "pass":
        return f"{head}; {sure} above {low}, so it is {kept}."
    among = f", adjusted for {claims} claims" if claims > 1 else ""
    evidence = f"p{NBSP}{f'<{NBSP}0.001' if p < 0.001 else f'={NBSP}{p:.3f}'}{among}"
    if status == "regression":
        return f"{head}; {sure} below {high}, so it is {broken} ({evidence})."
    bounds = f"{sure} above {low} and below {high}"
    if claim.high < claim.limit:
        bounds = f"{sure} below {high}, but that may be chance among so many ({evidence})"
    more = _more(claim, needed, rules)
    return f"{head}; {bounds}, so whether it is {kept} is open: {more}."


def _more(claim: Claim, needed: int | None, rules: GateRules) -> str:
    if needed is None and math.isclose(claim.observed, claim.limit, abs_tol=1e-12):
        return (
            "what was observed lies on the limit, so no number of questions decides it; "
            "tolerate more"
        )
    if needed is None:
        return "how questions vary is not known, so no number that would decide it can be named"
    return (
        f"about {_rounded(needed):,} questions would decide it in {100 * rules.power:g}{NBSP}% of "
        "cases, if what was observed is the truth"
    )


def _rounded(number: int) -> int:
    """To three digits: a plan is no more exact than that."""
    return round(number, 3 - len(str(number)))


def _known(bound: float) -> float | None:
    return None if math.isnan(bound) else bound


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{NBSP}%"


def _signed(share: float) -> str:
    """A share in hundredths with its sign; a rounded 0 has none."""
    rounded = round(100 * share, 1) + 0.0
    return f"{'+' if rounded > 0 else MINUS if rounded < 0 else ''}{abs(rounded):.1f}"
