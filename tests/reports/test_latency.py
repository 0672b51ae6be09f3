"""Latency in reports: floors, intervals, ratios, and accuracy against time."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, write_reports
from medbench.reports.sections.front import front
from medbench.reports.sections.latency import Latency, Ratio, detail, read_series
from medbench.reports.sections.latency_terminal import print_against, print_latency
from medbench.reports.sections.scores import Task, read_tasks

MakeRun = Callable[..., RunFolder]
NBSP = "\u00a0"
ROW: dict[str, Any] = {
    "model": "tuned", "engine": "onnxruntime", "format": "int4", "provider": "cpu", "batch": 1,
    "prompt_tokens": 64, "output_tokens": 32, "n": 30, "unstable": False,
    "ttft_ms_p50": 4.0, "ttft_ms_p90": 5.0, "tpot_ms_p50": 2.0, "tpot_ms_p90": 3.0,
    "intervals": {"ttft_ms_p50": [3.9, 4.2], "tpot_ms_p50": [1.9, None]},
    "tokens_per_s": 412.3, "peak_bytes": 52_000_000.0, "ttft_floor_ms": None,
    "token_floor_ms": 0.5, "load_1m": 3.25, "hardware": "a <b>processor</b>", "threads": 2,
    "ratios": [
        {"figure": "tpot", "engine": "torch", "format": "fp32", "ratio": 3.0, "low": 2.9,
         "high": 3.2},
    ],
}  # fmt: skip


def row(**changed: Any) -> Latency:
    return read_series(ROW | changed)


def torch_row(**changed: Any) -> Latency:
    fixed = {"engine": "torch", "format": "fp32", "ratios": [], "tpot_ms_p50": 6.0}
    return row(**(fixed | changed))


def tasks(**scores: float) -> tuple[Task, ...]:
    """Two tasks on which every model has the same score, known to ±0.05, and one of text."""
    found = {
        name.replace("__", "@onnx-"): {"value": value, "low": value - 0.05, "high": value + 0.05}
        for name, value in scores.items()
    }
    task = {"protocol": "", "metric": "acc", "scores": found}
    text = {"protocol": "", "metric": "bits_per_byte", "higher_is_better": False, "scores": {}}
    return read_tasks({"tasks": {"one": task, "other": task, "text": text}})


def test_floor_is_shown_with_the_share_reached() -> None:
    assert row().floor("tpot") == f"0.50 (25{NBSP}%)"
    assert row().floor("ttft") == "–"


def test_interval_is_shown_when_both_ends_are_known() -> None:
    assert row().interval("ttft_ms_p50") == "3.90 to 4.20"
    assert row().interval("tpot_ms_p50") == "–"
    assert row(intervals=None).interval("tpot_ms_p50") == "–"


def test_ratio_to_torch_has_its_interval() -> None:
    said = row().against(torch_row())
    assert said == (
        "tuned takes 2.00 ms a token in ONNX Runtime int4 and 6.00 ms in torch fp32 (medians, "
        f"batch 1, 64 tokens in and 32 out): 3.0 times as fast, 95{NBSP}% interval 2.9 to 3.2."
    )


def test_compiled_torch_is_compared_too_and_torch_with_itself_is_not() -> None:
    compiled = torch_row(engine="torch-compiled")
    assert "6.00 ms in torch compiled fp32" in row().against(compiled)
    assert torch_row().against(compiled) == ""
    assert row().against(row(format="fp32")) == ""


def test_slower_and_unstable_are_said() -> None:
    said = row(tpot_ms_p50=9.0, unstable=True).against(torch_row())
    assert said.endswith("1.5 times as slow, though the timings may be unstable.")


def test_ratio_of_too_few_requests_has_no_interval() -> None:
    assert Ratio("tpot", "torch", "fp32", 2.0, None, None).interval == ""


def test_front_by_hand() -> None:
    rows = [
        torch_row(tpot_ms_p50=6.0),
        row(format="fp32", tpot_ms_p50=3.0),
        row(format="int8", tpot_ms_p50=2.0),
        row(format="int4", tpot_ms_p50=2.5),
        row(format="int4", tpot_ms_p50=0.1, batch=8),  # another shape is another picture
    ]
    scored = tasks(tuned=0.8, tuned__fp32=0.8, tuned__int8=0.7, tuned__int4=0.6)

    found = front(rows, scored)

    assert found is not None
    assert [(point.runtime, point.best) for point in found.points] == [
        ("ONNX Runtime int8", True),
        ("ONNX Runtime int4", False),  # slower and worse than int8
        ("ONNX Runtime fp32", True),
        ("torch fp32", False),  # as accurate as fp32 and slower
    ]
    point = found.points[0]
    # Two tasks of ±0.05: the mean is known to 0.05 / √2.
    assert (point.low, point.high) == pytest.approx((0.7 - 0.0353553, 0.7 + 0.0353553))
    assert found.tasks == ("one", "other")
    assert found.unscored == ()


def test_a_format_that_was_not_scored_is_not_given_the_accuracy_of_torch() -> None:
    rows = [torch_row(), row(format="fp32"), row(format="int4")]

    found = front(rows, tasks(tuned=0.8, tuned__fp32=0.8))

    assert found is not None
    assert [point.runtime for point in found.points] == ["ONNX Runtime fp32", "torch fp32"]
    assert found.unscored == ("tuned in ONNX Runtime int4",)
    assert "Not scored: tuned in ONNX Runtime int4." in found.about


@pytest.mark.parametrize("scores", [{}, {"tuned": 0.5}])
def test_one_point_is_no_front(scores: dict[str, float]) -> None:
    assert front([torch_row(), row()], tasks(**scores)) is None


def test_equal_points_are_both_on_the_front() -> None:
    rows = [torch_row(tpot_ms_p50=2.0), row(tpot_ms_p50=2.0)]
    found = front(rows, tasks(tuned=0.8, tuned__int4=0.8))
    assert found is not None
    assert [point.best for point in found.points] == [True, True]


def test_older_runs_have_no_detail() -> None:
    old = read_series({key: ROW[key] for key in ROW if key not in (
        "intervals", "tokens_per_s", "peak_bytes", "ttft_floor_ms", "token_floor_ms", "load_1m",
        "hardware", "threads", "ratios")})  # fmt: skip
    assert detail([old]) == ""
    assert (old.memory, old.throughput, old.floor("tpot")) == ("–", "–", "–")


def measured(run: RunFolder) -> RunFolder:
    """The run as if two formats had been timed and scored."""
    results = run.results()
    results["latency"] = [
        ROW | {"ttft_ms_p99": 6.0, "tpot_ms_p99": 4.0},
        ROW | {"engine": "torch", "format": "fp32", "ratios": [], "tpot_ms_p50": 6.0},
    ]
    for task in results["tasks"].values():
        task["scores"]["tuned@onnx-int4"] = task["scores"]["tuned"]
    run.write_json("results.json", results)
    return run


def test_pages_show_floors_and_the_front(make_run: MakeRun) -> None:
    run = measured(make_run())
    report = Report.read(run)
    assert report.front is not None
    assert len(report.front.points) == 2
    write_reports(run)

    html = (run / "report.html").read_text("utf-8")
    markdown = (run / "report.md").read_text("utf-8")

    for page in (html, markdown):
        assert f"0.50 (25{NBSP}%)" in page
        assert f"52.0{NBSP}MB" in page
        assert "load average 3.2 at most" in page
        assert "Accuracy (the mean of" in page
        assert "<b>processor</b>" not in page
    assert 'aria-label="Accuracy against latency"' in html
    assert (run / "figures/front.svg").is_file()


def test_engines_that_were_left_out_are_said(make_run: MakeRun) -> None:
    run = make_run()
    manifest = run.manifest()
    manifest["stages"]["latency/tuned"]["detail"] = {"skipped": {"vllm": "vllm is not installed"}}
    run.write_json("manifest.json", manifest)

    assert Report.read(run).speedups[-1] == "tuned was not timed in vLLM: vllm is not installed."


def test_terminal_says_what_was_left_out_and_how_busy_it_was() -> None:
    result = {
        "latency": [ROW, ROW | {"engine": "torch", "format": "fp32", "tpot_ms_p50": 6.0}],
        "skipped": {"torch-compiled": "torch.compile needs a C++ compiler (g++ or clang++)"},
        "environment": {"cores": 2},
    }
    console = Console(width=80, record=True, quiet=True, force_terminal=False)
    with console.capture() as capture:
        console.quiet = False
        print_latency(result, console)
        series = {key: ROW[key] for key in ("engine", "format", "batch", "prompt_tokens",
                                            "output_tokens")}  # fmt: skip
        ends = {"ratio": 1.07, "low": 1.01, "high": 1.13, "unstable": True}
        print_against([series | {"figure": "tpot"} | ends], console)
    said = " ".join(capture.get().split())

    assert f"0.50 (25{NBSP}%)".replace(NBSP, " ") in said.replace(NBSP, " ")
    assert "3.0 times as fast" in said
    assert "torch compiled was left out: torch.compile needs a C++ compiler" in said
    assert "The machine was busy (load average 3.2 on 2 cores)" in said
    assert "TPOT 1.07 1.01 to 1.13 (may be unstable)" in said
