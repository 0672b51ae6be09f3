"""What a reader learns of a tuning."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, write_reports
from medbench.reports.figures.charts import draw
from medbench.reports.formatting import NBSP, count

DETAIL: dict[str, Any] = {
    "rows": 450, "validation_rows": 50, "too_long": 12, "steps": 4, "seconds": 31.4,
    "backend": "trl", "backend_why": "Unsloth needs a CUDA GPU",
    "rows_at_once": 2, "accumulation": 2, "processes": 2, "end_to_end": False,
    "loss_first": 2.0, "loss_last": 0.04, "quantization": "nf4", "peak_bytes": 24_000_000_000,
    "trainable_parameters": 100, "parameters": 1000, "data_sha256": "f00d",
    "resumed_from": "step-2", "damaged_checkpoints": ["step-3"],
    "alarms": [
        {"kind": "turned", "step": 4, "stop": False, "sentence": "validation loss <b>turned</b> up"}
    ],
}  # fmt: skip
LOSSES = """\
step,epoch,loss,validation_loss,learning_rate,grad_norm,seconds_per_step,tokens_per_second
1,0.1,2.0,2.1,0.1,3.5,9.5,1200.4
2,0.2,1.5,1.7,0.1,1.0,2.5,4800.0
3,0.3,1.0,,0.1,1.25,2.5,4800.0
4,0.4,0.04,1.9,0.1,0.5,2.5,4900.0
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "R")
    run.write_text("adapters/tuned/losses.csv", LOSSES)
    stage = {"status": "done", "fingerprint": "", "seconds": 31.4, "error": None, "detail": DETAIL}
    suite = {"name": "made-up", "models": {"base": {"pretrained": "x"}, "tuned": {"base": "base"}}}
    run.write_json(
        "manifest.json",
        {"format": 1, "suite": suite, "models": ["base", "tuned"], "stages": {"tune/tuned": stage}},
    )
    return run


def test_the_facts(run: RunFolder) -> None:
    (training,) = Report.read(run).trainings
    facts = dict(training.facts)
    assert facts["rows"] == "450"
    assert facts["rows kept for validation"] == "50"
    assert facts["left out"] == f"12{NBSP}rows longer than the recipe's max_length"
    assert (
        facts["rows a step"]
        == f"8{NBSP}rows = 2 at once (padded) × 2 accumulated × 2{NBSP}processes"
    )
    assert facts["steps an epoch"] == f"57 = 450{NBSP}rows / 8, rounded up"
    assert facts["a step"] == f"2.50{NBSP}s, {count(4800)}{NBSP}tokens a second"
    assert facts["back end"] == "trl: Unsloth needs a CUDA GPU"
    assert facts["loss"] == "2.000 → 0.040"
    assert facts["validation loss"] == "2.100 → 1.900, lowest 1.700 at step 2"
    assert facts["gradient norm"] == "median 1.12, largest 3.50 at step 1"
    assert facts["peak memory of the GPU"] == f"24.0{NBSP}GB"
    assert facts["went on after a break from"] == "step-2"
    assert facts["damaged checkpoints passed over"] == "step-3"
    assert facts["alarm"] == "validation loss <b>turned</b> up (step 4)"


def test_what_did_not_happen_is_not_spoken_of(run: RunFolder) -> None:
    manifest = run.manifest()
    quiet: dict[str, Any] = {
        "validation_rows": 0,
        "too_long": 0,
        "resumed_from": None,
        "damaged_checkpoints": [],
    }
    manifest["stages"]["tune/tuned"]["detail"] |= quiet | {"alarms": [], "peak_bytes": None}
    run.write_json("manifest.json", manifest)
    run.write_text("adapters/tuned/losses.csv", "step,loss,validation_loss\n1,2.0,\n2,1.0,\n")
    report = Report.read(run)
    labels = {label for label, _ in report.trainings[0].facts}
    assert not labels & {
        "rows kept for validation", "left out", "validation loss", "gradient norm", "alarm",
        "went on after a break from", "damaged checkpoints passed over", "peak memory of the GPU",
    }  # fmt: skip
    assert report.problems == ()


def test_an_alarm_stands_above_the_figures_in_every_form(run: RunFolder) -> None:
    assert Report.read(run).problems == (
        "Tuning tuned: validation loss <b>turned</b> up (step 4).",
    )
    write_reports(run)
    markdown = (run / "report.md").read_text("utf-8")
    page = (run / "report.html").read_text("utf-8")
    for text, heading in ((markdown, "\n## Training"), (page, "Training</h2>")):
        assert text.index("Tuning tuned: validation loss") < text.index(heading)
        assert "<b>turned</b>" not in text, "what comes from a run is escaped"


def test_the_chart_has_both_losses_and_the_norm(run: RunFolder) -> None:
    (chart,) = [one for one in draw(Report.read(run)) if one.name == "loss"]
    ET.fromstring(chart.svg)
    assert "dashed: validation" in chart.svg
    assert "gradient norm" in chart.svg
    assert chart.description == (
        "tuned: 2.000 at step 1, 0.040 at step 4. "
        "tuned, validation: 2.100 at step 1, 1.900 at step 4."
    )
    run.write_text("adapters/tuned/losses.csv", "step,loss\n1,2.0\n2,1.0\n")
    (plain,) = [one for one in draw(Report.read(run)) if one.name == "loss"]
    assert "dashed" not in plain.svg
    assert "gradient norm" not in plain.svg


def test_a_single_logged_step_is_a_point(run: RunFolder) -> None:
    header, first, *_ = LOSSES.splitlines()
    run.write_text("adapters/tuned/losses.csv", f"{header}\n{first}\n")
    (chart,) = [one for one in draw(Report.read(run)) if one.name == "loss"]
    assert chart.description.startswith("tuned: 2.000 at step 1, 2.000 at step 1.")
