import math

import pytest

from medbench.reports import formatting as f

N = f.NBSP


@pytest.mark.parametrize(
    ("value", "digits", "signed", "shown"),
    [
        (1.25, 1, False, "1.2"),
        (-1.25, 2, True, "−1.25"),
        (3.0, 1, True, "+3.0"),
        (-0.04, 1, True, "0.0"),
        (1234567, 0, False, "1,234,567"),
        (None, 1, False, "–"),
        (math.nan, 1, True, "–"),
        (math.inf, 1, True, "–"),
    ],
)
def test_number(value: float | None, digits: int, signed: bool, shown: str) -> None:
    assert f.number(value, digits, signed=signed) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(1e-40, f"<{N}0.001"), (0.001, "0.001"), (0.0342, "0.034"), (0.1, "0.10"), (1.0, "1.00"),
     (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_p_value(p: float | None, shown: str) -> None:
    assert f.p_value(p) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, f"0.0{N}s"), (0.000012, f"12{N}µs"), (0.0031, f"3.1{N}ms"), (0.04, f"40{N}ms"),
     (0.12, f"0.1{N}s"), (9.94, f"9.9{N}s"), (9.96, f"10{N}s"), (59.6, f"1{N}min 00{N}s"),
     (185, f"3{N}min 05{N}s"), (3599.7, f"1{N}h 00{N}min"), (3720, f"1{N}h 02{N}min"),
     (None, "–")],
)  # fmt: skip
def test_duration(seconds: float | None, shown: str) -> None:
    assert f.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, f"0{N}B"), (999, f"999{N}B"), (1000, f"1.0{N}kB"), (2_500_000, f"2.5{N}MB"),
     (16e9, f"16.0{N}GB"), (None, "–")],
)  # fmt: skip
def test_size(count: float | None, shown: str) -> None:
    assert f.size(count) == shown


def test_the_rest() -> None:
    assert f.percent(0.25) == f"25.0{N}%"
    assert f.percent(None) == "–"
    assert f.interval(-0.5, 2, 1) == "−0.5 to 2.0"
    assert f.interval(None, 2) == "–"
    assert [f.milliseconds(ms) for ms in (123.4, 12.34, 1.234, None)] == [
        "123",
        "12.3",
        "1.23",
        "–",
    ]
    assert [f.small(x) for x in (0, 0.0123, 3.1e-6, None)] == ["0", "0.0123", "3.1e−06", "–"]
    assert f.count(1, "question") == f"1{N}question"
    assert f.count(2, "question") == f"2{N}questions"


def test_scales() -> None:
    assert f.scale_of("acc").value(0.902) == f"90.2{N}%"
    assert f.scale_of("acc").difference(0.66) == "+66.0"
    assert f.scale_of("bits_per_byte").value(3.8) == "3.800"
    assert f.scale_of("bits_per_byte").interval(-0.5, None) == "–"
