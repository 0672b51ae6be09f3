"""Power against published figures, statsmodels and exact sums over tables."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.stats.power import NormalIndPower, normal_sample_size_one_tail

from medbench.harness.statistics.power import (
    Sides,
    noise_floor,
    questions_needed,
    smallest_detectable,
)
from medbench.harness.statistics.stats import Spread, spread


def pairs(both: int, only_a: int, only_b: int, neither: int) -> pd.DataFrame:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return pd.DataFrame({
        "score_a": a, "score_b": b, "weight": 1.0, "metric": "acc",
        "cluster": [str(i) for i in range(len(a))],
    })  # fmt: skip


@pytest.mark.parametrize(("n", "points"), [(1273, 3.9), (4183, 2.2), (500, 6.3)])
def test_reference_figures(n: int, points: float) -> None:
    """MedQA, MedMCQA and PubMedQA with an sd of 0.5, 80 % power, level 5 %."""
    assert 100 * smallest_detectable(0.5, n) == pytest.approx(points, abs=0.05)


def test_statsmodels_needs_the_same_number() -> None:
    n = normal_sample_size_one_tail(0.02, 0.8, 0.025, std_null=0.5)
    assert questions_needed(0.5, 0.02) == math.ceil(n)
    found = NormalIndPower(ddof=0).solve_power(0.02 / 0.5, power=0.9, alpha=0.05, ratio=0,
                                               alternative="larger")  # fmt: skip
    assert questions_needed(0.5, 0.02, power=0.9, sides=1) == math.ceil(found)


@given(
    st.floats(0.005, 0.4),
    st.floats(0, 1),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.sampled_from([1, 2]),
)
def test_needed_and_detectable_are_each_others_inverse(
    difference: float, differing: float, power: float, sides: Sides
) -> None:
    for found in (Spread(1, math.sqrt(differing), differing), Spread(1, 0.5, None)):
        n = questions_needed(found, difference, power=power, sides=sides)
        assert n is not None
        assert smallest_detectable(found, n, power, sides=sides) <= difference + 1e-9
        if n > 1:
            assert smallest_detectable(found, n - 1, power, sides=sides) > difference


@pytest.mark.parametrize(("n", "differing"), [(100, 0.5), (500, 0.15), (1273, 0.25), (1273, 0.05)])
def test_the_exact_test_has_the_promised_power(n: int, differing: float) -> None:
    """Σ over all tables of their probability and of McNemar's exact test below 0.05."""
    difference = smallest_detectable(Spread(n, 0.0, differing))
    only_a, only_b = (differing - difference) / 2, (differing + difference) / 2
    both = np.arange(n + 1)
    chance = reference.binom.pmf(both, n, differing)
    power = 0.0
    for moved in both[chance > 1e-9]:
        wins = np.arange(moved // 2, moved + 1)
        shown = 2 * reference.binom.sf(wins - 1, moved, 0.5) < 0.05
        share = reference.binom.pmf(wins, moved, only_b / (only_a + only_b))
        power += chance[moved] * share[shown].sum()
    assert 0.785 < power < 0.83


def test_questions_that_never_differ_still_have_a_limit() -> None:
    same = pairs(50, 0, 0, 50)
    assert 0.07 < smallest_detectable(same) < 0.1
    assert questions_needed(same, 0.01) == pytest.approx(900, rel=0.1)


def test_equal_answers_under_several_orders_still_have_a_limit() -> None:
    same = pairs(50, 0, 0, 50).assign(cluster=[str(i // 4) for i in range(100)])
    assert smallest_detectable(same) == smallest_detectable(pairs(25, 0, 0, 0))
    bits = same.assign(metric="bits_per_byte")
    assert math.isnan(smallest_detectable(bits))
    assert questions_needed(bits, 0.1) is None


def test_pairs_give_their_own_spread() -> None:
    table = pairs(492, 136, 173, 472)
    found = spread(table)
    assert found.differing == pytest.approx(309 / 1273)
    d = table["score_b"] - table["score_a"]
    assert found.sd == pytest.approx(d.std())
    assert 100 * smallest_detectable(table) == pytest.approx(3.94, abs=0.01)
    assert smallest_detectable(table, 2 * 1273) < smallest_detectable(table)
    assert smallest_detectable(table, sides=1) < smallest_detectable(table)


def test_what_cannot_be_said() -> None:
    empty = pairs(0, 0, 0, 0)
    assert math.isnan(smallest_detectable(empty))
    assert questions_needed(0.5, 0.0) is None
    assert questions_needed(0.5, math.nan) is None
    assert questions_needed(math.nan, 0.1) is None
    assert smallest_detectable(pairs(1, 0, 0, 0)) == 1.0


def test_noise_floor_by_hand() -> None:
    """Two repeats of four questions; d = 0, 0, 1, −1, so sd² = 2 · mean(0, 0, ½, ½) = ½."""
    table = pd.DataFrame({
        "cluster": list("ppqqrrss"), "order": [0, 1] * 4,
        "score": [1.0, 1, 0, 0, 0, 1, 1, 0],
    })  # fmt: skip
    found = noise_floor(table)
    assert found
    assert (found.repeats, found.n, found.spread) == (2, 4, 0.0)
    assert found.sd == pytest.approx(math.sqrt(0.5))
    assert found.floor == pytest.approx(1.959964 * math.sqrt(0.5) / 2)


def test_noise_floor_is_what_repeats_of_one_model_show() -> None:
    rng = np.random.default_rng(1)
    skill, n = rng.random(400), 400
    runs = np.stack([(rng.random(n) < skill).astype(float) for _ in range(60)], axis=1)
    table = pd.DataFrame({
        "cluster": np.arange(n).repeat(60).astype(str), "repeat": np.tile(np.arange(60), n),
        "score": runs.ravel(),
    })  # fmt: skip
    found = noise_floor(table, repeat="repeat")
    assert found
    assert found.sd / math.sqrt(2 * n) == pytest.approx(found.spread, rel=0.25)
    apart = np.abs(np.diff(runs.mean(axis=0).reshape(30, 2), axis=1))
    assert np.mean(apart > found.floor) <= 0.2


def test_noise_floor_needs_repeats() -> None:
    once = pd.DataFrame({"cluster": ["p", "q"], "order": [0, 0], "score": [1.0, 0.0]})
    assert noise_floor(once) is None
    apart = pd.DataFrame({"cluster": ["p", "q"], "order": [0, 1], "score": [1.0, 0.0]})
    assert noise_floor(apart) is None
