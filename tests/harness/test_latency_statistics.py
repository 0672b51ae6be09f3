"""Statistics of timings, by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medbench.errors import InputError
from medbench.harness.latency import COLUMNS, summarise
from medbench.harness.latency.statistics import _by_order, against, ratio_of_medians


def table(e2e_s: list[float], *, ttft_s: float = 0.1, **fixed: object) -> pd.DataFrame:
    """A series of requests of three tokens; the first is a warm-up."""
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            "model": "tuned",
            "engine": "torch",
            "format": "fp32",
            "provider": "cpu",
            "batch": 1,
            "prompt_tokens": 8,
            "output_tokens": 3,
            "iteration": iteration,
            "warmup": iteration == 0,
            "ttft_s": ttft_s,
            "token_s": [(e2e - ttft_s) / 2] * 2,
            "e2e_s": e2e,
            "threads": 2,
            "hardware": "a processor",
            "load_1m": 0.5,
            "clock_mhz": math.nan,
            "ttft_floor_s": 0.05,
            **fixed,
        }
        for iteration, e2e in enumerate(e2e_s)
    ]
    return pd.DataFrame(rows)


def test_summary_by_hand() -> None:
    timings = pd.concat(
        [
            table([9.0, 0.30, 0.32, 0.34]),
            table([9.0, 0.20], ttft_s=0.05, engine="onnxruntime"),
        ]
    )

    torch_row, ort_row = summarise(timings)

    # TPOT of the three requests: 0.10, 0.11, 0.12 s; linear interpolation between them.
    expected = {
        "model": "tuned",
        "engine": "torch",
        "format": "fp32",
        "provider": "cpu",
        "batch": 1,
        "prompt_tokens": 8,
        "output_tokens": 3,
        "ttft_ms_p50": pytest.approx(100),
        "ttft_ms_p90": pytest.approx(100),
        "ttft_ms_p95": pytest.approx(100),
        "ttft_ms_p99": pytest.approx(100),
        "tpot_ms_p50": pytest.approx(110),
        "tpot_ms_p90": pytest.approx(118),
        "tpot_ms_p95": pytest.approx(119),
        "tpot_ms_p99": pytest.approx(119.8),
        "itl_ms_p50": pytest.approx(110),
        "e2e_ms_p50": pytest.approx(320),
        "e2e_ms_p90": pytest.approx(336),
        "tokens_per_s": pytest.approx(9 / 0.96),
        "n": 3,
        "unstable": False,
        "threads": 2,
        "hardware": "a processor",
        "load_1m": pytest.approx(0.5),
        "clock_mhz": None,
        "peak_bytes": None,
        "ttft_floor_ms": pytest.approx(50),
        "token_floor_ms": None,
        "ratios": [],
    }
    assert torch_row | expected == torch_row
    assert (ort_row["engine"], ort_row["n"]) == ("onnxruntime", 1)
    assert ort_row["ttft_ms_p50"] == pytest.approx(50)
    assert ort_row["tpot_ms_p99"] == pytest.approx(75)


def test_unstable_is_a_spread_above_a_tenth() -> None:
    (steady,) = summarise(table([1.0, *[1.0] * 10, 5.0]))  # one outlier in ten does not condemn
    # p10 0.84, p90 1.16, median 1.0: spread 0.32 / 2.563 = 0.125.
    (shaky,) = summarise(table([1.0, 0.8, 0.9, 1.0, 1.1, 1.2]))
    assert not steady["unstable"]
    assert shaky["unstable"]


def test_summary_of_warm_ups_alone_is_empty() -> None:
    assert summarise(table([1.0])) == []


def test_intervals_of_percentiles_are_exact_order_statistics() -> None:
    e2e = [9.0, *np.linspace(1, 2, 30)]
    (row,) = summarise(table(e2e))

    # 95 % of binomial(30, 1/2) lie in 10 … 20: the interval is the 10th to the 21st value.
    ordered = 1e3 * np.linspace(1, 2, 30)
    assert row["intervals"]["e2e_ms_p50"] == pytest.approx([ordered[9], ordered[20]])
    # Thirty requests bound p99 from below alone.
    low, high = row["intervals"]["e2e_ms_p99"]
    assert low is not None
    assert high is None


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_interval_of_a_median_holds_the_truth_about_as_often_as_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(100):
        low, high = _by_order(rng.lognormal(size=15), 50)
        assert low is not None
        assert high is not None
        hits += low <= 1 <= high
    # 96.5 % by construction; fewer than 88 of 100 has a chance of 1e-4.
    assert hits >= stats.binom.ppf(1e-5, 100, 0.95)


def test_ratio_to_torch_comes_with_an_interval_over_rounds() -> None:
    rng = np.random.default_rng(1)
    load = rng.lognormal(sigma=0.5, size=31)  # meets both engines of a round alike
    noise = rng.lognormal(sigma=0.01, size=31)
    slow = table(list(0.1 + 3 * load))
    fast = table(list(0.1 + load * noise), engine="onnxruntime", format="int4")

    torch_row, row = summarise(pd.concat([slow, fast]))

    assert torch_row["ratios"] == []
    first, tpot = row["ratios"]
    assert (first["figure"], first["ratio"]) == ("ttft", pytest.approx(1))
    assert (tpot["figure"], tpot["engine"], tpot["format"]) == ("tpot", "torch", "fp32")
    assert tpot["low"] < tpot["ratio"] < tpot["high"]
    assert tpot["low"] < 3 < tpot["high"]
    assert tpot["high"] - tpot["low"] < 0.3  # unpaired it would be ten times as wide
    unpaired = ratio_of_medians(3 * load[1:], (load * noise)[1:], paired=False)
    assert unpaired[2] - unpaired[1] > 1  # type: ignore[operator]


def test_ratios_compare_the_same_request_alone() -> None:
    rows = summarise(
        pd.concat(
            [
                table([1.0] * 5, batch=4),
                table([1.0] * 5, prompt_tokens=16),
                table([1.0] * 5, engine="onnxruntime"),
            ]
        )
    )
    assert [row["ratios"] for row in rows] == [[], [], []]


def test_two_values_have_no_interval() -> None:
    assert ratio_of_medians(np.array([2.0, 2.0]), np.array([1.0, 1.0])) == (2.0, None, None)


def test_measurements_of_one_machine_are_compared() -> None:
    before = table([9.0, *[0.3] * 10], model="before")
    now = table([9.0, *[0.5] * 10], model="now")

    first, tpot = against(now, before)

    assert (first["figure"], first["ratio"]) == ("ttft", 1.0)
    assert (tpot["figure"], tpot["ratio"]) == ("tpot", pytest.approx(2))
    assert (tpot["low"], tpot["high"]) == (pytest.approx(2), pytest.approx(2))
    assert not tpot["unstable"]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"hardware": "another processor"}, "hardware .a processor; before: another processor"),
        ({"threads": 1}, "threads .2; before: 1"),
        ({"provider": "cuda"}, "provider .cpu; before: cuda"),
    ],
)
def test_measurements_of_unlike_hardware_are_not_compared(
    changed: dict[str, Any], what: str
) -> None:
    with pytest.raises(InputError, match=f"made on unlike {what}"):
        against(table([1.0] * 5), table([1.0] * 5, **changed))


def test_measurements_of_unknown_hardware_are_not_compared() -> None:
    old = table([1.0] * 5).drop(columns="hardware")
    with pytest.raises(InputError, match=r"unlike hardware .a processor; before: unknown"):
        against(table([1.0] * 5), old)
    with pytest.raises(InputError, match=r"unlike hardware .unknown; before: unknown"):
        against(old, old)


def test_measurements_without_a_common_series_are_not_compared() -> None:
    with pytest.raises(InputError, match="timed no request of the same"):
        against(table([1.0] * 5), table([1.0] * 5, batch=2))


def test_tables_of_older_runs_are_summarised() -> None:
    old = table([1.0] * 5)[list(COLUMNS[:14])]
    (row,) = summarise(old)
    assert (row["hardware"], row["peak_bytes"], row["threads"]) == (None, None, 2)
