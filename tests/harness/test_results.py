"""results.json, derived from parts that were written by hand; no model is loaded."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.harness.folder.store import RunFolder
from medbench.harness.notes import notes
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.results import derive, samples_part
from medbench.harness.suite import load_suite


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(
        load_suite("quickstart", []), models="base,tuned",
        tasks="clinic_text,clinic_open", device="cpu", command="test",
    )  # fmt: skip


def rows(model: str, task: str, right: list[int], orders: int = 1) -> pd.DataFrame:
    n = len(right)
    return pd.DataFrame({
        "model": model, "task": task, "doc_id": range(n), "order": [i % orders for i in range(n)],
        "cluster": [str(i // orders) for i in range(n)],
        "doc_hash": [f"d{i}" for i in range(n)], "target_hash": [f"t{i}" for i in range(n)],
        "prompt_hash": [f"p{i}" for i in range(n)], "protocol": "letters", "metric": "acc",
        "score": [float(one) for one in right], "weight": 1.0, "question": "Q", "target": "T",
        "options": [["T", "U"]] * n, "option_scores": [[]] * n, "confidence": float("nan"),
        "prediction": ["T" if one else "U" for one in right], "output": None, "subject": None,
        "unparsed": False, "truncated": False, "cut": False,
    })  # fmt: skip


def results(plan: Plan, path: Path, *tables: pd.DataFrame) -> dict[str, Any]:
    run = RunFolder(path)
    parts = []
    for table in tables:
        parts.append(samples_part(table["model"].iloc[0], table["task"].iloc[0]))
        run.write_table(parts[-1], table)
    derive(plan, run, set(parts))
    return run.results()


def test_comparisons_are_paired_and_adjusted(plan: Plan, tmp_path: Path) -> None:
    found = results(
        plan, tmp_path / "R",
        rows("base", "clinic_text", [0] * 8 + [1] * 2),
        rows("tuned", "clinic_text", [1] * 10),
        rows("base", "clinic_open", [0, 1] * 10, orders=2),
        rows("tuned", "clinic_open", [1, 1] * 10, orders=2),
    )  # fmt: skip
    text, often = (next(one for one in found["comparisons"] if one["task"] == task)
                   for task in ("clinic_text", "clinic_open"))  # fmt: skip
    assert (text["base"], text["tuned"], text["n"], text["a"], text["b"]) == (
        "base", "tuned", 10, 0.2, 1.0,
    )  # fmt: skip
    assert (text["discordant"], text["test"]) == ([0, 8], "exact McNemar")
    assert text["p"] == pytest.approx(2 / 2**8)
    assert (often["discordant"], often["test"], often["n"]) == (None, "exact sign flip", 10)
    assert often["p"] == pytest.approx(2 / 2**10)
    assert often["p_holm"] == pytest.approx(2 * often["p"])
    assert text["p_holm"] == pytest.approx(text["p"])
    assert text["low"] < text["difference"] < text["high"] <= 1
    assert 0 < text["smallest_detectable"] < 1
    assert found["tasks"]["clinic_open"]["scores"]["base"]["noise"]["repeats"] == 2
    assert "noise" not in found["tasks"]["clinic_text"]["scores"]["base"]


def test_equal_answers_keep_an_interval(plan: Plan, tmp_path: Path) -> None:
    right = [1, 0] * 20
    found = results(
        plan, tmp_path / "R",
        rows("base", "clinic_text", right), rows("tuned", "clinic_text", right),
    )  # fmt: skip
    (one,) = found["comparisons"]
    assert (one["difference"], one["p"], one["discordant"]) == (0.0, 1.0, [0, 0])
    assert one["low"] == pytest.approx(-one["high"])
    assert one["high"] > 0.05


def test_questions_of_one_side_are_left_out_and_said(plan: Plan, tmp_path: Path) -> None:
    found = results(
        plan, tmp_path / "R",
        rows("base", "clinic_text", [1, 0, 1]), rows("tuned", "clinic_text", [1, 0]),
    )  # fmt: skip
    assert found["comparisons"][0]["n"] == 2
    (said,) = set(found["notes"]) - set(notes(plan))
    assert "clinic_text" in said
    assert "base" in said


def test_a_model_without_its_base_is_compared_with_nothing(plan: Plan, tmp_path: Path) -> None:
    found = results(plan, tmp_path / "R", rows("tuned", "clinic_text", [1, 0]))
    assert found["comparisons"] == []


def test_different_right_answers_are_refused(plan: Plan, tmp_path: Path) -> None:
    other = rows("tuned", "clinic_text", [1, 0]).assign(target_hash=["t0", "changed"])
    with pytest.raises(InputError, match=r"clinic_text.*right answers"):
        results(plan, tmp_path / "R", rows("base", "clinic_text", [1, 0]), other)


def test_prompts_that_lost_their_beginning_are_said_at_the_top(plan: Plan, tmp_path: Path) -> None:
    whole, cut = rows("base", "clinic_text", [1, 0, 1]), rows("tuned", "clinic_text", [1, 1, 1])
    found = results(plan, tmp_path / "R", whole, cut.assign(cut=[True, False, True]))
    (said,) = set(found["notes"]) - set(notes(plan))
    assert said.startswith("tuned: 2 of 3 prompts of clinic_text were longer than the model's")
