"""A group's value weighs every question alike, whichever task it is in and however often asked."""

import pandas as pd
import pytest

from medbench.harness.comparing.join import join
from medbench.harness.statistics.groups import group_scores, pooled
from medbench.harness.statistics.pooling import pool
from medbench.harness.statistics.stats import summarise
from medbench.tasks.catalog import groups

GROUP = "multimedqa_letters"


def table(task: str, scores: list[float], orders: int = 1, model: str = "base") -> pd.DataFrame:
    rows = [
        {"task": task, "model": model, "cluster": str(n), "order": order, "score": score,
         "weight": 1.0, "doc_id": orders * n + order, "doc_hash": f"{task} {n}",
         "question": f"{n} of {task}?", "target": "yes"}
        for n, score in enumerate(scores)
        for order in range(orders)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(metric="acc", unparsed=False, truncated=False)


def test_members_weigh_by_their_questions() -> None:
    members = groups()[GROUP]
    tables = {(name, "base"): table(name, [1.0]) for name in members}
    tables["medqa", "base"] = table("medqa", [0.0, 1.0, 0.0], orders=4)
    tables["medqa", "tuned"] = table("medqa", [1.0])
    found = group_scores([GROUP, "medqa", "multimedqa_cot"], tables, {})
    assert list(found) == [GROUP]
    assert list(found[GROUP]["scores"]) == ["base"]  # tuned lacks members
    assert found[GROUP]["metric"] == "acc"
    assert found[GROUP]["comparisons"] == []
    score = found[GROUP]["scores"]["base"]
    assert score["value"] == pytest.approx(9 / 11)
    assert score["n"] == 11


def test_a_question_asked_in_four_orders_counts_once() -> None:
    tables = [table("a", [1.0, 0.0] * 50, orders=4), table("b", [1.0, 0.0] * 150)]
    assert summarise(pooled(tables)).value == pytest.approx(0.5)


def test_tuned_minus_base_is_paired_over_all_members() -> None:
    members = groups()[GROUP]
    orders = {"medqa": 4}
    tables, pairs = {}, {}
    for task in members:
        base = table(task, [0.0, 1.0, 0.0], orders.get(task, 1))
        tuned = table(task, [0.0, 1.0, 1.0], orders.get(task, 1), "tuned")
        tables[task, "base"], tables[task, "tuned"] = base, tuned
        pairs[task, "base", "tuned"] = join(base, tuned).pairs
    [one] = group_scores([GROUP], tables, pairs)[GROUP]["comparisons"]
    assert (one["task"], one["base"], one["tuned"]) == (GROUP, "base", "tuned")
    assert one["difference"] == pytest.approx(1 / 3)
    assert one["n"] == 3 * len(members)
    # The two values of the pairs are those of the scores.
    scores = group_scores([GROUP], tables, pairs)[GROUP]["scores"]
    assert one["a"] == pytest.approx(scores["base"]["value"])
    assert one["b"] == pytest.approx(scores["tuned"]["value"])
    # A member without pairs leaves the group without a difference.
    del pairs["medqa", "base", "tuned"]
    assert group_scores([GROUP], tables, pairs)[GROUP]["comparisons"] == []


def test_pooled_and_pool_agree() -> None:
    base = table("a", [0.0, 1.0, 1.0], orders=2), table("b", [0.0, 1.0])
    tuned = table("a", [1.0, 1.0, 1.0], 2, "tuned"), table("b", [0.0, 0.0], 1, "tuned")
    whole = pool([join(one, two).pairs for one, two in zip(base, tuned, strict=True)])
    for side, tables in (("score_a", base), ("score_b", tuned)):
        assert whole[side].sum() / whole["weight"].sum() == pytest.approx(
            summarise(pooled(list(tables))).value
        )
