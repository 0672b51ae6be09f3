from typing import Any

import pytest

from medbench.reports.formatting import scale_of
from medbench.reports.verdicts import Comparison, headline


def comparison(metric: str = "acc", **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "task": "clinic_text", "base": "base", "tuned": "tuned", "n": 256,
        "difference": 0.66, "low": 0.601, "high": 0.719, "p": 1e-40, "test": "exact McNemar",
        "only_base_right": 3, "only_tuned_right": 172,
        "higher_is_better": metric == "acc", "scale": scale_of(metric),
    }  # fmt: skip
    return Comparison(**values | changes)


def said(one: Comparison) -> str:
    return one.sentence.replace("\u00a0", " ")


def test_better() -> None:
    assert said(comparison()) == (
        "tuned answers 66.0 points more of clinic_text right than base "
        "(95 % interval 60.1 to 71.9, n = 256, exact McNemar p < 0.001): better."
    )


def test_worse_shows_the_interval_of_the_loss() -> None:
    one = comparison(difference=-0.04, low=-0.06, high=-0.02, p=0.002)
    assert one.verdict == "worse"
    assert said(one) == (
        "tuned answers 4.0 points fewer of clinic_text right than base "
        "(95 % interval 2.0 to 6.0, n = 256, exact McNemar p = 0.002): worse."
    )


def test_no_difference_says_what_cannot_be_excluded() -> None:
    one = comparison(difference=0.005, low=-0.034, high=0.044, p=0.88)
    assert said(one) == (
        "No difference shown between tuned and base on clinic_text (+0.5 points, "
        "95 % interval −3.4 to 4.4, n = 256, exact McNemar p = 0.88); "
        "a difference of up to 4.4 points either way cannot be excluded."
    )


def test_fewer_bits_are_better() -> None:
    one = comparison("bits_per_byte", difference=-0.9, low=-1.0, high=-0.8, p=0.0, test="paired t")
    assert one.verdict == "better"
    assert said(one).startswith("tuned needs 0.900 bits per byte less than base on clinic_text")
    assert said(one).count("lower is better") == 1
    assert "is better" not in said(comparison())
    more = comparison("bits_per_byte", difference=0.9, low=0.8, high=1.0, p=0.0)
    assert more.verdict == "worse"
    assert "more than base" in said(more)


def test_interval_and_test_may_disagree() -> None:
    one = comparison(difference=0.05, low=0.001, high=0.099, p=0.063)
    assert one.verdict == "inconclusive"
    assert said(one).endswith("interval and test disagree, inconclusive.")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n": 0, "difference": None}, "answered no question of clinic_text in common"),
        ({"n": 1, "low": None, "high": None}, "over 1 question: too few for an interval"),
        ({"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}, "score the same on each"),
    ],
)
def test_degenerate_comparisons(changes: dict[str, Any], expected: str) -> None:
    one = comparison(**changes)
    assert expected in said(one)
    assert one.verdict not in ("better", "worse")


def test_agreement_on_every_question_is_no_proof_of_equality() -> None:
    same: dict[str, Any] = {"n": 20, "difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert said(comparison(**same)).endswith(
        "no difference shown; a difference of up to 16.8 points either way cannot be excluded."
    )
    assert said(comparison("bits_per_byte", **same)).endswith(": no difference shown.")


def test_headline() -> None:
    flat: dict[str, Any] = {"difference": 0.0, "low": -0.1, "high": 0.1, "p": 0.9}
    bad: dict[str, Any] = {"difference": -0.2, "low": -0.3, "high": -0.1}
    one, other = comparison(task="a"), comparison(task="b")
    assert headline("tuned", [one]) == "tuned is better than base on a."
    assert headline("tuned", [one, other]) == "tuned is better than base on both tasks."
    mixed = [one, other, comparison(task="c", **bad), comparison(task="d", **flat)]
    assert headline("tuned", mixed) == (
        "tuned is better than base on 2 of 4 tasks and is worse than base on c; "
        "no difference is shown on d."
    )
    assert headline("tuned", mixed[3:]) == "tuned against base: no difference is shown on d."
