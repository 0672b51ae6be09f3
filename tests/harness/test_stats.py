"""Statistics against hand-computed cases and against scipy and statsmodels on random tables."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from medbench.errors import InputError
from medbench.harness.stats import compare, order_effect, summarise


def table(
    score: list[float], weight: list[float] | None = None, metric: str = "acc"
) -> pd.DataFrame:
    n = len(score)
    return pd.DataFrame({
        "model": ["m"] * n, "task": ["t"] * n, "doc_id": range(n),
        "cluster": [str(i) for i in range(n)],
        "doc_hash": [f"d{i}" for i in range(n)], "target_hash": [f"t{i}" for i in range(n)],
        "metric": [metric] * n, "score": score, "weight": weight or [1.0] * n,
        "unparsed": [False] * n, "truncated": [False] * n,
    })  # fmt: skip


def test_accuracy_by_hand() -> None:
    found = summarise(table([1, 1, 1, 0]))
    assert found.value == 0.75
    assert found.stderr == pytest.approx(math.sqrt(0.1875 / 3))  # sd² = 4/3·p(1−p), over √4
    assert found.n == 4


def test_wilson_interval_is_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for n in (1, 7, 60, 1273):
        right = rng.integers(0, 2, n).astype(float).tolist()
        low, high = proportion_confint(sum(right), n, method="wilson")
        found = summarise(table(right))
        assert (found.low, found.high) == pytest.approx((low, high))


def test_bits_per_byte_is_the_ratio_of_sums() -> None:
    found = summarise(table([10, 30], [5, 10], "bits_per_byte"))
    assert found.value == pytest.approx(40 / 15)
    residual = np.array([10 - 5 * 40 / 15, 30 - 10 * 40 / 15])
    assert found.stderr == pytest.approx(residual.std(ddof=1) / (7.5 * math.sqrt(2)))


def test_difference_by_hand() -> None:
    found = compare(table([0, 0, 0, 1]), table([1, 1, 0, 0]))
    assert found.difference == pytest.approx(0.25)
    assert (found.only_base_right, found.only_tuned_right) == (1, 2)
    sd = np.array([1, 1, 0, -1]).std(ddof=1)
    reach = reference.t.ppf(0.975, 3) * sd / 2
    assert (found.low, found.high) == pytest.approx((0.25 - reach, 0.25 + reach))
    assert found.p == pytest.approx(1.0)  # 1 against 2: two-sided exact


def test_published_pairs_give_the_published_p() -> None:
    """Mistral-7B and its QLoRA on MedQA: 628 → 665 of 1,273, 136 against 173 discordant."""
    both, neither = 628 - 136, 1273 - 628 - 173
    base = [1.0] * both + [1.0] * 136 + [0.0] * 173 + [0.0] * neither
    tuned = [1.0] * both + [0.0] * 136 + [1.0] * 173 + [0.0] * neither
    found = compare(table(base), table(tuned))
    assert found.p == pytest.approx(0.040, abs=0.0005)
    assert found.difference == pytest.approx((665 - 628) / 1273)


def test_random_tables_against_the_references() -> None:
    rng = np.random.default_rng(2)
    for _ in range(25):
        n = int(rng.integers(2, 300))
        a = rng.integers(0, 2, n).astype(float)
        b = np.where(rng.random(n) < 0.3, 1 - a, a)
        found = compare(table(a.tolist()), table(b.tolist()))
        cells = [[int(((a == i) & (b == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        assert found.p == pytest.approx(mcnemar(cells, exact=True).pvalue)
        bits = a + rng.random(n)
        other = b + rng.random(n)
        pair = compare(table(bits.tolist(), metric="x"), table(other.tolist(), metric="x"))
        test = reference.ttest_rel(other, bits)
        interval = test.confidence_interval()
        assert pair.p == pytest.approx(test.pvalue)
        assert (pair.low, pair.high) == pytest.approx((interval.low, interval.high))


def test_no_discordant_pair_is_p_1_and_zero_width() -> None:
    found = compare(table([1, 0, 1]), table([1, 0, 1]))
    assert (found.p, found.difference, found.low, found.high) == (1.0, 0.0, 0.0, 0.0)


def test_all_discordant() -> None:
    found = compare(table([0.0] * 10), table([1.0] * 10))
    assert found.difference == 1.0
    assert found.p == pytest.approx(2 * 0.5**10)


@pytest.mark.parametrize("metric", ["acc", "bits_per_byte"])
def test_too_few_questions_have_no_interval(metric: str) -> None:
    none = summarise(table([], metric=metric))
    assert none.n == 0
    assert math.isnan(none.value)
    assert math.isnan(compare(table([], metric=metric), table([], metric=metric)).difference)
    one = compare(table([1.0], metric=metric), table([0.0], metric=metric))
    assert one.difference == -1.0
    assert math.isnan(one.low)


def test_pairing_is_by_question_not_by_position() -> None:
    base, tuned = table([1, 0, 0]), table([1, 0, 0])
    shuffled = tuned.iloc[[2, 0, 1]].reset_index(drop=True)
    assert compare(base, shuffled).only_tuned_right == 0


def test_questions_of_one_side_are_left_out() -> None:
    assert compare(table([1, 0, 0]), table([1, 0])).n == 2


def test_different_right_answers_are_refused() -> None:
    other = table([1, 0])
    other["target_hash"] = ["t0", "changed"]
    with pytest.raises(InputError, match="1 questions have different right answers"):
        compare(table([1, 0]), other)


def test_a_question_that_stands_twice_counts_once() -> None:
    a, b = table([1, 0, 1]), table([0, 1, 1])
    twice_a, twice_b = (pd.concat([t, t[:1]], ignore_index=True) for t in (a, b))
    found = compare(twice_a, twice_b)
    assert found.n == 3
    assert found.difference == pytest.approx((-1 + 1 + 0 - 1) / 4)


def orders(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """n questions under four orders, answers that agree more within a question than across."""
    skill = rng.random(n).repeat(4)
    right = (rng.random(4 * n) < skill).astype(float)
    found = table(right.tolist())
    found["cluster"] = np.arange(n).repeat(4).astype(str)
    found["order"] = np.tile(np.arange(4), n)
    found["prediction"] = np.where(right == 1, "right", "wrong")
    return found


def test_clustered_standard_error_is_statsmodels() -> None:
    rng = np.random.default_rng(3)
    for n in (2, 9, 80):
        found = orders(n, rng)
        fit = statsmodels.api.OLS(found["score"], np.ones(4 * n)).fit(
            cov_type="cluster", cov_kwds={"groups": found["cluster"].astype(int)}
        )
        score = summarise(found)
        assert score.n == n
        assert score.stderr == pytest.approx(float(fit.bse.iloc[0]))


def test_orders_of_one_question_are_no_independent_evidence() -> None:
    rng = np.random.default_rng(4)
    a, b = orders(60, rng), orders(60, rng)
    found = compare(a, b)
    assert (found.n, found.test) == (60, "paired t")
    naive = a.assign(cluster=[str(i) for i in range(240)])
    assert found.stderr != pytest.approx(compare(naive, b).stderr)


def test_order_effect_by_hand() -> None:
    found = table([1, 0, 1, 1])
    found["cluster"] = ["p", "p", "q", "q"]
    found["order"] = [0, 1, 0, 1]
    found["prediction"] = ["x", "y", "z", "z"]
    effect = order_effect(found)
    assert effect
    assert (effect.orders, effect.mean, effect.worst, effect.changed) == (2, 0.75, 0.5, 0.5)
    assert order_effect(found[found["order"] == 0]) is None
