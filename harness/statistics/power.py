"""What a comparison can show: smallest detectable difference, questions needed, noise floor.

Formulas and sources: docs/reference/statistics.md.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from .distributions import normal_quantile
from .stats import Spread, spread

Sides = Literal[1, 2]
MOST = 10**12
"""Questions beyond which no number is named."""


@dataclass(frozen=True)
class NoiseFloor:
    """How far runs of one and the same model on one task lie apart.

    Attributes:
        repeats: How often the task was asked.
        n: Questions that every repeat answered.
        spread: sd of the repeats' values.
        sd: sd of a question's score difference between two repeats.
        floor: Chance alone moves the value further than this from one repeat to another in 5 % of
            cases: 1.96 · sd / √n.
    """

    repeats: int
    n: int
    spread: float
    sd: float
    floor: float


def smallest_detectable(
    pairs: pd.DataFrame | Spread | float,
    n: int | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    sides: Sides = 2,
) -> float:
    """The true difference that *n* questions show with probability *power* at level *alpha*.

    (z_α + z_β) · sd / √n (Miller 2024, section 5). For 0/1 scores the sd is that of a table with
    this difference, whose share of differing questions is at least the difference itself, and 1/n
    is added for the steps of the exact test: so it stays above 0 where no question differs.

    Args:
        pairs: Paired samples (see stats.compare), their spread, or the sd of a question's
            difference.
        n: Questions; as many as there are pairs when None.
        power: Wanted probability to show it.
        alpha: Level of the test.
        sides: 2 for better or worse, 1 for a gate.

    Returns:
        In units of the score; NaN without questions.
    """
    found = _spread(pairs)
    n = found.n if n is None else n
    if n < 1:
        return math.nan
    least = _detectable(found, n, _reach(power, alpha, sides))
    return least if found.differing is None else min(1.0, least)


def questions_needed(
    pairs: pd.DataFrame | Spread | float,
    difference: float,
    power: float = 0.8,
    alpha: float = 0.05,
    sides: Sides = 2,
) -> int | None:
    """The least number of questions by which smallest_detectable is at most *difference*.

    None where no number can be named: a difference of 0, a spread that is not known, or more than
    10¹² questions.
    """
    found, size, reach = _spread(pairs), abs(difference), _reach(power, alpha, sides)
    if math.isnan(size) or math.isnan(_detectable(found, 1, reach)):
        return None
    enough = range(1, MOST)
    # The smallest detectable difference falls as n grows, so its negative is sorted.
    place = bisect_left(enough, -size - 1e-12, key=lambda n: -_detectable(found, n, reach))
    return enough[place] if place < len(enough) else None


def noise_floor(samples: pd.DataFrame, repeat: str = "order") -> NoiseFloor | None:
    """The noise floor of one model on one task that was asked several times; None after one.

    Args:
        samples: Rows of the samples table; clusters are the questions.
        repeat: The column that tells the repeats apart, e.g. ``order`` for option orders.
    """
    if samples[repeat].nunique() < 2:
        return None
    table = samples.pivot_table(index="cluster", columns=repeat, values="score").dropna()
    n, repeats = table.shape
    if n == 0:
        return None
    sd = math.sqrt(2 * float(table.var(axis=1, ddof=1).mean()))
    floor = normal_quantile(0.025) * sd / math.sqrt(n)
    return NoiseFloor(repeats, n, float(table.mean().std(ddof=1)), sd, floor)


def _detectable(found: Spread, n: int, reach: float) -> float:
    if found.differing is None:
        return reach * found.sd / math.sqrt(n)
    k = reach * reach / n  # δ² = k · (differing − δ²), and differing ≥ δ
    return max(math.sqrt(k * found.differing / (1 + k)), k / (1 + k)) + 1 / n


def _reach(power: float, alpha: float, sides: Sides) -> float:
    return normal_quantile(alpha / sides) + normal_quantile(1 - power)


def _spread(pairs: pd.DataFrame | Spread | float) -> Spread:
    if isinstance(pairs, pd.DataFrame):
        return spread(pairs)
    return pairs if isinstance(pairs, Spread) else Spread(0, pairs, None)
