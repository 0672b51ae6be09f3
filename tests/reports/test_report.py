from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, write_reports

MakeRun = Callable[..., RunFolder]


def change(run: RunFolder, file: str, edit: Callable[[dict[str, Any]], object]) -> None:
    value = run.manifest() if file == "manifest.json" else run.results()
    edit(value)
    run.write_json(file, value)


def page(run: RunFolder) -> str:
    write_reports(run)
    return (run / "report.html").read_text("utf-8")


def test_everything_of_a_whole_run(whole_run: RunFolder) -> None:
    report = Report.read(whole_run)
    assert report.headlines == (
        "tuned is better than base on 3 of 4 tasks; no difference is shown on made_up_letters.",
    )
    assert [task.name for task in report.tasks] == list(whole_run.results()["tasks"])
    assert [one.verdict for one in report.comparisons] == [
        "better", "better", "no difference shown", "better",
    ]  # fmt: skip
    assert report.problems == ()
    assert len(report.trainings[0].losses) == 120
    assert len(report.latency[0].ttft_ms) == 30, "warm-ups are left out"
    assert "times as fast" in report.speedups[0]
    assert dict(report.environment)["memory"] == "16.0\u00a0GB"
    assert dict(report.exports[0].facts)["greedy tokens equal"] == "256 of 256"
    assert len(report.stages) == 12


def test_reports_are_the_same_each_time(whole_run: RunFolder) -> None:
    first = {path: path.read_bytes() for path in write_reports(whole_run)}
    assert first == {path: path.read_bytes() for path in write_reports(whole_run)}
    assert sorted(path.name for path in first) == [
        "accuracy.svg", "differences.svg", "latency.svg", "loss.svg", "memory.svg",
        "reliability.svg", "report.html", "report.json", "report.md", "risk.svg",
    ]  # fmt: skip


def test_samples_are_bounded_and_blind_to_order(make_run: MakeRun) -> None:
    run = make_run()
    before = Report.read(run).samples
    run.write_table("samples.parquet", run.samples().sample(frac=1, random_state=1))
    assert Report.read(run).samples == before
    gained, lost, _, unparsed = before[1].kinds
    assert (gained.name, lost.name) == ("base wrong → tuned right", "base right → tuned wrong")
    assert len(gained.shown) == 3 < gained.total, "bounded by report.samples of the suite"
    assert sum(number for _, number in before[1].counts) == before[1].n == 120
    assert unparsed.total > 0
    assert all(not a.right and b.right for a, b in (sample.answers for sample in gained.shown))
    assert lost.shown[0].answers[1].output.startswith("The answer is")
    assert "first-line" in lost.shown[0].answers[1].reasoning


def test_options_carry_scores_and_shares(whole_run: RunFolder) -> None:
    sample = Report.read(whole_run).samples[0].kinds[0].shown[0]
    assert sample.scored
    for place in range(2):
        assert sum(option.shares[place] for option in sample.options) == pytest.approx(1)
    assert [option.text for option in sample.options if option.is_target] == [sample.target]
    assert [option.chosen_by for option in sample.options if option.is_target] == [("tuned",)]


def test_no_samples_wanted(make_run: MakeRun) -> None:
    run = make_run()
    change(run, "manifest.json", lambda m: m["suite"]["report"].update(samples=0))
    assert Report.read(run).samples == ()


def test_one_model(make_run: MakeRun) -> None:
    run = make_run(("base",))
    report = Report.read(run)
    assert report.headlines == ("Only base was scored, so there is nothing to compare it with.",)
    assert not report.comparisons + report.latency + report.trainings
    assert [kind.name for kind in report.samples[0].kinds][:2] == ["base wrong", "base right"]
    assert sorted(path.name for path in write_reports(run)) == [
        "accuracy.svg", "reliability.svg", "report.html", "report.json", "report.md", "risk.svg",
    ]  # fmt: skip


def test_two_base_models_are_not_compared(make_run: MakeRun) -> None:
    report = Report.read(make_run(("base", "other")))
    assert "nothing is compared" in report.headlines[0]


def test_no_losses(make_run: MakeRun) -> None:
    run = make_run()
    (run / "adapters/tuned/losses.csv").unlink()
    assert Report.read(run).trainings[0].losses == ()
    assert "Training" in page(run)


def test_gaps_in_the_losses(make_run: MakeRun) -> None:
    run = make_run()
    run.write_text("adapters/tuned/losses.csv", "step,loss\n1,3.0\n2,\n3,nan\n4,1.0\n")
    assert Report.read(run).trainings[0].losses == ((1.0, 3.0), (4.0, 1.0))
    page(run)


def test_no_latency(make_run: MakeRun) -> None:
    run = make_run()
    (run / "timings.parquet").unlink()
    change(run, "results.json", lambda results: results.update(latency=[]))
    assert Report.read(run).latency == ()
    page(run)


def test_latency_without_its_raw_values(make_run: MakeRun) -> None:
    run = make_run()
    (run / "timings.parquet").unlink()
    assert Report.read(run).latency[0].ttft_ms == ()
    assert "ONNX Runtime fp32" in page(run)


def test_one_output_token_has_no_time_per_token(make_run: MakeRun) -> None:
    run = make_run()
    run.write_table("timings.parquet", run.timings().assign(output_tokens=1))
    change(run, "results.json", lambda r: [row.update(
        output_tokens=1, tpot_ms_p50=None, tpot_ms_p90=None, tpot_ms_p99=None)
        for row in r["latency"]])  # fmt: skip
    assert Report.read(run).latency[0].tpot_ms == ()
    assert Report.read(run).speedups == ()
    page(run)


def test_a_run_that_failed_before_any_result(make_run: MakeRun) -> None:
    run = make_run()
    for name in ("results.json", "samples.parquet", "timings.parquet", "adapters/tuned/losses.csv"):
        (run / name).unlink()

    def fail(manifest: dict[str, Any]) -> None:
        stages = {"tune/tuned": manifest["stages"]["tune/tuned"]}
        stages["tune/tuned"] |= {"status": "failed", "error": "loss is NaN", "detail": {}}
        manifest.update(stages=stages, status="failed", seconds=None)

    change(run, "manifest.json", fail)
    report = Report.read(run)
    assert report.problems == ("Stage tune/tuned failed: loss is NaN",)
    assert report.headlines == ("No task was scored, so there is no result yet.",)
    assert "loss is NaN" in page(run)


def test_a_run_that_failed_late_keeps_what_it_has(make_run: MakeRun) -> None:
    run = make_run()
    change(run, "manifest.json", lambda m: m["stages"]["export/tuned/fp32"].update(
        status="failed", error="no disk space", detail={}))  # fmt: skip
    report = Report.read(run)
    assert report.exports == ()
    assert report.problems == ("Stage export/tuned/fp32 failed: no disk space",)
    assert len(report.comparisons) == 4
    assert "no disk space" in page(run)


def test_missing_numbers_are_dashes(make_run: MakeRun) -> None:
    run = make_run()

    def empty(results: dict[str, Any]) -> None:
        first = results["tasks"]["made_up_text"]["scores"]["tuned"]
        first.update(value=None, low=None, high=None, n=0, unparsed=None, truncated=None)
        results["comparisons"][0].update(n=0, difference=None, low=None, high=None, p=None)

    change(run, "results.json", empty)
    report = Report.read(run)
    assert report.tasks[0].scores[1].shown == "–"
    assert report.comparisons[0].verdict == "inconclusive"
    page(run)


def test_notes_are_shown_once(make_run: MakeRun) -> None:
    run = make_run()
    for file in ("manifest.json", "results.json"):
        change(run, file, lambda value: value.update(notes=["The model is a placeholder."]))
    assert Report.read(run).notes == ("The model is a placeholder.",)
    assert page(run).count("The model is a placeholder.") == 1


def test_a_task_that_only_one_model_answered(make_run: MakeRun) -> None:
    run = make_run()
    table: pd.DataFrame = run.samples()
    kept = table[(table["task"] != "made_up_open") | (table["model"] == "base")]
    run.write_table("samples.parquet", kept)
    assert [one.task for one in Report.read(run).samples] == ["made_up_text", "made_up_letters"]
