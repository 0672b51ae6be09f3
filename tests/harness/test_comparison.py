"""Two sides compared: the numbers, what is pooled, which answers changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.harness.comparing.comparison import compare_sides
from medbench.harness.predictions.load import Side, load_side


def side(name: str, scores: Mapping[str, Sequence[float]], **more: Any) -> Side:
    rows = [
        {"model": name, "task": task, "doc_id": i, "cluster": f"{i}", "order": 0,
         "doc_hash": f"{(7 * i) % 100:02d} {task}", "target_hash": "x", "prompt_hash": "y",
         "protocol": "letters", "metric": "acc", "score": float(score), "weight": 1.0,
         "question": f"question {i} of {task}", "options": ["yes", "no"], "target": "yes",
         "prediction": "yes" if score else "no", "output": None, **more}
        for task, values in scores.items() for i, score in enumerate(values)
    ]  # fmt: skip
    return Side(name, pd.DataFrame(rows), f"made up {name}")


def test_differences_are_second_minus_first_and_pooled_by_question() -> None:
    a = side("a", {"t": [1, 1, 0, 0], "u": [0] * 8})
    b = side("b", {"t": [1, 0, 1, 1], "u": [1] * 4 + [0] * 4})
    found = compare_sides(a, b)
    assert [one.task for one in found.tasks] == ["t", "u"]
    assert [one.found.difference for one in found.tasks] == [0.25, 0.5]
    assert [one.found.discordant for one in found.tasks] == [(1, 2), (0, 4)]
    assert found.tasks[1].p_holm == pytest.approx(2 * found.tasks[1].found.p)
    assert found.pooled is not None
    assert found.pooled.found.n == 12
    assert found.pooled.found.difference == pytest.approx(5 / 12)
    assert found.pooled.found.discordant == (1, 6)


def test_changed_answers_are_counted_all_and_kept_by_hash() -> None:
    a, b = side("a", {"t": [1] * 20 + [0] * 10}), side("b", {"t": [0] * 20 + [1] * 10})
    found = compare_sides(a, b, flips=3)
    assert (found.lost, found.gained) == ({"t": 20}, {"t": 10})
    assert [flip.gained for flip in found.flips] == [False] * 3 + [True] * 3
    lost = sorted(f"{(7 * i) % 100:02d}" for i in range(20))[:3]
    assert [f"{(7 * int(flip.doc_id)) % 100:02d}" for flip in found.flips[:3]] == lost
    assert found.flips[0].options == ("yes", "no")
    assert (found.flips[0].prediction_a, found.flips[0].prediction_b) == ("yes", "no")
    assert len(compare_sides(a, b).flips) == 30
    assert compare_sides(a, b, flips=0).flips == ()


def test_identical_sides_show_no_difference_and_no_flip() -> None:
    a = side("a", {"t": [1, 0] * 50})
    found = compare_sides(a, Side("b", a.samples, "made up b"))
    assert found.tasks[0].found.difference == 0
    assert found.tasks[0].found.p == 1
    assert found.tasks[0].found.low < 0 < found.tasks[0].found.high
    assert found.flips == ()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_question_and_perfect_sides(value: float) -> None:
    found = compare_sides(side("a", {"t": [value]}), side("b", {"t": [1.0]})).tasks[0].found
    assert (found.n, found.difference, found.p) == (1, 1 - value, 1.0)
    assert found.low <= 0 <= found.high


def test_bits_per_byte_stand_apart_from_accuracies() -> None:
    a = side("a", {"t": [2.0, 3.0, 4.0]}, metric="bits_per_byte")
    b = side("b", {"t": [1.0, 2.5, 3.0]}, metric="bits_per_byte")
    found = compare_sides(a, b)
    assert found.pooled is None
    assert found.flips == ()
    assert not found.tasks[0].higher_is_better
    assert found.tasks[0].found.discordant is None


def test_names_are_told_apart() -> None:
    a = side("m", {"t": [1.0]})
    one = compare_sides(a, Side("m", a.samples, "elsewhere"))
    assert (one.name_a, one.name_b) == ("m (made up m)", "m (elsewhere)")


def test_clusters_count_once_in_their_task_and_their_names_mean_nothing_beyond_it() -> None:
    abstracts = [f"{n // 3}" for n in range(12)]
    a, b = (
        side(name, {"t": scores, "u": scores})
        for name, scores in (("a", [1, 0, 0] * 4), ("b", [1, 1, 0] * 2 + [1, 0, 0] * 2))
    )
    for one in (a, b):
        one.samples["cluster"] = 2 * abstracts
    found = compare_sides(a, b)
    assert [one.found.n for one in found.tasks] == [4, 4]
    assert found.pooled is not None
    assert found.pooled.found.n == 8
    assert found.warnings == (
        "2 tasks (t, u): 12 questions in 4 clusters; a cluster counts as one question",
    )


def test_a_question_of_two_tasks_counts_once_in_all_tasks() -> None:
    a, b = (side(name, {"t": [1, 0] * 8, "u": [0, 1] * 8}) for name in "ab")
    b.samples.loc[b.samples["doc_id"] < 4, "score"] = 1.0
    for one in (a, b):
        one.samples["question"] = [f"question {i}" for i in one.samples["doc_id"]]
    found = compare_sides(a, b)
    assert [one.found.n for one in found.tasks] == [16, 16]
    assert found.pooled is not None
    assert (found.pooled.found.n, found.pooled.found.test) == (16, "exact sign flip")
    assert found.warnings == (
        "all tasks pooled: some of them ask the same, 16 questions in all; each counts once",
    )


def test_pooled_says_how_many_of_the_tasks_it_holds() -> None:
    a, b = (
        replace(one, samples=pd.concat([one.samples, bits.samples], ignore_index=True))
        for one, bits in (
            (side(name, {"t": [1, 0]}), side(name, {"u": [2.0, 3.0]}, metric="bits_per_byte"))
            for name in "ab"
        )
    )
    pooled = compare_sides(a, b).pooled
    assert pooled is not None
    assert (pooled.task, pooled.protocol, pooled.found.n) == ("1 of 2 tasks pooled", "", 2)


def test_notes_say_whose_they_are_and_once_where_of_both() -> None:
    a, b = side("m", {"t": [1]}), replace(side("b", {"t": [1]}), notes=("read with care",))
    assert compare_sides(a, b).warnings == ("b: read with care",)
    one, other = (replace(a, origin=name, notes=("mind the gap",)) for name in ("here", "there"))
    assert compare_sides(one, other).warnings == ("m (here) and m (there): mind the gap",)


def test_nothing_in_common_is_an_error() -> None:
    a = side("a", {"t": [1.0]})
    with pytest.raises(InputError, match="no task in common"):
        compare_sides(a, side("b", {"u": [1.0]}))
    with pytest.raises(InputError, match="no question in common"):
        compare_sides(a, side("b", {"t": [1.0]}, doc_hash="other"))
    with pytest.raises(InputError, match="--tasks: 'x' is not in made up a; its tasks: t"):
        compare_sides(a, a, ["x"])


def test_real_predictions(real_data: Path) -> None:
    """628 → 665 of 1,273; 136 against 173 discordant; exact McNemar p = 0.040."""
    columns = {"task": "=medqa", "doc_id": "question", "target": "ground_truth",
               "correct": "is_correct", "question": "question"}  # fmt: skip
    a, b = (
        load_side(real_data / "predictions_mistral7b" / f"{name}_results.json", columns)
        for name in ("baseline", "finetuned")
    )
    compared = compare_sides(a, b)
    found = compared.tasks[0].found
    assert (found.n, round(found.a * 1273), round(found.b * 1273)) == (1273, 628, 665)
    assert found.discordant == (136, 173)
    assert found.p == pytest.approx(0.0404, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((0.0020, 0.0562), abs=5e-5)
    assert len(compared.flips) == 136 + 173
    assert all(flip.question and flip.prediction_a for flip in compared.flips)
