"""Calibration against hand-computed cases and scikit-learn."""

import math

import numpy as np
import pandas as pd
import pytest

from medbench.harness.statistics.calibration import calibration, probabilities


def table(scores: list[list[float]], gold: list[int]) -> pd.DataFrame:
    options = [[f"o{i}" for i in range(len(row))] for row in scores]
    return pd.DataFrame({
        "option_scores": scores,
        "options": options,
        "target": [names[g] for names, g in zip(options, gold, strict=True)],
        "score": [float(np.argmax(row) == g) for row, g in zip(scores, gold, strict=True)],
    })  # fmt: skip


def test_softmax_does_not_overflow() -> None:
    assert probabilities([-1000.0, -1000.0]).tolist() == [0.5, 0.5]
    assert probabilities([0.0, math.log(3)]) == pytest.approx([0.25, 0.75])


def test_by_hand() -> None:
    sure, split = [math.log(0.95), math.log(0.05)], [math.log(0.55), math.log(0.45)]
    found = calibration(table([sure, sure, split, split], [0, 1, 0, 1]))
    assert found
    assert [(b.n, b.accuracy) for b in found.bins] == [(2, 0.5), (2, 0.5)]
    assert found.ece == pytest.approx((abs(0.5 - 0.55) + abs(0.5 - 0.95)) / 2)
    brier = [2 * 0.05**2, 2 * 0.95**2, 2 * 0.45**2, 2 * 0.55**2]
    assert found.brier == pytest.approx(np.mean(brier))
    assert found.aurc == pytest.approx(np.mean([0, 1 / 2, 1 / 3, 2 / 4]))
    assert found.risk_coverage[-1] == (1.0, 0.5)


def test_brier_is_scikit_learns() -> None:
    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(5)
    scores = rng.normal(size=(200, 2))
    gold = rng.integers(0, 2, 200)
    found = calibration(table(scores.tolist(), gold.tolist()))
    chance = [float(probabilities(row)[1]) for row in scores]
    assert found
    assert found.brier == pytest.approx(2 * brier_score_loss(gold, chance))


def test_a_model_that_knows_what_it_knows() -> None:
    rng = np.random.default_rng(6)
    confidence = rng.uniform(0.5, 1, 20_000)
    scores = np.stack([np.log(confidence), np.log(1 - confidence)], 1)
    gold = (rng.random(20_000) > confidence).astype(int)
    found = calibration(table(scores.tolist(), gold.tolist()))
    assert found
    assert found.ece < 0.02
    risks = [risk for _, risk in found.risk_coverage]
    assert risks == sorted(risks)


def test_open_answers_have_none() -> None:
    empty: list[list[float]] = [[]]
    rows = pd.DataFrame({"option_scores": empty, "options": [[]], "target": ["x"], "score": [1.0]})
    assert calibration(rows) is None
