"""Resampling of paired differences: the sign-flip permutation test and the paired bootstrap.

If two models are equally good, either of a pair's answers could have been either model's, so the
sign of each independent difference is a fair coin (Fisher 1935). Differences of equal size need no
coin each: how many of them come out positive is one binomial draw. Formulas, and what is exact:
docs/reference/statistics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVELS = 128
"""Sizes of difference that a Monte-Carlo test tells apart; more are rounded to so many."""
LARGEST_STEP = 64
"""Whole-numbered sums up to this size are tested exactly."""
FLOOR = 1e-12
"""Smallest p that an exact test gives: what the convolution can resolve, with room to spare."""
CELLS = 2_000_000
"""Numbers drawn at once: bounds the memory to some tens of megabytes."""


@dataclass(frozen=True)
class SignFlip:
    """A sign-flip test: its two-sided *p*, and whether every flip was counted or only a sample."""

    p: float
    exact: bool


def sign_flip(differences: Array, resamples: int = RESAMPLES, seed: int = 0) -> SignFlip:
    """Two-sided test that the *differences* (independent; summed over a cluster) centre on 0.

    Whole numbers, such as sums of 0/1 differences over a question's option orders, are tested
    exactly over all 2ⁿ sign patterns. Other values are tested by *resamples* random patterns, the
    p value being (1 + as extreme) / (1 + resamples) (Phipson and Smyth 2010). More than 128 sizes
    of difference are first rounded to 128 by size alone; as that leaves each sign its coin, the
    level stays exact.

    Args:
        differences: One number for each independent unit; zeros add nothing.
        resamples: Random patterns, where not all are counted.
        seed: Of the random patterns: the same data give the same p.
    """
    moved = differences[differences != 0]
    if len(moved) == 0:
        return SignFlip(1.0, exact=True)
    if np.all(moved == np.rint(moved)) and np.abs(moved).max() <= LARGEST_STEP:
        return SignFlip(_exact(moved.astype(np.int64)), exact=True)
    sizes, which = _levels(np.abs(moved))
    counts = np.bincount(which, minlength=len(sizes))
    observed = abs(float(np.sign(moved) @ sizes[which]))
    observed -= 1e-9 * float(counts @ sizes)  # sums that differ by rounding alone are equal
    rng, extreme = np.random.default_rng(seed), 0
    for start in range(0, resamples, rows := max(1, CELLS // len(sizes))):
        shape = (min(rows, resamples - start), len(sizes))
        positive = rng.binomial(counts, 0.5, size=shape)
        extreme += int((np.abs((2 * positive - counts) @ sizes) >= observed).sum())
    return SignFlip((1 + extreme) / (1 + resamples), exact=False)


def bootstrap(
    differences: Array,
    weights: Array,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of Σ differences / Σ weights over resampled units (Efron 1979).

    A pair is drawn whole, as is a cluster when each entry is a cluster's sum. Equal entries are
    drawn together as one multinomial count.

    Args:
        differences: One number for each independent unit.
        weights: The same units' weights.
        confidence: Of the two-sided interval.
        resamples: Random resamples of all units.
        seed: Of the resamples: the same data give the same interval.
    """
    if len(differences) == 0:
        return math.nan, math.nan
    units, counts = np.unique(np.stack([differences, weights], 1), axis=0, return_counts=True)
    rng, n, values = np.random.default_rng(seed), len(differences), []
    for start in range(0, resamples, rows := max(1, CELLS // len(units))):
        drawn = rng.multinomial(n, counts / n, size=min(rows, resamples - start))
        sums = drawn @ units
        values.append(sums[:, 0] / sums[:, 1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


def _exact(moved: npt.NDArray[np.int64]) -> float:
    """Share of all sign patterns whose sum is at least as far from 0 as that of *moved*.

    With n_k differences of size k the sum is Σ k·(2·B_k − n_k), B_k ~ Binomial(n_k, ½): a
    convolution of binomials, one for each size.
    """
    from scipy import signal, stats  # late: it takes most of a second

    whole = np.ones(1)
    for size, count in zip(*np.unique(np.abs(moved), return_counts=True), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        whole = spread if len(whole) == 1 else signal.fftconvolve(whole, spread)
    sums = 2 * np.arange(len(whole)) - (len(whole) - 1)
    p = float(whole[np.abs(sums) >= abs(int(moved.sum()))].sum())
    return min(1.0, max(FLOOR, p))


def _levels(sizes: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """(the distinct sizes, which of them each is); over 128 of them, the means of 128 groups.

    The groups hold equal shares of Σ size^(4/3): finer for the large sizes, which decide, than
    equal counts, and coarser than equal shares of Σ size², which a single outlier would use up.
    """
    distinct, which = np.unique(sizes, return_inverse=True)
    if len(distinct) <= LEVELS:
        return distinct, which
    order = np.argsort(sizes, kind="stable")
    shares = np.cumsum((sizes[order] / sizes.max()) ** (4 / 3))
    group = np.empty(len(sizes), np.intp)
    group[order] = np.minimum((LEVELS * shares / shares[-1]).astype(np.intp), LEVELS - 1)
    _, which = np.unique(group, return_inverse=True)
    return np.bincount(which, weights=sizes) / np.bincount(which), which
