"""What of questions and answers leaves: nothing by accident."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, write_reports
from medbench.reports.questions import packed
from medbench.reports.redaction import PUBLIC, Sharing, is_open, redact, rules_for, sharing

from .test_questions import unpacked

SECRET = re.compile(r"(mor|tel|vix|dan|quo|fer|lup|zan|hel|bri){2}(ine|itis)|first-line", re.I)
"""Stands in every question, option and answer of the made-up run."""


@pytest.fixture
def run(whole_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may change."""
    shutil.copytree(whole_run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def everything(run: RunFolder, how: Sharing) -> str:
    """All that is written of a run, with the questions unpacked."""
    report = Report.read(run, how)
    texts = [path.read_text("utf-8") for path in write_reports(run, report)]
    if report.questions:
        texts.append(json.dumps(unpacked(packed(report.questions).parts), ensure_ascii=False))
    return "\n".join(texts)


def licensed(run: RunFolder, licence: str, *tasks: str) -> None:
    results = run.results()
    for task in tasks or results["tasks"]:
        results["tasks"][task]["licence"] = licence
    run.write_json("results.json", results)


@pytest.mark.parametrize(
    "licence",
    ["Apache-2.0", "MIT", "MIT (jind11/MedQA)", "CC-BY-4.0", "CC-BY-SA 3.0", "CC0-1.0", "BSD-3"],
)
def test_open_licences(licence: str) -> None:
    assert is_open(licence)


@pytest.mark.parametrize(
    "licence",
    ["", "not stated", "not known", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "proprietary", "mitigated",
     "PhysioNet Credentialed Health Data License", "MIT, gated", "Apache-2.0, non-commercial use",
     "CC-BY-4.0 (data use agreement)", "mit-like, on request", "UMLS"],
)  # fmt: skip
def test_licences_that_let_nothing_out(licence: str) -> None:
    assert not is_open(licence)


def test_a_local_report_shows_everything_whatever_the_licence(run: RunFolder) -> None:
    licensed(run, "not stated")
    assert len(SECRET.findall(everything(run, Sharing()))) > 1000


@pytest.mark.parametrize("level", ["none", "hashes"])
def test_no_text_leaves_at_none_and_hashes(run: RunFolder, level: Any) -> None:
    found = everything(run, sharing(level, published=True))
    assert SECRET.findall(found) == []
    key = str(run.samples()["doc_hash"].iloc[0])[:16]
    assert (key in found) == (level == "hashes")


def test_hashes_keep_who_was_right(whole_run: RunFolder) -> None:
    rows = Report.read(whole_run, PUBLIC).questions
    whole = Report.read(whole_run).questions
    assert rows is not None
    assert whole is not None

    def marks(rows: Any) -> list[Any]:
        found = [(row[0], row[1], [one[0] for one in row[6]]) for row in rows]
        return sorted(found)

    assert marks(rows.rows) == marks(whole.rows)
    assert not rows.readable


def test_flips_show_only_questions_that_changed(whole_run: RunFolder) -> None:
    rows = Report.read(whole_run, Sharing("flips", published=True)).questions
    assert rows is not None
    shown = [row for row in rows.rows if row[3] is not None]
    assert shown
    assert all({one[0] for one in row[6]} == {0, 1} for row in shown)
    hidden = [row for row in rows.rows if row[3] is None]
    assert all(len({one[0] for one in row[6]}) == 1 for row in hidden)
    assert not SECRET.search(json.dumps(hidden))


def test_a_licence_that_is_not_known_closes_its_task_alone(run: RunFolder) -> None:
    licensed(run, "not stated", "made_up_open")
    report = Report.read(run, Sharing("all", published=True))
    assert report.questions is not None
    place = report.questions.tasks.index("made_up_open")
    rows = report.questions.rows
    assert all((row[3] is None) == (row[0] == place) for row in rows)
    [note] = report.left_out
    assert note.startswith("made_up_open: hashes only, since its licence (not stated)")
    for file in write_reports(run, report):
        if file.suffix in (".html", ".md", ".json"):
            assert "made_up_open: hashes only" in re.sub(r"\\", "", file.read_text("utf-8"))


def test_a_task_can_be_let_out_by_name(run: RunFolder) -> None:
    licensed(run, "not stated")
    report = Report.read(run, sharing("all", "made_up_open, made_up_text", published=True))
    assert report.questions is not None
    shown = {report.questions.tasks[row[0]] for row in report.questions.rows if row[3]}
    assert shown == {"made_up_open", "made_up_text"}


@pytest.mark.parametrize(
    ("source", "known"),
    [("clinic", True), ("medical_o1_en", True), ("notes.jsonl", False), ("hub:me/notes", False),
     ("/data/patients.csv", False)],
)  # fmt: skip
def test_a_model_tuned_on_unknown_rows_does_not_speak(
    run: RunFolder, source: str, known: bool
) -> None:
    run.write_text("adapters/tuned/recipe.yaml", f"data:\n  source: {source}\n")
    table = redact(run.samples(), rules_for(run, Sharing("all", published=True)))
    said = table[table["task"] == "made_up_open"].groupby("model")["output"].apply(
        lambda column: column.notna().any()
    )  # fmt: skip
    assert said.to_dict() == {"base": True, "tuned": known}
    exported = run.manifest()["models"] + ["tuned@onnx-int4"]
    run.write_json("manifest.json", run.manifest() | {"models": exported})
    closed = rules_for(run, PUBLIC).closed_models
    assert list(closed) == ([] if known else ["tuned", "tuned@onnx-int4"])
    chosen = table[(table["model"] == "tuned") & (table["task"] == "made_up_text")]
    assert chosen["prediction"].notna().all(), "an option is the test's word, not the model's"


def test_the_table_of_the_run_is_not_changed(whole_run: RunFolder) -> None:
    before = whole_run.samples()
    table = before.copy(deep=True)
    redact(table, rules_for(whole_run, PUBLIC))
    pd.testing.assert_frame_equal(table, before)


def test_pairs_of_overlap_lose_their_texts(run: RunFolder) -> None:
    pair = {
        "measure": "equal", "score": 1.0, "train": 3, "eval": 7,
        "train_text": "A patient with secretitis", "eval_text": "Patient with secretitis",
    }  # fmt: skip
    check = {
        "model": "tuned", "eval_tasks": ["made_up_text"], "train_tasks": [], "eval_rows": [],
        "eval_questions": [], "train_rows": [3], "statement": "One row is a test question.",
        "policy": "report", "pairs": [pair], "n_pairs": 1,
    }  # fmt: skip
    run.write_json("overlap.json", {"checks": [check]})
    assert "secretitis" in everything(run, Sharing())
    found = everything(run, PUBLIC)
    assert "secretitis" not in found
    assert "One row is a test question." in found


def test_an_export_is_compared_with_its_model(run: RunFolder) -> None:
    table = run.samples()
    mine = table[table["model"] == "tuned"].assign(model="tuned@onnx-int4")
    lost = (mine["task"] == "made_up_text") & (mine["doc_id"] < 9)
    mine.loc[lost, "score"] = 1 - mine.loc[lost, "score"]
    run.write_table("samples.parquet", pd.concat([table, mine], ignore_index=True))
    run.write_json(
        "manifest.json", run.manifest() | {"models": ["base", "tuned", "tuned@onnx-int4"]}
    )
    questions = Report.read(run).questions
    assert questions is not None
    assert questions.couples == ((0, 1), (1, 2))
    changed = [row for row in questions.rows if row[6][1][0] != row[6][2][0]]
    assert len(changed) == 9


def test_less_than_all_is_meant_for_others() -> None:
    assert sharing("all") == Sharing()
    assert sharing("flips").published
    assert sharing("all", published=True).published


def test_no_couple_no_flip(run: RunFolder) -> None:
    run.write_json("results.json", run.results() | {"comparisons": []})
    table = redact(run.samples(), rules_for(run, Sharing("flips", published=True)))
    assert table["question"].isna().all()
