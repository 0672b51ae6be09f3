import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, print_summary, write_reports
from medbench.reports.figures.charts import draw
from medbench.reports.sections.calibration import OrderEffect, even_guess, order_sentence

MakeRun = Callable[..., RunFolder]


def without(run: RunFolder, *keys: str) -> Report:
    """The report of *run* after *keys* were taken out of every score."""
    results = run.results()
    for task in results["tasks"].values():
        for score in task["scores"].values():
            for key in keys:
                score.pop(key, None)
    run.write_json("results.json", results)
    write_reports(run)
    return Report.read(run)


def page(run: RunFolder) -> str:
    return (run / "report.html").read_text("utf-8") + (run / "report.md").read_text("utf-8")


def test_values_are_those_of_results_json(whole_run: RunFolder) -> None:
    report, tasks = Report.read(whole_run), whole_run.results()["tasks"]
    assert [task.name for task in report.calibrated] == ["made_up_text", "made_up_letters"]
    assert [task.name for task in report.reordered] == ["made_up_letters"]
    for task in report.calibrated:
        for score in task.scores:
            known: dict[str, Any] = tasks[task.name]["scores"][score.model]
            found = score.calibration
            assert found is not None
            assert (found.ece, found.aurc) == (known["calibration"]["ece"],
                                               known["calibration"]["aurc"])  # fmt: skip
            assert found.accuracy == pytest.approx(known["value"]), "bins cover every answer"
            assert found.risk_coverage[-1][1] == pytest.approx(1 - known["value"])
    [task] = report.reordered
    effect = task.scores[1].orders
    assert effect is not None
    assert effect.mean == pytest.approx(task.scores[1].value)
    assert effect.orders == 4


def test_order_is_said_in_plain_words() -> None:
    one, other = OrderEffect(4, 0.3, 0.25, 0.31), OrderEffect(4, 0.3, 0.25, 0.05)
    said = order_sentence("clinic", [("tuned", one)]).replace("\u00a0", " ")
    assert said == (
        "tuned changes its answer to 31.0 % of the questions of clinic when the options are "
        "shifted."
    )
    said = order_sentence("clinic", [("base", one), ("tuned", other)]).replace("\u00a0", " ")
    assert said.endswith("when the options are shifted, tuned to 5.0 %.")


def test_an_even_guess_is_calibrated_and_useless() -> None:
    assert [cell.replace("\u00a0", " ") for cell in even_guess(0.25).cells] == [
        "25.0 %", "25.0 %", "0.000", "0.750", "0.750",
    ]  # fmt: skip


def test_a_question_in_several_orders_is_shown_once(whole_run: RunFolder) -> None:
    samples = whole_run.samples()
    [task] = [one for one in Report.read(whole_run).samples if one.task == "made_up_letters"]
    assert task.n == 240
    assert sum(number for _, number in task.counts) == 240
    for sample in (sample for kind in task.kinds for sample in kind.shown):
        [row, _] = samples[
            (samples["task"] == task.task) & (samples["doc_id"] == sample.doc_id)
        ].to_dict("records")
        assert row["order"] == 0
        assert [option.text for option in sample.options] == list(row["options"])


def test_nothing_is_shown_of_what_is_not_there(make_run: MakeRun) -> None:
    run = make_run()
    report = without(run, "calibration", "orders")
    assert report.beyond_scores == ""
    assert {"reliability", "risk"}.isdisjoint(chart.name for chart in draw(report))
    for words in ("Calibration", "Worst order", "clustered", 'id="calibration"'):
        assert words not in page(run)


@pytest.mark.parametrize(
    ("missing", "heading", "shown", "hidden"),
    [
        ("orders", "Calibration", "ECE is", "Worst order"),
        ("calibration", "Option order", "Worst order", "ECE is"),
    ],
)
def test_half_a_section(
    make_run: MakeRun, missing: str, heading: str, shown: str, hidden: str
) -> None:
    run = make_run()
    assert without(run, missing).beyond_scores == heading
    assert f"<h2>{heading}</h2>" in page(run)
    assert shown in page(run)
    assert hidden not in page(run)


def test_missing_numbers_are_dashes(make_run: MakeRun) -> None:
    run = make_run()
    results = run.results()
    score = results["tasks"]["made_up_letters"]["scores"]["tuned"]
    score["calibration"] = {"ece": None, "brier": None, "aurc": None}
    score["orders"] |= {"worst": None, "changed": None}
    run.write_json("results.json", results)
    report = Report.read(run)
    found = report.calibrated[1].scores[1].calibration
    assert found is not None
    assert set(found.cells) == {"–"}
    write_reports(run)


def test_all_tasks_without_a_mistake(make_run: MakeRun) -> None:
    run = make_run()
    results = run.results()
    for task in results["tasks"].values():
        task["chance"] = None
        for score in task["scores"].values():
            if "calibration" in score:
                score["calibration"]["risk_coverage"] = [[0.1, 0.0], [1.0, 0.0]]
    run.write_json("results.json", results)
    write_reports(run)
    assert "| chance |" not in page(run)
    assert ">chance<" not in page(run)


def test_terminal_has_one_line_a_model(whole_run: RunFolder) -> None:
    out = io.StringIO()
    print_summary(Report.read(whole_run), Console(file=out, width=80))
    lines = [line for line in out.getvalue().splitlines() if "option orders" in line]
    assert [line.split()[:2] for line in lines] == [["base", "4"], ["tuned", "4"]]
