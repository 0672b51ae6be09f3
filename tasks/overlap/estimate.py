"""How large the overlap is, given that the measures miss some of it and see some that is not there.

What the measures find and mistake was counted on exam questions and their rewritings in the
medical-o1 data (docs/reference/overlap.md; derived by benchmarks/overlap_calibration.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...harness.statistics.distributions import normal_quantile
from ...harness.statistics.intervals import wilson
from .find import Found

REWRITTEN = 99
"""Rewritten exam questions that the measures were tried on."""
RECALLED = 95
"""Found among them, out of fold: 97, 93 and 95 beside three sets of other questions."""
APART = 8_075_773
"""Pairs of different questions that they were tried on."""
MISTAKEN = 12
"""Reported among them, out of fold."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The share of test rows that the training rows overlap, each end of 1.

    Attributes:
        value: The share found, corrected for recall and false pairs (Rogan and Gladen 1978).
        low, high: 95 % interval. Its ends combine those of the share found and of the recall, so it
            is rather too wide than too narrow.
        false_pairs: Pairs that would be reported if no question overlapped.
    """

    value: float
    low: float
    high: float
    false_pairs: float


def estimate(found: Found) -> Estimate | None:
    """The estimated share; None when a side is empty."""
    if not found.n_train or not found.n_eval:
        return None
    copied = {pair.eval for pair in found.pairs if pair.measure in ("exact", "normalised")}
    worded = len(found.eval_rows) - len(copied)
    rest = found.n_eval - len(copied)
    if not rest:
        return Estimate(1.0, 1.0, 1.0, 0.0)
    recall, false = RECALLED / REWRITTEN, found.n_train * MISTAKEN / APART
    apparent, recalled = _wilson(worded, rest), _wilson(RECALLED, REWRITTEN)
    mistaken = [found.n_train * rate for rate in _wilson(MISTAKEN, APART)]
    value, low, high = (
        (len(copied) + rest * min(max((share - noise) / found_share, 0.0), 1.0)) / found.n_eval
        for share, noise, found_share in (
            (worded / rest, false, recall),
            (apparent[0], mistaken[1], recalled[1]),
            (apparent[1], mistaken[0], recalled[0]),
        )
    )
    return Estimate(value, min(low, value), max(high, value), found.n_eval * false)


def statement(found: Found, against: str = "training rows") -> str:
    """Two or three sentences; never that there is no overlap.

    Args:
        against: What the test rows were compared with.
    """
    measures = (
        "exact match, normalised match, runs of 8 words and a paraphrase measure, at recall "
        f"{RECALLED / REWRITTEN:.2f} (measured on {REWRITTEN} rewritten exam questions in English)"
    )
    size = estimate(found)
    if size is None:
        return "Nothing was compared: one of the two sides has no text."
    if not found.pairs:
        return (
            f"No overlap found between {found.n_train:,} {against} and {found.n_eval:,} test "
            f"rows by {measures}. Up to {size.high:.2%} of the test rows may still overlap "
            "unseen (95 % bound)."
        )
    return (
        f"{len(found.eval_rows):,} of {found.n_eval:,} test rows resemble one or more of "
        f"{found.n_train:,} {against}, by {measures}. Estimated share of test rows that "
        f"overlap: {size.value:.2%} (95 % interval {size.low:.2%} to {size.high:.2%}). By chance "
        f"alone one would expect {size.false_pairs:.2g} such pairs; read them."
    )


def _wilson(count: int, of: int) -> tuple[float, float]:
    return wilson(count / of, of, normal_quantile((1 - CONFIDENCE) / 2))
