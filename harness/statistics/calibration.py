"""Does a model know when it is right? Pure functions over the option scores of the samples table.

Probabilities are the softmax of an option's log-likelihoods, so they are relative to the options
given. The confidence in an answer is the probability of the option chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

BINS = 10
COVERAGES = tuple(tenths / 10 for tenths in range(1, 11))

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in (low, high]: how many, how sure, how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """One model's calibration on one multiple-choice task.

    Attributes:
        ece: Expected calibration error over ten bins of equal width: mean |accuracy − confidence|,
            weighted by the answers in a bin (Guo et al. 2017, arXiv:1706.04599). 0 is best.
        brier: Mean over questions of Σ (p − y)² over the options (Brier 1950); 0 is best, 2 worst.
        aurc: Mean error rate over all coverages, when the least confident answers are withheld
            first (area under the risk–coverage curve; Geifman & El-Yaniv 2017, arXiv:1705.08500).
        bins: The bins that hold an answer.
        risk_coverage: (coverage, error rate among the most confident of that share), for ten
            coverages.
    """

    ece: float
    brier: float
    aurc: float
    bins: list[Bin]
    risk_coverage: list[tuple[float, float]]


def probabilities(scores: list[float] | Array) -> Array:
    """Softmax of the options' log-likelihoods (nats): shape [..., options], the last sums to 1."""
    logits = np.asarray(scores, np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Array = weights / weights.sum(axis=-1, keepdims=True)
    return found


def calibration(samples: pd.DataFrame) -> Calibration | None:
    """Calibration of the samples of one model on one task; None where no options were scored.

    None too where questions have several right options: their probabilities are not defined.
    """
    counts = samples["option_scores"].map(len)
    scored, lengths = samples[counts > 0], counts[counts > 0].to_numpy()
    targets = zip(scored["target"], scored["options"], strict=True)
    gold = np.array([_place(target, options) for target, options in targets], np.intp)
    if scored.empty or (gold < 0).any():
        return None
    confidence, brier = np.empty(len(scored)), np.empty(len(scored))
    scores = scored["option_scores"].to_numpy(object)
    for count in np.unique(lengths):  # rows with as many options are one array
        rows = np.flatnonzero(lengths == count)
        p = probabilities(np.stack(list(scores[rows])))
        confidence[rows] = p.max(axis=1)
        brier[rows] = ((p - np.eye(count)[gold[rows]]) ** 2).sum(axis=1)
    right = scored["score"].to_numpy(np.float64)
    bins = _bins(confidence, right)
    wrong = 1 - right[np.argsort(-confidence, kind="stable")]
    risk = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    return Calibration(
        ece=sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / len(scored),
        brier=float(brier.mean()),
        aurc=float(risk.mean()),
        bins=bins,
        risk_coverage=[(c, float(risk[max(1, round(c * len(risk))) - 1])) for c in COVERAGES],
    )


def _place(target: object, options: Sequence[object]) -> int:
    """Which option the right answer is; −1 where it is none."""
    texts = list(options)
    return texts.index(target) if target in texts else -1


def _bins(confidence: Array, right: Array) -> list[Bin]:
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(
            low=b / BINS,
            high=(b + 1) / BINS,
            n=int((index == b).sum()),
            confidence=float(confidence[index == b].mean()),
            accuracy=float(right[index == b].mean()),
        )
        for b in range(BINS)
        if (index == b).any()
    ]
