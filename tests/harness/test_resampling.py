"""The sign-flip test and the bootstrap against scipy, enumeration and hand-computed cases."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from medbench.harness.statistics.resampling import (
    FLOOR,
    LEVELS,
    SignFlip,
    _levels,
    bootstrap,
    sign_flip,
)


def every_pattern(differences: np.ndarray) -> float:
    """Two-sided p over all 2ⁿ patterns, one by one."""
    sums = [abs(np.dot(signs, differences)) for signs in
            itertools.product((-1, 1), repeat=len(differences))]  # fmt: skip
    return float(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9))


def scipys(differences: np.ndarray) -> float:
    """scipy's exact permutation test of paired samples."""
    found = reference.permutation_test(
        (differences, np.zeros(len(differences))),
        lambda a, b, axis=0: np.sum(a - b, axis=axis),
        permutation_type="samples", n_resamples=2**13, vectorized=True,
    )  # fmt: skip
    return float(found.pvalue)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_whole_numbers_are_counted_out(values: list[int]) -> None:
    differences = np.array(values, float)
    found = sign_flip(differences)
    assert found.exact
    assert found.p == pytest.approx(every_pattern(differences))


def test_scipy_counts_the_same() -> None:
    rng = np.random.default_rng(1)
    for n in (2, 5, 9, 13):
        whole = rng.integers(-4, 5, n).astype(float)
        assert sign_flip(whole).p == pytest.approx(scipys(whole))
        real = rng.normal(0.4, 1, n)
        sampled = sign_flip(real, resamples=40_000)
        assert not sampled.exact
        assert sampled.p == pytest.approx(scipys(real), abs=0.012)


def test_right_and_wrong_answers_give_mcnemar() -> None:
    differences = np.repeat([1.0, -1.0, 0.0], [173, 136, 964])
    assert sign_flip(differences).p == pytest.approx(reference.binomtest(173, 309).pvalue)


def test_many_values_are_rounded_and_the_test_stays_that_of_the_mean() -> None:
    """Beside the t-test, which for so many values has the same limit."""
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.02, 0.05):
        values = rng.normal(shift, 1, 5000)
        expected = reference.ttest_1samp(values, 0).pvalue
        assert sign_flip(values).p == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "exponential"])
def test_rounded_sums_are_nearly_the_sums(draw: str) -> None:
    """The correlation between both under random signs is the root of the shares of Σ size²."""
    sizes = np.abs(getattr(np.random.default_rng(3), draw)(size=100_000))
    levels, which = _levels(sizes)
    assert len(levels) <= LEVELS
    assert np.all(np.diff(levels[which][np.argsort(sizes)]) >= 0)
    kept = np.square(levels[which]).sum() / np.square(sizes).sum()
    assert np.sqrt(kept) > 0.997


def test_the_level_is_kept_where_values_are_rounded() -> None:
    """No difference: p is below 0.1 in a tenth of the tables, within four standard errors."""
    rng = np.random.default_rng(4)
    ps = [sign_flip(rng.laplace(0, 1, 300), resamples=199).p for _ in range(1000)]
    assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=4 * 0.0095)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.25], [-7.5]])
def test_nothing_to_flip_is_no_evidence(values: list[float]) -> None:
    assert sign_flip(np.array(values)).p == 1.0


def test_a_p_value_is_never_nothing() -> None:
    assert sign_flip(np.full(10_000, 0.123)).p == pytest.approx(1 / 10_001)
    assert sign_flip(np.ones(10_000)) == SignFlip(FLOOR, exact=True)


def test_sums_that_differ_by_rounding_alone_are_equal() -> None:
    """0.1 + 0.2 is not 0.3 in floating point; all eight patterns but two are less extreme."""
    assert sign_flip(np.array([0.1, 0.2, 0.3]), resamples=50_000).p == pytest.approx(0.25, abs=0.01)


def test_the_same_data_give_the_same_p() -> None:
    values = np.random.default_rng(5).normal(size=500)
    assert sign_flip(values) == sign_flip(values)
    assert sign_flip(values) == sign_flip(values[::-1].copy())
    assert sign_flip(values, seed=1) != sign_flip(values, seed=2)


def test_a_hundred_thousand_differences_take_a_moment_and_little_memory() -> None:
    """A tenth of a second on an idle core; the bound leaves room for a busy one."""
    values = np.random.default_rng(6).normal(size=100_000)
    started = time.perf_counter()
    sign_flip(values)
    assert time.perf_counter() - started < 2
    tracemalloc.start()
    sign_flip(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_bootstrap_is_scipys() -> None:
    rng = np.random.default_rng(7)
    values = rng.exponential(1, 80)
    expected = reference.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, random_state=rng
    ).confidence_interval
    low, high = bootstrap(values, np.ones(80))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_bootstrap_keeps_a_unit_and_its_weight_together() -> None:
    values = np.arange(1.0, 51.0)
    assert bootstrap(0.3 * values, values) == pytest.approx((0.3, 0.3))
    assert np.isnan(bootstrap(np.zeros(0), np.zeros(0))).all()
