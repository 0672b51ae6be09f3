"""Confidence intervals of shares and of paired differences of shares. Numbers in, numbers out.

Every function takes arrays as well as single numbers, so that coverage can be computed over whole
grids of tables (benchmarks/coverage.py). Formulas and sources: docs/reference/statistics.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

HALVINGS = 50
"""Bisections of [−1, 1]: the ends are exact to 2 · 2⁻⁵⁰."""


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share seen in *n* trials; *n* need not be whole."""
    middle = share + z * z / (2 * n)
    reach = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding must not put an end of the interval past the share itself.
    low, high = float(middle - reach) / scale, float(middle + reach) / scale
    return min(share, max(0.0, low)), max(share, min(1.0, high))


def tango(
    only_a: npt.ArrayLike, only_b: npt.ArrayLike, n: int, z: float, correction: float = 0.0
) -> tuple[Array, Array]:
    """Tango's score interval (1998) of the difference of two paired shares, b − a.

    It inverts the score test of H₀: difference = δ with the discordant probability estimated under
    H₀, so it has width even where no pair is discordant, and never leaves [−1, 1].

    Args:
        only_a: Pairs that only a got right.
        only_b: Pairs that only b got right.
        n: All pairs, at least 1.
        z: Standard normal quantile, e.g. 1.96 for 95 % on two sides.
        correction: Taken off the observed count difference before it is judged (continuity).

    Returns:
        Lower and upper ends, of the broadcast shape of the counts.
    """
    c, b = np.broadcast_arrays(np.asarray(only_a, np.float64), np.asarray(only_b, np.float64))
    observed = (b - c) / n

    def rejected(delta: Array, side: int) -> npt.NDArray[np.bool_]:
        beyond = side * n * (observed - delta) - correction - z * _null_sd(c, b, n, delta)
        return np.asarray(beyond > 0)

    low, inside = np.full(b.shape, -1.0), observed.copy()
    outside, high = np.full(b.shape, 1.0), observed.copy()
    for _ in range(HALVINGS):
        middle = (low + inside) / 2
        out = rejected(middle, 1)
        low, inside = np.where(out, middle, low), np.where(out, inside, middle)
        middle = (high + outside) / 2
        out = rejected(middle, -1)
        outside, high = np.where(out, middle, outside), np.where(out, high, middle)
    return low, outside


def tango_z(
    only_a: npt.ArrayLike, only_b: npt.ArrayLike, n: int, delta: float, correction: float = 0.0
) -> tuple[Array, Array]:
    """Tango's score statistic of H₀: difference = *delta*, pulled down and up by *correction*.

    The first is large when the difference lies above *delta*, the second is low when it lies below;
    without a correction they are one.
    """
    c, b = np.broadcast_arrays(np.asarray(only_a, np.float64), np.asarray(only_b, np.float64))
    away = b - c - n * delta
    sd = np.maximum(_null_sd(c, b, n, np.full(b.shape, delta)), np.finfo(np.float64).tiny)
    return (away - correction) / sd, (away + correction) / sd


def _null_sd(c: Array, b: Array, n: int, delta: Array) -> Array:
    """The sd of (only b − only a) at a difference δ and the likeliest discordant probability."""
    slope = (2 * n - b + c) * delta - b - c
    inner = slope * slope + 8 * n * c * delta * (1 - delta)
    p_only_a = (np.sqrt(np.maximum(inner, 0)) - slope) / (4 * n)
    return np.sqrt(np.maximum(n * (2 * p_only_a + delta * (1 - delta)), 0))


def unseen(value: float, n: int, reach: float, level: float) -> tuple[float, float]:
    """One-sided bounds of a mean of which *n* independent values were all equal to *value*.

    At confidence 1 − *level* at most a share 1 − level^(1/n) of the population differs from *value*
    (Clopper and Pearson's bound for no success in n), and what differs lies within ±*reach*.
    """
    share = 1 - level ** (1 / n)
    reach = max(reach, abs(value))
    return value - share * (value + reach), value + share * (reach - value)
