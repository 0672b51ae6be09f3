"""Scores by subject: every question once, small subjects together, differences paired."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, print_summary, write_reports
from medbench.reports.formatting import scale_of
from medbench.reports.sections.scores import Score, Task
from medbench.reports.sections.subjects import LEAST, LONGEST, MOST, Breakdown, breakdowns
from medbench.reports.verdicts import Comparison

MakeRun = Callable[..., RunFolder]


def table(subjects: Sequence[str | None], scores: list[float], model: str = "base") -> pd.DataFrame:
    n = range(len(subjects))
    return pd.DataFrame({
        "task": "quiz", "model": model, "subject": list(subjects), "score": scores, "weight": 1.0,
        "metric": "acc", "cluster": [str(i) for i in n], "order": 0, "doc_id": list(n),
        "doc_hash": [f"d{i}" for i in n], "prompt_hash": "p", "target_hash": "t",
        "protocol": "letters", "question": [f"Question {i}?" for i in n], "target": "A",
        "options": [["A", "B"]] * len(subjects), "prediction": None, "output": None,
        "unparsed": False, "truncated": False,
    })  # fmt: skip


def task(*models: str) -> Task:
    """The task quiz, the second model tuned from the first."""
    raw: dict[str, Any] = {
        "task": "quiz", "metric": "acc", "base": "base", "tuned": "tuned", "n": 1, "a": 0, "b": 0,
        "difference": 0.0, "low": 0.0, "high": 0.0, "stderr": 0.0, "p": 1.0, "p_holm": 1.0,
        "test": "exact McNemar", "discordant": [0, 0], "smallest_detectable": 0.1,
    }  # fmt: skip
    scores = [
        Score(
            model=model, value=0.5, low=0.4, high=0.6, n=100, unparsed=0.0, truncated=0.0,
            scale=scale_of("acc"), calibration=None, orders=None,
            comparison=Comparison.read(raw, True) if model == "tuned" else None,
        )
        for model in models
    ]  # fmt: skip
    return Task("quiz", "letters", "acc", True, 0.25, "made up", "none", tuple(scores))


def one(samples: pd.DataFrame, *models: str) -> Breakdown:
    (found,) = breakdowns(samples, [task(*(models or ("base",)))])
    return found


def test_each_subject_has_its_own_mean_and_the_largest_stands_first() -> None:
    found = one(table(["Skin"] * 20 + ["Heart"] * 40, [1.0] * 5 + [0.0] * 15 + [1.0] * 40))
    assert [(line.subject, line.n) for line in found.lines] == [("Heart", 40), ("Skin", 20)]
    assert [line.scores[0].shown.replace("\u00a0", " ") for line in found.lines] == [
        "100.0 %", "25.0 %",
    ]  # fmt: skip
    assert found.looks.replace("\u00a0", " ") == "2 subjects"


def test_differences_are_paired_within_a_subject() -> None:
    subjects = ["Heart"] * 30 + ["Skin"] * 20
    base, tuned = [0.0] * 50, [1.0] * 15 + [0.0] * 35
    samples = pd.concat([table(subjects, base), table(subjects, tuned, "tuned")])
    found = one(samples, "base", "tuned")
    assert found.couples == (("base", "tuned"),)
    assert [line.differences[0].shown for line in found.lines] == ["+50.0", "0.0"]


def test_small_subjects_and_questions_without_one_are_put_together_last() -> None:
    small: list[str | None] = [*["Teeth"] * (LEAST - 1), "Feet", None, "  ", None]
    subjects: list[str | None] = [*["Heart"] * LEAST, *["Skin"] * LEAST, *small]
    *named, others = one(table(subjects, [0.0] * len(subjects))).lines
    assert [line.subject for line in named] == ["Heart", "Skin"]
    assert others.subject.replace("\u00a0", " ") == "others (2 subjects, none stated)"
    assert others.n == len(small)


def test_no_question_is_lost_however_many_subjects_there_are() -> None:
    subjects: list[str | None] = [f"Subject {n}" for n in range(MOST + 6) for _ in range(LEAST)]
    found = one(table(subjects, [1.0] * len(subjects)))
    assert len(found.lines) == MOST + 1
    assert sum(line.n for line in found.lines) == len(subjects)


def test_option_orders_of_a_question_count_as_one() -> None:
    first = table(["Heart"] * 30 + ["Skin"] * 30, [1.0] * 60)
    found = one(pd.concat([first, first.assign(order=1, score=0.0)]))
    assert [line.n for line in found.lines] == [30, 30]
    assert found.lines[0].scores[0].shown.startswith("50.0")


@pytest.mark.parametrize("subjects", [["Heart"] * 60, [None] * 60, ["Heart", "Skin"] * 5])
def test_there_is_no_breakdown_of_one_line(subjects: Sequence[str | None]) -> None:
    assert breakdowns(table(subjects, [1.0] * len(subjects)), [task("base")]) == ()


def test_names_are_shown_short_and_without_unseen_characters() -> None:
    name = "college_medicine \x1b[31m" + "word " * 40
    found = one(table([name] * 30 + ["Skin"] * 20, [1.0] * 50))
    shown = found.lines[0].subject
    assert shown.startswith("college medicine")
    assert "\x1b" not in shown
    assert len(shown) <= LONGEST + 2


def test_every_format_shows_them(whole_run: RunFolder) -> None:
    report = Report.read(whole_run)
    write_reports(whole_run)
    out = io.StringIO()
    print_summary(report, Console(file=out, width=200))
    pages = [(whole_run / f"report.{kind}").read_text("utf-8") for kind in ("html", "md")]
    for part in report.subjects:
        assert f"{part.task}: {part.looks}" in out.getvalue()
        for line in part.lines:
            for text in pages:
                assert line.subject in text
                for one in line.scores + line.differences:
                    assert one.shown in text
                    assert one.interval in text
    assert all("no verdicts" in text for text in pages)


def test_samples_of_an_older_run_have_no_subject(make_run: MakeRun) -> None:
    run = make_run()
    run.write_table("samples.parquet", run.samples().drop(columns="subject"))
    assert Report.read(run).subjects == ()
    write_reports(run)


@pytest.mark.parametrize(
    ("name", "start", "escaped"),
    [
        ("report.html", 'id="subjects"', "&lt;script&gt;"),
        ("report.md", "## By subject", r"\<script\>"),
    ],
)
def test_the_name_of_a_subject_stays_text(
    hostile_run: RunFolder, name: str, start: str, escaped: str
) -> None:
    write_reports(hostile_run)
    section = (hostile_run / name).read_text("utf-8").partition(start)[2]
    section = section.partition("How it was asked")[0]
    assert escaped in section
    assert section.replace(escaped, "").count("<script") == 0
