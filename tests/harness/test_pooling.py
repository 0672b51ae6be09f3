"""Several tasks as one table: what a question weighs, and which questions are one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.api
from statsmodels.stats.contingency_tables import mcnemar

from medbench.errors import InputError
from medbench.harness.statistics.pooling import pool
from medbench.harness.statistics.stats import compare


def pairs(
    task: str, a: Sequence[float], b: Sequence[float], orders: int = 1, metric: str = "acc"
) -> pd.DataFrame:
    """*a* and *b* hold the scores of each question under each order, one question after another."""
    question = np.arange(len(a)) // orders
    return pd.DataFrame({
        "task": task, "order": np.arange(len(a)) % orders, "metric": metric, "weight": 1.0,
        "doc_hash": [f"{task} {row}" for row in range(len(a))],
        "cluster": question.astype(str), "question": [f"{task} {one}?" for one in question],
        "target": "yes", "score_a": np.asarray(a, float), "score_b": np.asarray(b, float),
    })  # fmt: skip


def counts(task: str, both: int, only_a: int, only_b: int, neither: int) -> pd.DataFrame:
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return pairs(task, a, b)


def test_a_task_counts_by_its_questions_however_many_orders_it_was_asked_under() -> None:
    often = pairs("often", [1, 0, 0, 0] * 5, [1, 1, 0, 0] * 5, orders=4)
    found = compare(pool([counts("once", 10, 2, 5, 3), often]))
    assert found.n == 25
    assert found.a == pytest.approx((20 * 0.6 + 5 * 0.25) / 25)
    assert found.difference == pytest.approx((20 * 0.15 + 5 * 0.25) / 25)


def test_questions_of_one_abstract_count_each_in_the_value_and_once_in_the_error() -> None:
    together = pairs("abstracts", [0] * 20, [1] * 20).assign(cluster=np.arange(20) // 4)
    found = compare(pool([counts("plain", 10, 0, 0, 10), together]))
    assert found.n == 25
    assert found.difference == 0.5


def test_right_and_wrong_answers_keep_their_exact_tests() -> None:
    found = compare(pool([counts("t", 10, 2, 5, 3), counts("u", 4, 1, 9, 0)]))
    assert (found.n, found.discordant, found.test) == (34, (3, 14), "exact McNemar")
    assert found.p == pytest.approx(mcnemar([[0, 3], [14, 0]], exact=True).pvalue)
    orders = [pairs(task, [1, 0] * 9, [1, 1] * 9, orders=2) for task in "tu"]
    assert compare(pool(orders)).test == "exact sign flip"


@pytest.mark.parametrize("known", ["doc_hash", "question"])
def test_a_question_of_two_tasks_is_one_piece_of_evidence(known: str) -> None:
    rng = np.random.default_rng(5)
    letters, text = (
        pairs(task, *(rng.random((2, 300)) < 0.5).astype(float)) for task in ("letters", "text")
    )
    text["score_b"] = letters["score_b"]
    text[known] = letters[known]
    whole = pool([letters, text])
    assert whole["cluster"].nunique() == 300
    found = compare(whole)
    assert (found.n, found.discordant) == (300, None)
    fitted = statsmodels.api.OLS(whole["score_b"] - whole["score_a"], np.ones(600)).fit(
        cov_type="cluster", cov_kwds={"groups": whole["cluster"], "use_correction": False}
    )
    assert found.stderr == pytest.approx(float(fitted.bse.iloc[0]) * (300 / 299) ** 0.5)


def test_names_of_clusters_and_unknown_texts_join_nothing() -> None:
    one, other = counts("t", 2, 1, 1, 0), counts("u", 2, 1, 1, 0)
    for table in (one, other):
        table[["question", "target"]] = "", None
    assert compare(pool([one, other])).n == 8


def test_a_shared_question_joins_the_abstracts_it_belongs_to() -> None:
    one = counts("t", 4, 0, 4, 0).assign(cluster=np.arange(8) // 4)
    other = counts("u", 2, 1, 1, 0)
    other.loc[0, "doc_hash"], other.loc[1, "doc_hash"] = one["doc_hash"][0], one["doc_hash"][7]
    assert pool([one, other])["cluster"].nunique() == 1 + 1 + 2


def test_metrics_do_not_mix_and_nothing_pools_to_nothing() -> None:
    with pytest.raises(InputError, match=r"different metrics \(acc, bits_per_byte\)"):
        pool([pairs("t", [1], [0]), pairs("u", [3.0], [2.0], metric="bits_per_byte")])
    assert compare(pool([pairs("t", [], []), pairs("u", [1.0], [0.0])])).n == 1
