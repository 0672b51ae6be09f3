"""The model card: what the Hub's own parser reads of it, and what it never holds."""

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report
from medbench.reports.card import Subject, card, public

SUBJECT = Subject(
    model="tuned",
    repo="me/clinic",
    base="someone/base-8B",
    kind="ia3",
    recipe="name: r\ndata:\n  source: /home/jane/rows.jsonl\ncompletion: <think>x</think>\n",
    what="adapter",
)


@pytest.fixture
def report(whole_run: RunFolder) -> Report:
    return Report.read(whole_run)


def test_metadata_is_what_the_hub_reads(report: Report) -> None:
    data = ModelCard(card(report, SUBJECT)).data
    assert data.base_model == "someone/base-8B"
    assert data.library_name == "peft"
    assert data.tags == ["medbench", "medical", "ia3"]
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    scores = {
        task.name: score.value
        for task in report.tasks
        for score in task.scores
        if score.model == "tuned"
    }
    assert {task for task, _ in found} == set(scores)
    for (task, _), value in found.items():
        assert value == pytest.approx(scores[task], abs=1e-6)


def test_a_local_base_is_no_address_on_the_hub(report: Report) -> None:
    local = dataclasses.replace(SUBJECT, base="my-folder", what="merged")
    data = ModelCard(card(report, local)).data
    assert data.base_model is None
    assert data.library_name == "transformers"


def test_it_says_what_a_reader_needs(report: Report) -> None:
    text = card(report, SUBJECT)
    for part in ("## Results", "## Limits of use", "## Training", "## Reproduce", "Protocol"):
        assert part in text
    assert report.disclaimer in text
    shown = next(s for task in report.tasks for s in task.scores if s.model == "tuned")
    assert f"{shown.shown} ({shown.interval})" in text
    hashed = dict(report.trainings[0].facts)["data, sha256"]
    assert hashed in text


def test_it_holds_no_question_and_no_folder(report: Report, whole_run: RunFolder) -> None:
    report = dataclasses.replace(report, command="medbench run --data-dir /home/jane/secret/data")
    text = card(report, SUBJECT)
    assert "/home/jane" not in text
    assert "rows.jsonl" in text
    assert "&lt;/think&gt;" in text
    samples = whole_run.samples()
    for column in ("question", "output"):
        for value in samples[column].dropna():
            assert not value.strip() or len(value) < 12 or value not in text


def test_a_path_is_cut_to_its_name() -> None:
    assert public("--out /tmp/a/runs --set x=../up/y.yaml ~/z C:\\k\\l.txt") == (
        "--out runs --set x=y.yaml z l.txt"
    )
    assert public("https://host/a/b owner/name </think> 1 / 2") == (
        "https://host/a/b owner/name </think> 1 / 2"
    )


def test_no_name_becomes_markup(report: Report) -> None:
    hostile = dataclasses.replace(SUBJECT, base="<script>alert(1)</script>", recipe="</pre><b>")
    text = card(dataclasses.replace(report, suite="[x](http://y)"), hostile)
    assert "<script>" not in text
    assert "</pre><b>" not in text
    assert "[x](" not in text
    ModelCard(text)


def test_it_is_the_same_each_time(report: Report, tmp_path: Path) -> None:
    assert card(report, SUBJECT) == card(report, SUBJECT)
