"""Joining two sides: what belongs together, what is refused, what is said."""

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.errors import InputError
from medbench.harness.comparing.identity import id_hash, same_text, text_hash
from medbench.harness.comparing.join import join


def table(n: int = 4, **columns: Any) -> pd.DataFrame:
    """*n* questions with lm-eval's hashes; every question's target is its own text."""
    found: dict[str, Any] = {
        "model": "m", "task": "t", "doc_id": range(n), "order": 0, "protocol": "letters",
        "doc_hash": [f"d{i}" for i in range(n)], "cluster": [f"d{i}" for i in range(n)],
        "target_hash": [f"t{i}" for i in range(n)], "prompt_hash": "p", "metric": "acc",
        "score": 1.0, "weight": 1.0, "question": [f"question {i}" for i in range(n)],
        "options": [[f"drug {i}", "water"] for i in range(n)],
        "target": [f"drug {i}" for i in range(n)], "prediction": "drug 0", "output": None,
    }  # fmt: skip
    return pd.DataFrame(found | columns, index=range(n))


def foreign(n: int = 4, **columns: Any) -> pd.DataFrame:
    """The same questions from a file that has ids and no hashes."""
    targets = columns.get("target", [f"drug {i}" for i in range(n)])
    ids = columns.get("doc_id", list(range(n)))
    known: dict[str, Any] = {
        "doc_hash": [id_hash("t", i) for i in ids], "prompt_hash": None, "protocol": "unknown",
        "target_hash": [text_hash(target) for target in targets],
    }  # fmt: skip
    return table(n, **(known | columns))


def test_rows_meet_by_question_whatever_their_order() -> None:
    a = table(score=[0.0, 1.0, 2.0, 3.0])
    joined = join(a, a.sample(frac=1, random_state=1))
    assert joined.pairs["doc_id"].tolist() == [0, 1, 2, 3], "in the order of the first side"
    assert (joined.pairs["score_a"] == joined.pairs["score_b"]).all()
    assert joined.warnings == ()
    assert len(joined.only_a) == len(joined.only_b) == 0


def test_questions_of_one_side_are_listed() -> None:
    joined = join(table(5), table(5).iloc[2:], ("base", "tuned"))
    assert joined.only_a[["task", "doc_id"]].to_numpy().tolist() == [["t", 0], ["t", 1]]
    assert len(joined.only_b) == 0
    assert len(joined.pairs) == 3
    assert joined.warnings == ("task t: only base answered 2 questions: doc_id 0, 1",)


def test_a_task_of_one_side_only_is_left_over_whole() -> None:
    a = pd.concat([table(2), table(3, task="u")])
    joined = join(a, table(2))
    assert joined.only_a["task"].tolist() == ["u"] * 3


def test_copies_join_in_turn_and_share_a_cluster() -> None:
    same = {"doc_hash": ["x", "x", "y"], "cluster": ["x", "x", "y"], "target_hash": "t"}
    joined = join(
        table(3, **same, score=[0.0, 1.0, 0.0]), table(3, **same, score=[10.0, 11.0, 10.0])
    )
    assert joined.pairs[["score_a", "score_b"]].to_numpy().tolist() == [[0, 10], [1, 11], [0, 10]]
    assert joined.pairs["cluster"].nunique() == 2


def test_each_option_order_joins_its_own() -> None:
    same = {"doc_hash": "x", "cluster": "x", "target_hash": "t", "doc_id": [0, 0]}
    a, b = table(2, order=[0, 1], score=[0.0, 1.0], **same), table(2, order=[1, 0], **same)
    joined = join(a, b.assign(score=[5.0, 6.0]))
    assert joined.pairs[["order", "score_a", "score_b"]].to_numpy().tolist() == [
        [0, 0, 6],
        [1, 1, 5],
    ]


def test_clusters_of_the_side_that_knows_what_belongs_together() -> None:
    joined = join(table(4), table(4, cluster=["x", "x", "y", "y"]))
    assert joined.pairs["cluster"].tolist() == ["x", "x", "y", "y"]


def test_other_right_answers_are_refused_with_their_ids() -> None:
    other = table(5, target_hash=["t0", "x", "x", "x", "x"], target=["drug 0", *"abcd"])
    with pytest.raises(InputError) as caught:
        join(table(5), other, ("base", "tuned"))
    said = str(caught.value)
    assert said.startswith("task t: the right answers of 4 questions differ in base and tuned")
    assert "doc_id 1, 2, 3, …" in said
    assert "'drug 1' and 'a'" in said
    assert said.endswith("score both on the same data")


def test_one_protocol_or_none_known() -> None:
    with pytest.raises(InputError, match="'letters' and b by 'option text'"):
        join(table(), table(protocol="option text"))
    assert join(table(), table(protocol="unknown")).warnings == (
        "task t: how b was asked is unknown",
    )
    assert join(table(protocol="unknown"), table(protocol="unknown")).warnings == ()


def test_one_metric() -> None:
    with pytest.raises(InputError, match="task t: a is measured in acc, b in bits_per_byte"):
        join(table(), table(metric="bits_per_byte"))


def test_other_prompts_are_said_with_their_number() -> None:
    joined = join(table(3), table(3, prompt_hash=["p", "q", "q"]))
    assert joined.warnings == ("task t: the prompts of 2 questions differ",)
    assert join(table(3), table(3, prompt_hash=None)).warnings == ()


def test_a_question_twice_is_refused_with_its_id() -> None:
    with pytest.raises(InputError) as caught:
        join(table(4, doc_id=[7, 7, 9, 9]), table(4), ("base", "tuned"))
    assert str(caught.value).startswith(
        "base: task t: more than one row of 2 questions: doc_id 7, 9;"
    )


def test_several_models_are_refused() -> None:
    with pytest.raises(InputError, match=r"b: holds samples of several models \(m, n\)"):
        join(table(2), table(2, model=["m", "n"]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_with_its_row(bad: float) -> None:
    with pytest.raises(InputError, match=rf"b: task t, doc_id 2: score {bad}"):
        join(table(), table(score=[0.0, 1.0, bad, 1.0]))
    with pytest.raises(InputError, match=r"doc_id 0: score 1\.0 of weight 0\.0"):
        join(table(weight=0.0), table())


def test_ids_against_hashes_join_on_the_id_and_compare_texts() -> None:
    for a, b in ((table(), foreign()), (foreign(), table())):
        joined = join(a, b)
        assert len(joined.pairs) == 4
        assert "task t: joined on doc_id, as one side has no doc_hash" in joined.warnings
    with pytest.raises(InputError, match=r"right answers of 1 question differ.*doc_id 3"):
        join(table(), foreign(target=["drug 0", "Drug 1.", "DRUG 2", "water"]))


def test_ids_that_mean_other_questions_are_said() -> None:
    joined = join(table(2), foreign(2, question=["question 0", "something else"]))
    assert joined.warnings[-1] == (
        "task t: the texts of 1 question differ, though their ids are the same"
    )


def test_letters_are_read_as_the_options_that_the_other_side_knows() -> None:
    options = [["a", "b", "c"]] * 3
    known = foreign(3, target=["b", "c", "a"], options=options, prediction=["b", "a", "a"])
    lettered = foreign(3, target=["B", "C", "A"], options=[[]] * 3, prediction=["A", "C", None])
    for a, b, side in ((known, lettered, "b"), (lettered, known, "a")):
        joined = join(a, b)
        assert joined.pairs["target"].tolist() == ["b", "c", "a"]
        assert joined.pairs[f"prediction_{side}"].tolist()[:2] == ["a", "c"]
        assert any("the letters of" in warning for warning in joined.warnings)
    with pytest.raises(InputError, match="right answers of 1 question differ"):
        join(known, foreign(3, target=["B", "C", "D"], options=[[]] * 3))


def test_letters_against_a_side_without_texts_are_compared_by_their_hashes() -> None:
    lettered = foreign(3, target=["B", "C", "A"], options=[[]] * 3)
    bare = lettered.assign(target=None, question=None, prediction=None)
    for a, b in ((lettered, bare), (bare, lettered)):
        assert join(a, b).warnings == ()


def test_what_holds_of_several_tasks_is_said_once() -> None:
    one = pd.concat([table(3, task=task) for task in ("t", "u", "v", "w", "x")], ignore_index=True)
    other = pd.concat(
        [table(2, task=task, prompt_hash="q", protocol="unknown") for task in ("t", "u", "v", "w")]
    )
    assert join(one, other).warnings == (
        "4 tasks (t, u, v, …): only a answered 4 questions: doc_id 2, 2, 2, …",
        "only a answered task x",
        "4 tasks (t, u, v, …): how b was asked is unknown",
        "4 tasks (t, u, v, …): the prompts of 8 questions differ",
    )


def test_letters_without_any_options_are_refused_with_the_remedy() -> None:
    lettered = foreign(2, target=["A", "B"], options=[[]] * 2)
    with pytest.raises(InputError, match="the answers of b are letters, so give its options"):
        join(foreign(2, options=[[]] * 2), lettered)


def test_options_that_are_letters_are_not_taken_for_letters() -> None:
    """A question about a figure has options B, C, D, E; the letter B then means C."""
    figure = {"options": [["B", "C", "D", "E"], ["x", "y", "z", "w"]]}
    known = foreign(2, target=["C", "x"], **figure)
    joined = join(known, foreign(2, target=["B", "A"], options=[[]] * 2))
    assert joined.pairs["target"].tolist() == ["C", "x"]


def test_targets_without_a_text_are_said_to_be_unchecked() -> None:
    joined = join(table(2, target=None), foreign(2))
    assert any("the right answers of 2 questions could not be" in one for one in joined.warnings)


def test_texts_come_from_the_side_that_has_them() -> None:
    bare = table(2).drop(columns=["question", "target", "options", "prediction", "output"])
    for a, b in ((bare, table(2)), (table(2), bare)):
        pairs = join(a, b).pairs
        assert pairs["question"].tolist() == ["question 0", "question 1"]
        assert pairs["target"].tolist() == ["drug 0", "drug 1"]


def test_nothing_in_common_is_no_pair() -> None:
    joined = join(table(2), table(2, doc_hash=["x", "y"]))
    assert len(joined.pairs) == 0
    assert len(joined.only_a) == len(joined.only_b) == 2
    assert "score_a" in joined.pairs


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_every_row_is_in_a_pair_or_left_over_and_reversal_swaps_sides(
    one: list[int], other: list[int]
) -> None:
    def side(hashes: list[int]) -> pd.DataFrame:
        names = [f"d{i}" for i in hashes]
        return table(len(hashes), doc_hash=names, cluster=names, target_hash="t")

    forth, back = join(side(one), side(other)), join(side(other), side(one))
    shared = sum(min(one.count(i), other.count(i)) for i in range(6))
    assert len(forth.pairs) == len(back.pairs) == shared
    assert len(forth.only_a) == len(one) - shared == len(back.only_b)
    assert sorted(forth.pairs["doc_hash"]) == sorted(back.pairs["doc_hash"])


@given(st.text(max_size=20), st.text(max_size=20))
def test_equal_texts_have_equal_hashes(one: str, other: str) -> None:
    one, other = (text.encode("utf-8", "ignore").decode() for text in (one, other))
    assert same_text(one, other) == (text_hash(one) == text_hash(other))


def test_signs_alone_are_no_text() -> None:
    assert same_text("Heparin.", "heparin")
    assert not same_text("+", "-")
    assert not same_text("", "?")


def test_two_runs_of_100_000_samples_join_in_two_seconds() -> None:
    n, tasks = 20_000, 5
    hashes = [f"{i:064x}" for i in range(n * tasks)]
    rng = np.random.default_rng(1)
    big = table(
        n * tasks, task=np.repeat([f"t{i}" for i in range(tasks)], n), doc_hash=hashes,
        cluster=hashes, target_hash=hashes, score=rng.integers(0, 2, n * tasks).astype(float),
    )  # fmt: skip
    other = big.sample(frac=0.99, random_state=1)
    started = time.process_time()
    joined = join(big, other)
    assert time.process_time() - started < 2
    assert len(joined.pairs) == len(other)
    assert (joined.pairs["score_a"] == joined.pairs["score_b"]).all()
