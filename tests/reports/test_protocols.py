"""The same questions by several protocols, side by side: which tasks belong together, and by how
much a score moves.
"""

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.harness.results import task_score
from medbench.reports import Report, print_summary, write_reports
from medbench.reports.sections.protocols import protocols
from medbench.reports.sections.scores import Task, read_tasks

MakeRun = Callable[..., RunFolder]
LETTERS, TEXT, COT = "letters, 0-shot", "option text, 0-shot", "chain of thought, 0-shot"


def rows(task: str, right: list[int], model: str = "base", **columns: Any) -> pd.DataFrame:
    """Samples of *model*; question n is the same question whatever the task."""
    n = range(len(right))
    return pd.DataFrame({
        "task": task, "model": model, "score": [float(one) for one in right],
        "question": [f"Question {i}?" for i in n], "target": [f"Answer {i}" for i in n],
        "cluster": [f"{task} {i}" for i in n], "weight": 1.0, "metric": "acc", "order": 0,
        "unparsed": False, "truncated": False, "option_scores": [[]] * len(right),
        "confidence": float("nan"), "prediction": None, "options": [[]] * len(right),
    } | columns)  # fmt: skip


def read(samples: pd.DataFrame, labels: dict[str, str], source: str = "quiz") -> tuple[Task, ...]:
    tables: dict[str, Any] = {
        name: {
            "protocol": label, "metric": "acc", "source": source, "chance": 0.25,
            "scores": {
                str(model): task_score(table)
                for model, table in samples[samples["task"] == name].groupby("model", sort=False)
            },
        }
        for name, label in labels.items()
    }  # fmt: skip
    return read_tasks({"tasks": tables})


def test_differences_are_to_the_first_way_of_asking_and_paired() -> None:
    letters, text, cot = [1, 0, 0, 0] * 5, [1, 1, 0, 0] * 5, [1, 1, 1, 0] * 5
    samples = pd.concat([rows("q_letters", letters), rows("q_text", text), rows("q_cot", cot)])
    (found,) = protocols(
        samples, read(samples, {"q_letters": LETTERS, "q_text": TEXT, "q_cot": COT})
    )
    assert [column.protocol for column in found.columns] == [LETTERS, TEXT, COT]
    ((model, cells),) = found.rows
    assert model == "base"
    assert [cell.shown.replace("\u00a0", " ") for cell in cells] == ["25.0 %", "50.0 %", "75.0 %"]
    assert [cell.difference for cell in cells] == ["", "+25.0", "+50.0"]
    low, high = (float(end) for end in cells[1].difference_interval.split(" to "))
    assert 0 < low < 25 < high


def test_tasks_of_one_source_that_ask_other_questions_stand_apart() -> None:
    other = rows("q_open", [1, 0] * 5).assign(question=[f"Another {n}?" for n in range(10)])
    samples = pd.concat([rows("q_letters", [1, 0] * 5), other])
    assert protocols(samples, read(samples, {"q_letters": LETTERS, "q_open": COT})) == ()


def test_one_question_with_another_answer_is_another_question() -> None:
    samples = pd.concat([rows("a", [1] * 8), rows("b", [0] * 8, target="C")])
    assert protocols(samples, read(samples, {"a": LETTERS, "b": TEXT})) == ()


def test_two_tasks_of_one_protocol_show_no_effect_of_it() -> None:
    samples = pd.concat([rows("a", [1, 0] * 4), rows("b", [1, 1] * 4)])
    assert protocols(samples, read(samples, {"a": LETTERS, "b": LETTERS})) == ()
    assert len(protocols(samples, read(samples, {"a": LETTERS, "b": TEXT}))) == 1


def test_without_a_source_nothing_is_known_to_be_the_same() -> None:
    samples = pd.concat([rows("a", [1, 0] * 4), rows("b", [1, 1] * 4)])
    assert protocols(samples, read(samples, {"a": LETTERS, "b": TEXT}, source="")) == ()


def test_a_model_that_was_asked_in_one_way_only_has_no_difference() -> None:
    samples = pd.concat(
        [rows("a", [1, 0] * 4), rows("b", [1, 1] * 4), rows("b", [0, 1] * 4, model="chat")]
    )
    (found,) = protocols(samples, read(samples, {"a": LETTERS, "b": TEXT}))
    (_, (first, second)) = found.rows[1]
    assert found.rows[1][0] == "chat"
    assert (first.shown, second.difference) == ("", "")
    assert second.shown.startswith("50.0")


def test_a_question_in_four_orders_counts_with_its_mean() -> None:
    orders = [rows("a", [int(n < 2)] * 6, order=n) for n in range(4)]
    samples = pd.concat([*orders, rows("b", [1] * 6)])
    (found,) = protocols(samples, read(samples, {"a": LETTERS, "b": TEXT}))
    assert found.rows[0][1][1].difference == "+50.0"


def test_every_format_shows_them(whole_run: RunFolder) -> None:
    (found,) = Report.read(whole_run).protocols
    write_reports(whole_run)
    out = io.StringIO()
    print_summary(Report.read(whole_run), Console(file=out, width=200))
    for text in (
        (whole_run / "report.html").read_text("utf-8"),
        (whole_run / "report.md").read_text("utf-8"),
        out.getvalue(),
    ):
        for _, cells in found.rows:
            for cell in cells:
                assert cell.shown in text
                assert cell.difference in text
    assert "Protocols, the same questions asked in another way" in out.getvalue()


def test_nothing_is_said_where_each_question_was_asked_once(make_run: MakeRun) -> None:
    run = make_run()
    run.write_table("samples.parquet", run.samples().query("task != 'made_up_letters'"))
    assert Report.read(run).protocols == ()
    write_reports(run)
    assert "another way of asking" not in (run / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "escaped"), [("report.html", "&lt;script&gt;"), ("report.md", r"\<script\>")]
)
def test_data_sets_and_protocols_stay_text(
    make_run: MakeRun, hostile_text: str, name: str, escaped: str
) -> None:
    run = make_run()
    results = run.results()
    for number, one in enumerate(results["tasks"].values()):
        one |= {"source": hostile_text, "protocol": f"{hostile_text} {number}"}
    run.write_json("results.json", results)
    write_reports(run)
    section = (run / name).read_text("utf-8").partition("another way of asking")[2][:9000]
    assert section.count(escaped) >= 3, "the data set and two protocols"
    assert section.replace(escaped, "").count("<script") == 0
