"""What a report says of overlap: pairs to read, what is not shown, and what it did to scores."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, print_summary, write_reports
from medbench.reports.sections.overlap import SHOWN, read_overlap
from medbench.tasks.overlap import as_json, find

MakeRun = Callable[..., RunFolder]


def checked(run: RunFolder, flagged: int, **changes: Any) -> RunFolder:
    """*run* with a check of tuning rows that are the first so many questions of made_up_open."""
    table = run.samples()
    asked = table[(table["task"] == "made_up_open") & (table["model"] == "base")]["question"]
    tests = [f"{text} Case {n}." for n, text in enumerate(asked)]
    rows = tests[:flagged] or ["Why do divers breathe helium below sixty metres?"]
    found = find(rows, tests)
    check = {
        "model": "tuned", "policy": "report", "train_tasks": [], "eval_tasks": ["made_up_open"],
        "n_pairs": len(found.pairs),
        "eval_questions": [asked.iloc[row] for row in range(flagged)],
    } | as_json(found, rows, tests)  # fmt: skip
    run.write_json("overlap.json", {"format": 1, "checks": [check | changes]})
    return run


def texts(run: RunFolder) -> dict[str, str]:
    write_reports(run)
    out = io.StringIO()
    print_summary(Report.read(run), Console(file=out, width=200))
    pages = {name: (run / name).read_text("utf-8") for name in ("report.html", "report.md")}
    return pages | {"terminal": out.getvalue()}


def test_pairs_are_shown_to_be_read_and_the_rest_is_counted(make_run: MakeRun) -> None:
    run = checked(make_run(), 30)
    (check,) = read_overlap(run)
    assert len(check.pairs) == SHOWN
    assert check.more >= 30 - SHOWN
    found = texts(run)
    assert f"{check.more} more pairs in overlap.json" in found["report.html"].replace("\u00a0", " ")
    for name in ("report.html", "report.md"):
        assert check.pairs[0].train_text[:40] in found[name]
        assert "The rows were tuned on" in found[name]
    assert "Tuning rows of tuned against made_up_open" in found["terminal"]


def test_the_difference_is_shown_with_and_without_the_suspected_questions(
    make_run: MakeRun,
) -> None:
    run = checked(make_run(), 30)
    (effect,) = read_overlap(run)[0].effects
    (whole,) = [one for one in Report.read(run).comparisons if one.task == "made_up_open"]
    assert effect.whole.startswith(f"{whole.shown} points")
    assert effect.flagged >= 30
    assert effect.without != effect.whole
    for name in ("report.html", "report.md"):
        assert effect.without in texts(run)[name].replace("\\", "")


def test_nothing_found_is_said_with_what_may_be_missed(make_run: MakeRun) -> None:
    run = checked(make_run(), 0)
    found = texts(run)
    for name in ("report.html", "report.md"):
        assert "No overlap found" in found[name]
        assert "recall" in found[name]
        assert "clean" not in found[name].lower().partition("overlap")[2][:2000]
    assert "Overlap" not in found["terminal"], "there is nothing to read"


def test_rows_that_were_dropped_are_counted(make_run: MakeRun) -> None:
    run = checked(make_run(), 4, policy="drop", train_rows=[1, 5, 7])
    assert "3 such rows left out of tuning" in read_overlap(run)[0].policy.replace("\u00a0", " ")


def test_a_run_without_a_check_has_no_section(make_run: MakeRun) -> None:
    run = make_run()
    assert read_overlap(run) == ()
    assert 'id="overlap"' not in texts(run)["report.html"]


@pytest.mark.parametrize(
    ("name", "escaped"),
    [("report.html", "&lt;script&gt;document"), ("report.md", r"\<script\>document")],
)
def test_hostile_rows_stay_text(
    make_run: MakeRun, hostile_text: str, name: str, escaped: str
) -> None:
    run = checked(make_run(), 4)
    found = json.loads((run / "overlap.json").read_text("utf-8"))
    (check,) = found["checks"]
    check["statement"] = hostile_text
    for pair in check["pairs"]:
        pair |= {"train_text": hostile_text, "eval_text": hostile_text, "measure": hostile_text}
    run.write_json("overlap.json", found)
    text = texts(run)[name]
    assert text.count(escaped) > 2 * len(check["pairs"])
    assert "<script>document" not in text
    assert "\x1b" not in text
