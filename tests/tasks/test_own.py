"""A file of your own becomes a task: every shape of options and answers, and nothing guessed."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from medbench.errors import InputError
from medbench.tasks import catalog
from medbench.tasks.own import QuestionFile

WIDE = {"stem": "Which?", "a": "w", "b": "x", "c": "y", "label": "B"}
COLUMNS = {"question": "stem", "options": ["a", "b", "c"], "answer": "label"}


def file_of(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> QuestionFile:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return QuestionFile.model_validate({"file": str(path), **COLUMNS, **settings})


@pytest.mark.parametrize(
    ("kind", "label"),
    [("letter", "B"), ("letter", " b "), ("index", 1), ("index", "1"), ("index1", 2),
     ("index1", "2.0"), ("text", "x")],
)  # fmt: skip
def test_four_kinds_of_answers(tmp_path: Path, kind: str, label: Any) -> None:
    file = file_of(tmp_path, [WIDE | {"label": label}], answer_kind=kind)
    (question,) = file.questions()
    assert (question["options"], question["gold"]) == (["w", "x", "y"], 1)


@pytest.mark.parametrize(
    "choices",
    [
        ["w", "x", "y"],
        {"A": "w", "B": "x", "C": "y"},
        '["w", "x", "y"]',
        '{"A":"w","B":"x","C":"y"}',
    ],
)
def test_options_in_one_column(tmp_path: Path, choices: Any) -> None:
    row = {"stem": "q", "choices": choices, "label": "C"}
    file = file_of(tmp_path, [row], options="choices", answer_kind="letter")
    assert file.questions()[0]["options"] == ["w", "x", "y"]
    assert file.questions()[0]["gold"] == 2


def test_csv_and_parquet_read_like_jsonl(tmp_path: Path) -> None:
    file = file_of(tmp_path, [WIDE, WIDE | {"stem": "Who?", "c": None}], answer_kind="letter")
    table = pd.DataFrame([WIDE, WIDE | {"stem": "Who?", "c": None}])
    table.to_csv(tmp_path / "mine.csv", index=False)
    table.to_parquet(tmp_path / "mine.parquet")
    expected = file.questions()
    assert [len(question["options"]) for question in expected] == [3, 2]
    for name in ("mine.csv", "mine.parquet"):
        other = file.model_copy(update={"file": str(tmp_path / name)})
        assert other.questions() == expected, name


@pytest.mark.parametrize(
    ("kind", "label"),
    [("letter", "CA"), ("letter", "A, C"), ("letter", ["C", "A"]), ("letter", '["A", "C"]'),
     ("index", "2;0"), ("index", [0, 2]), ("index1", "1, 3"), ("text", ["y", "w"])],
)  # fmt: skip
def test_several_right_options(tmp_path: Path, kind: str, label: Any) -> None:
    file = file_of(tmp_path, [WIDE | {"label": label}], answer_kind=kind, several=True)
    assert file.questions()[0]["golds"] == [0, 2]


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"label": "D"}, {"answer_kind": "letter"}, "right answer: expected one of 3 options"),
        ({"label": "AB"}, {"answer_kind": "letter"}, "expected one letter, found 'AB'"),
        ({"label": 3}, {"answer_kind": "index"}, "does the column count from 1?"),
        ({"label": 0}, {"answer_kind": "index1"}, "declared to count from 1"),
        ({"label": "v"}, {"answer_kind": "text"}, "the text of no option"),
        ({"label": "x"}, {"answer_kind": "index"}, "expected an index"),
        ({"label": "AA"}, {"answer_kind": "letter", "several": True}, "right options that differ"),
        ({"label": ""}, {"answer_kind": "letter", "several": True}, "at least one right option"),
        ({"b": "w"}, {"answer_kind": "letter"}, "duplicated option"),
        ({"stem": ""}, {"answer_kind": "letter"}, "empty question"),
        ({}, {"answer_kind": "letter", "question": "text"}, "no column 'text'"),
        ({"a": "{"}, {"answer_kind": "letter", "options": "a"}, "a: not valid JSON"),
        ({"b": None}, {"answer_kind": "letter"}, "expected a list of texts"),
    ],
)
def test_errors_name_file_and_row(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    good = WIDE | {
        "label": {"index": 1, "index1": 1, "text": "w"}.get(settings["answer_kind"], "A")
    }
    if settings.get("options") == "a":
        good = good | {"a": '["w", "x"]'}
    if settings.get("question") == "text":
        good = good | {"text": "q"}
    file = file_of(tmp_path, [good, WIDE | change], **settings)
    with pytest.raises(InputError, match=r"mine\.jsonl, row 1: ") as caught:
        file.questions()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"file": "mine.xlsx"}, {"shots": "./mine.jsonl"}, {"several": True, "shots": "other.jsonl"},
     {"protocols": []}, {"protocols": ["cot", "cot"]}, {"answer_kind": "guess"}, {"colour": "red"}],
)  # fmt: skip
def test_a_mapping_that_cannot_be_meant(settings: dict[str, Any]) -> None:
    given = {"file": "mine.jsonl", **COLUMNS, "answer_kind": "letter", **settings}
    with pytest.raises(ValidationError):
        QuestionFile.model_validate(given)


def test_ten_options_in_three_protocols_through_plain_lm_eval(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    row = {"stem": "Which?", "choices": [f"option {n}" for n in range(10)], "label": "J"}
    file = file_of(
        tmp_path,
        [row],
        options="choices",
        answer_kind="letter",
        protocols=["letters", "text", "cot"],
    )
    letters, text, cot = catalog.own_tasks("ten", file)
    assert [task.name for task in (letters, text, cot)] == ["ten_letters", "ten_text", "ten_cot"]
    assert letters.chance == pytest.approx(0.1)
    assert cot.generates
    prompts = []
    for task in (letters, text, cot):
        with catalog.include_paths(task) as folders:
            manager = TaskManager(include_path=folders, include_defaults=False)
            loaded = manager.load([task.name])["tasks"][task.name]
        doc = loaded.eval_docs[0]
        prompts.append(loaded.doc_to_text(doc))
        if not task.generates:
            assert len(loaded.doc_to_choice(doc)) == 10
            assert loaded.doc_to_target(doc) == 9
    assert prompts[0].endswith("J. option 9\nAnswer:")
    assert "option" not in prompts[1]
    assert "The answer is X" in prompts[2]


def test_a_suite_names_it_like_any_task(tmp_path: Path) -> None:
    file = file_of(tmp_path, [WIDE], answer_kind="letter", protocols=["letters", "cot"])
    found = catalog.expand(["medqa", "mine", "multimedqa_letters"], {"mine": file})
    names = [task.name for task in found]
    assert names[:3] == ["medqa", "mine_letters", "mine_cot"]
    assert len(names) == len(set(names)) == 11
    assert [task.name for task in catalog.expand(["mine_cot"], {"mine": file})] == ["mine_cot"]
    with pytest.raises(InputError, match="take another"):
        catalog.expand(["medqa"], {"medqa": file})


def test_own_questions_are_scored_by_every_protocol(tmp_path: Path, clinic: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medbench.harness.evaluate import Asking, score
    from medbench.harness.scorer.lm import PackedLM
    from medbench.harness.statistics.calibration import calibration
    from medbench.tasks.templates import Prompt

    rows = [WIDE | {"label": "AC", "topic": "one"}, WIDE | {"stem": "Who?", "topic": "two"}]
    protocols = ["letters", "text", "cot"]
    file = file_of(
        tmp_path, rows, answer_kind="letter", several=True, subject="topic", protocols=protocols
    )
    lm = PackedLM(
        pretrained=AutoModelForCausalLM.from_pretrained(clinic),
        tokenizer=AutoTokenizer.from_pretrained(clinic),
    )
    asking = Asking(prompt=Prompt(max_tokens=8))
    tables = {task.name: score("base", lm, task, asking) for task in catalog.own_tasks("own", file)}
    for name, table in tables.items():
        assert table["subject"].tolist() == ["one", "two"], name
        assert table["target"].tolist() == ["w; y", "x"], name
    for name in ("own_letters", "own_text"):
        table = tables[name]
        pairs = zip(table["prediction"], table["target"], strict=True)
        right = [float(prediction in target.split("; ")) for prediction, target in pairs]
        assert table["score"].tolist() == right
        assert calibration(table) is None
    assert tables["own_cot"]["output_tokens"].max() <= 8


def test_a_plan_asks_them_and_can_be_narrowed(tmp_path: Path) -> None:
    from medbench.harness.planning.plan import make_plan
    from medbench.harness.suite import Suite

    file = file_of(tmp_path, [WIDE], answer_kind="letter", protocols=["letters", "cot"])
    suite = Suite.model_validate(
        {
            "name": "s",
            "models": {"base": {"pretrained": "embedded:clinic"}},
            "tasks": ["clinic_text", "mine"],
            "question_files": {"mine": file.model_dump()},
            "prompt": {"max_tokens": 9},
        }
    )

    def names(tasks: str | None) -> list[str]:
        plan = make_plan(suite, models=None, tasks=tasks, device="cpu", command="")
        return [task.name for task in plan.tasks]

    assert names(None) == ["clinic_text", "mine_letters", "mine_cot"]
    assert names("mine") == ["mine_letters", "mine_cot"]
    assert names("mine_cot,clinic_text") == ["mine_cot", "clinic_text"]
    plan = make_plan(suite, models=None, tasks="mine_cot", device="cpu", command="")
    assert "≤ 9 tokens" in plan.tasks[0].protocol
