"""Tails and quantiles of the normal, the t and the binomial distribution.

From scipy.special: importing scipy.stats takes most of a second, a sixth of what a report of
100,000 answers takes.
"""

from __future__ import annotations

from scipy import special


def normal_above(x: float) -> float:
    """Probability that a standard normal value lies above *x*."""
    return float(special.ndtr(-x))


def normal_quantile(tail: float) -> float:
    """The value that a standard normal one exceeds with probability *tail*."""
    return -float(special.ndtri(tail))


def t_above(x: float, degrees: int) -> float:
    """Probability that a t-distributed value lies above *x*."""
    return float(special.stdtr(degrees, -x))


def t_quantile(tail: float, degrees: int) -> float:
    """The value that a t-distributed one exceeds with probability *tail*."""
    return -float(special.stdtrit(degrees, tail))


def coin(heads: int, n: int) -> float:
    """Exact two-sided p of *heads* in *n* throws of a fair coin."""
    return min(1.0, 2 * float(special.bdtr(min(heads, n - heads), n, 0.5)))
