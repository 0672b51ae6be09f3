import json
from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest

from medbench.harness.statistics import stats
from medbench.harness.statistics.power import smallest_detectable
from medbench.reports.verdicts import Comparison, headline


def comparison(metric: str = "acc", **changes: Any) -> Comparison:
    entry: dict[str, Any] = {
        "task": "clinic_text", "metric": metric, "base": "base", "tuned": "tuned", "n": 256,
        "a": 0.25, "b": 0.91, "difference": 0.66, "stderr": 0.03, "low": 0.601, "high": 0.719,
        "p": 1e-40, "test": "exact McNemar", "discordant": [3, 172],
    }  # fmt: skip
    return Comparison.read(entry | changes, higher_is_better=metric == "acc")


def measured(pairs: pd.DataFrame) -> Comparison:
    """As results.json has it: written as JSON, read again."""
    found = asdict(stats.compare(pairs)) | {"smallest_detectable": smallest_detectable(pairs)}
    finite = {key: None if value != value else value for key, value in found.items()}
    return comparison(str(pairs["metric"].iloc[0]), **json.loads(json.dumps(finite)))


def said(one: Comparison) -> str:
    return one.sentence.replace("\u00a0", " ")


def test_better() -> None:
    assert said(comparison()) == (
        "tuned scores 66.0 points higher than base on clinic_text (91.0 % against 25.0 %; "
        "95 % interval 60.1 to 71.9, n = 256, exact McNemar p < 0.001): better."
    )


def test_worse_shows_the_interval_of_the_loss() -> None:
    one = comparison(a=0.25, b=0.21, difference=-0.04, low=-0.06, high=-0.02, p=0.002)
    assert one.verdict == "worse"
    assert said(one) == (
        "tuned scores 4.0 points lower than base on clinic_text (21.0 % against 25.0 %; "
        "95 % interval 2.0 to 6.0, n = 256, exact McNemar p = 0.002): worse."
    )


def test_no_difference_says_what_cannot_be_excluded() -> None:
    one = comparison(difference=0.005, low=-0.034, high=0.044, p=0.88)
    assert said(one) == (
        "No difference shown between tuned and base on clinic_text (+0.5 points, "
        "95 % interval −3.4 to 4.4, n = 256, exact McNemar p = 0.88); "
        "a difference of up to 4.4 points either way cannot be excluded."
    )


def test_a_difference_that_is_not_shown_comes_with_the_one_that_would_be() -> None:
    one = comparison(difference=0.005, low=-0.034, high=0.044, p=0.88, smallest_detectable=0.057)
    assert said(one).endswith(
        "With 256 questions a true difference of 5.7 points is shown four times in five."
    )


def test_adjusting_for_the_number_of_tasks_can_take_the_verdict_away() -> None:
    one = comparison(b=0.28, difference=0.03, low=0.002, high=0.056, p=0.04, p_holm=0.12)
    assert one.verdict == "inconclusive"
    assert said(one) == (
        "tuned scores 3.0 points higher than base on clinic_text (28.0 % against 25.0 %; "
        "95 % interval 0.2 to 5.6, n = 256, exact McNemar p = 0.040, adjusted 0.12): not enough "
        "after adjusting for the number of tasks, inconclusive."
    )
    assert one.p_shown == "0.040, adjusted 0.12"
    kept = comparison(p=0.001, p_holm=0.004)
    assert kept.verdict == "better"
    assert comparison(p_holm=4e-40).p_shown == comparison().p_shown


def test_fewer_bits_are_better() -> None:
    one = comparison("bits_per_byte", difference=-0.9, low=-1.0, high=-0.8, p=0.0, test="sign flip")
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
        ({"difference": float("nan"), "n": 0}, "answered no question of clinic_text in common"),
    ],
)
def test_degenerate_comparisons(changes: dict[str, Any], expected: str) -> None:
    one = comparison(**changes)
    assert expected in said(one)
    assert one.verdict == "inconclusive"


def pairs(n: int, metric: str = "acc", **columns: Any) -> pd.DataFrame:
    right = [float(i % 2) for i in range(n)]
    return pd.DataFrame({
        "score_a": right, "score_b": right, "weight": 1.0, "metric": metric,
        "cluster": [str(i) for i in range(n)],
    } | columns)  # fmt: skip


def test_agreement_on_every_question_is_no_proof_of_equality() -> None:
    assert said(measured(pairs(20))) == (
        "tuned and base score the same on each of the 20 questions of clinic_text: no difference "
        "shown; a difference of up to 16.1 points either way cannot be excluded. With 20 questions "
        "a true difference of 33.2 points is shown four times in five."
    )
    bits = measured(pairs(20, "bits_per_byte"))
    assert said(bits).endswith(
        "a difference of up to 0.168 bits per byte either way cannot be excluded."
    )


def test_no_difference_ever_has_an_interval_without_width() -> None:
    shifted = pairs(12, score_a=0.5, score_b=0.25, cluster=[str(i // 4) for i in range(12)])
    for table in (pairs(1), pairs(7), pairs(300), shifted):
        one = measured(table)
        assert one.low is not None
        assert one.high is not None
        assert one.high - one.low > 0.01
        assert one.interval.count("0.0") < 2


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
