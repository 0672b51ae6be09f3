"""Overlap inside a run: refused, dropped or reported, and what the report says of it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune.dataset import compared, examples
from medbench.finetune.recipe import RECIPES, Recipe
from medbench.harness import overlap
from medbench.harness.folder.store import FORMAT, RunFolder
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import silent
from medbench.harness.suite import load_suite
from medbench.reports import write_reports
from medbench.reports.sections.overlap import read_overlap
from medbench.tasks.clinic import choice_docs

LEAKED = [choice_docs("test")[number]["question"] for number in (3, 40)]


OWN = [
    "A cooper has itching wrists after work with resin. Which cell starts the reaction?",
    "Why do divers breathe helium instead of nitrogen below sixty metres?",
    "Which tooth of a child breaks through last, and at what age?",
    "A violinist cannot turn her head to the right. Name the muscle.",
    "How is a jellyfish sting rinsed on the beach?",
    "What colour does iodine give to starch in the stool of an infant?",
    "An old sailor bruises easily; his gums bleed. What does his diet lack?",
    "Which bone in the hand dies after a fall on ice?",
    "Explain why garlic keeps platelets from sticking together.",
    "A shepherd coughs up hooklets. Which worm lives in his lung?",
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve tuning rows; 2 and 7 are test questions, one of them in capitals."""
    questions = [*OWN[:2], LEAKED[0], *OWN[2:6], LEAKED[1].upper(), *OWN[6:]]
    found = [{"Question": text, "Complex_CoT": "c", "Response": "r"} for text in questions]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, found)), "utf-8")
    return path


def plan(tmp_path: Path, rows: Path, policy: str | None, *, take: int | None = None) -> Plan:
    recipe = yaml.safe_load((RECIPES / "clinic.yaml").read_text("utf-8"))
    recipe["data"] |= {"source": str(rows), "rows": take}
    del recipe["data"]["overlap"]
    if policy:
        recipe["data"]["overlap"] = policy
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    settings = [f"models.tuned.adapter.recipe={path}", "tasks=[clinic_text, clinic_letters]"]
    suite = load_suite("quickstart", [*settings, "latency=null"])
    return make_plan(suite, models=None, tasks=None, device="cpu", command="test")


def checked(made: Plan, run: RunFolder) -> list[dict[str, Any]]:
    found = overlap.checks(made, silent)
    run.write_json(overlap.FILE, {"format": overlap.FORMAT, "checks": found})
    return found


def test_rows_that_are_test_questions_are_refused_by_default(tmp_path: Path, rows: Path) -> None:
    with pytest.raises(InputError, match=r"2 rows of .*rows\.jsonl overlap the tests") as refused:
        overlap.checks(plan(tmp_path, rows, None), silent)
    message = str(refused.value)
    assert "row 2 is question 3 of clinic_text (exact, 1.00)" in message
    assert "row 7 is question 40 of clinic_text (normalised, 1.00)" in message
    assert "Set data.overlap: drop" in message


def test_dropped_rows_make_room_for_others(tmp_path: Path, rows: Path) -> None:
    made, run = plan(tmp_path, rows, "drop", take=8), RunFolder(tmp_path / "R")
    (check,) = checked(made, run)
    assert check["eval_tasks"] == ["clinic_text", "clinic_letters"]
    assert check["train_rows"] == [2, 7]
    out = overlap.dropped(run, "tuned")
    assert out == {2, 7}
    left = examples(made.recipes["tuned"], 0, dropped=out)
    assert [one.row for one in left] == [0, 1, 3, 4, 5, 6, 8, 9]


def test_reported_rows_are_tuned_on(tmp_path: Path, rows: Path) -> None:
    run = RunFolder(tmp_path / "R")
    (check,) = checked(plan(tmp_path, rows, "report"), run)
    assert check["train_rows"] == [2, 7]
    assert overlap.dropped(run, "tuned") == frozenset()


def test_only_rows_that_are_tuned_on_are_refused(tmp_path: Path, rows: Path) -> None:
    (check,) = overlap.checks(plan(tmp_path, rows, "refuse", take=2), silent)
    assert check["pairs"] == []
    assert check["statement"].startswith("No overlap found")


def test_the_quickstart_is_checked_and_not_stopped() -> None:
    made = make_plan(
        load_suite("quickstart"), models=None, tasks=None, device="cpu", command="test"
    )
    tuning, other, tests = overlap.checks(made, silent)
    assert (tuning["policy"], other["policy"]) == ("report", "report")
    assert tests["model"] is None
    assert tests["train_tasks"] == ["clinic_open", "clinic_response"]


def test_rows_that_resemble_a_held_out_question_are_no_tuning_rows(tmp_path: Path) -> None:
    from medbench.tasks.splits import is_held_out

    stems = [
        f"A {20 + n}-year-old {work} from {town} reports {sign} of the left forearm for {n} weeks."
        for n, (work, town, sign) in enumerate(
            (work, town, sign)
            for work in ("cooper", "falconer", "glazier", "saddler")
            for town in ("Arvika", "Belmonte", "Cork", "Delft", "Evora")
            for sign in ("tingling", "warmth", "stiffness")
        )
    ]
    held = next(stem for stem in stems if is_held_out(stem))
    apart = next(text for text in OWN if not is_held_out(text))
    near = next(
        text
        for word in ("Today", "Lately", "Indeed", "Yesterday")
        if not is_held_out(text := f"{word}: {held}")
    )
    rows = [{"Question": text, "Complex_CoT": "c", "Response": "r"} for text in (held, near, apart)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), "utf-8")
    raw = yaml.safe_load((RECIPES / "medical-o1-qlora.yaml").read_text("utf-8"))
    raw["data"] |= {"source": str(path)}
    recipe = Recipe.model_validate(raw)
    assert compared(recipe, 0) == ([2], [apart])
    assert [one.row for one in examples(recipe, 0)] == [2]


def test_the_report_compares_with_and_without_the_suspected_questions(
    tmp_path: Path, rows: Path
) -> None:
    made, run = plan(tmp_path, rows, "report"), RunFolder(tmp_path / "R")
    checked(made, run)
    run.write_json("manifest.json", {"suite": made.suite.model_dump()})
    docs = choice_docs("test")[:60]
    tables = []
    for model in ("base", "tuned"):
        for task in ("clinic_text", "clinic_letters"):
            tables.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "task": task,
                        "doc_id": range(60),
                        "cluster": [f"c{n}" for n in range(60)],
                        "order": 0,
                        "doc_hash": [f"d{n}" for n in range(60)],
                        "prompt_hash": "p",
                        "target_hash": "t",
                        "protocol": "x",
                        "metric": "acc",
                        "weight": 1.0,
                        "question": [doc["question"] for doc in docs],
                        "options": [["a", "b"]] * 60,
                        "target": "a",
                        "subject": None,
                        "prediction": None,
                        "output": None,
                        # The tuned model is right where the tuning rows were the test.
                        "score": [
                            float(model == "tuned" and doc["question"] in LEAKED) for doc in docs
                        ],
                    }
                )
            )
    run.write_table("samples.parquet", pd.concat(tables, ignore_index=True))
    (check,) = read_overlap(run)
    assert check.title == "Tuning rows of tuned against clinic_text, clinic_letters"
    assert {pair.measure for pair in check.pairs} >= {"exact", "normalised"}
    assert "were tuned on" in check.policy
    first = check.effects[0]
    assert first.task == "clinic_text"
    assert 2 <= first.flagged <= 4
    assert first.whole.startswith("+3.3 points")
    assert first.without.startswith("0.0 points")


def test_hostile_questions_stay_text_in_every_report(tmp_path: Path, rows: Path) -> None:
    made, run = plan(tmp_path, rows, "report"), RunFolder(tmp_path / "R")
    (check,) = checked(made, run)
    for pair in check["pairs"]:
        pair["train_text"] = "<script>x</script> | **b** [red]r[/] \x1b[31m"
    run.write_json(overlap.FILE, {"format": overlap.FORMAT, "checks": [check]})
    manifest = {"format": FORMAT, "suite": made.suite.model_dump(), "stages": {}, "status": "done"}
    run.write_json("manifest.json", manifest)
    write_reports(run)
    page, text = (run / "report.html").read_text("utf-8"), (run / "report.md").read_text("utf-8")
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "<script>x" not in page + text
    assert "\x1b" not in page + text
    assert "\\*\\*b\\*\\*" in text
