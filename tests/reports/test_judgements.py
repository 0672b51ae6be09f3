"""The judge's verdicts and their agreement with exact match, in every report."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, print_summary, write_reports
from medbench.reports.sections.judgements import read_judged, who_judged

MakeRun = Callable[..., RunFolder]


def texts(run: RunFolder) -> dict[str, str]:
    """What each format shows, no-break spaces made plain."""
    write_reports(run)
    out = io.StringIO()
    print_summary(Report.read(run), Console(file=out, width=200))
    pages = {name: (run / name).read_text("utf-8") for name in ("report.html", "report.md")}
    return {
        name: text.replace("\u00a0", " ")
        for name, text in (pages | {"terminal": out.getvalue()}).items()
    }


def change(run: RunFolder, edit: Callable[[dict[str, Any]], object]) -> None:
    results = run.results()
    edit(results)
    run.write_json("results.json", results)


def test_every_format_shows_what_the_judge_found(whole_run: RunFolder) -> None:
    found = texts(whole_run)
    for one in whole_run.results()["judge"]:
        share, rate = (f"{100 * part:.1f} %" for part in (one["value"], one["agreement"]["rate"]))
        for name, text in found.items():
            assert share in text, name
            assert rate in text, name
            assert f"{one['agreement']['kappa']:.2f}" in text, name
    for name in ("report.html", "report.md"):
        assert "Judged by made-up-judge." in found[name]
        assert "changes no score" in found[name]


def test_disagreement_and_what_was_not_read_have_cells_of_their_own(whole_run: RunFolder) -> None:
    report = Report.read(whole_run)
    for one, known in zip(report.judged, whole_run.results()["judge"], strict=True):
        exact, _, _, _, judge_only, exact_only = one.cells
        score = whole_run.results()["tasks"][one.task]["scores"][one.model]["value"]
        assert exact.replace("\u00a0", " ") == f"{100 * score:.1f} %"
        assert (judge_only, exact_only) == (
            str(known["agreement"]["judge_only"]), str(known["agreement"]["exact_only"])
        )  # fmt: skip
        assert (one.unreadable, one.unanswered) == (known["unreadable"], known["unanswered"])
    assert "6 unreadable verdicts; 2 unanswered" in report.judged[0].line.replace("\u00a0", " ")
    assert "unreadable" not in report.judged[1].line


def test_without_a_judge_nothing_is_said_of_one(make_run: MakeRun) -> None:
    run = make_run()
    change(run, lambda results: results.pop("judge"))
    assert Report.read(run).judged == ()
    for name, text in texts(run).items():
        assert "udge" not in text, name


def test_a_judge_alone_has_no_agreement(make_run: MakeRun) -> None:
    run = make_run()
    change(run, lambda results: [one.update(agreement=None) for one in results["judge"]])
    first = Report.read(run).judged[0]
    assert first.cells[1:] == ("–", "", "–", "–", "–")
    assert "agrees" not in first.line
    texts(run)


def test_agreement_throughout_has_no_kappa(make_run: MakeRun) -> None:
    run = make_run()
    change(run, lambda results: results["judge"][0]["agreement"].update(kappa=None, rate=1.0))
    first = Report.read(run).judged[0]
    assert first.cells[3] == "–"
    assert "100.0 %, κ –" in first.line.replace("\u00a0", " ")


def test_judges_are_named_once() -> None:
    entries = [
        {"model": m, "task": "t", "judge": j} for m, j in (("a", "x"), ("b", "x"), ("c", ""))
    ]
    assert who_judged(read_judged({"judge": entries}, ())) == "Judged by x."
    assert who_judged(()) == ""


@pytest.mark.parametrize(
    ("name", "escaped"), [("report.html", "&lt;script&gt;"), ("report.md", r"\<script\>")]
)
def test_the_name_of_a_judge_stays_text(hostile_run: RunFolder, name: str, escaped: str) -> None:
    write_reports(hostile_run)
    said = (hostile_run / name).read_text("utf-8").partition("Judged by ")[2]
    assert said.startswith(escaped)
