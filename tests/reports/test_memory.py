"""Memory in the report: predicted beside measured, the claim, the figure."""

import copy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report
from medbench.reports.figures.charts import draw
from medbench.reports.sections.memory import Forecast, markdown, read_forecast

from .conftest import make_forecast


@pytest.fixture
def forecast() -> Forecast:
    return read_forecast("tuned", make_forecast(), {"peak_bytes": 30_100_000})


def test_the_peak_that_was_measured_stands_beside_its_own_prediction(forecast: Forecast) -> None:
    assert forecast.own is not None
    assert forecast.own.precision == "bf16"
    assert [line.precision for line in forecast.lines if line.measured] == ["bf16"]
    off = (forecast.own.peak - 30_100_000) / 30_100_000
    assert forecast.own.difference == f"{'−' if off < 0 else '+'}{abs(100 * off):.1f}\u00a0%"
    assert forecast.measured.startswith(
        "Peak memory in bf16: predicted 26.2\u00a0MB, measured 30.1"
    )


def test_before_a_run_nothing_is_said_of_measurement() -> None:
    one = read_forecast("tuned", make_forecast())
    assert one.measured == ""
    assert one.later in one.sentences
    assert {line.difference for line in one.lines} == {"–"}
    assert "measured" not in one.claim


def test_a_run_without_a_gpu_says_that_nothing_was_measured() -> None:
    ran = read_forecast("tuned", make_forecast(), {"peak_bytes": None})
    assert ran.sentences[0].startswith("Predicted for a GPU. This run tuned without one")
    assert ran.later not in ran.sentences


def test_int8_is_explained_only_where_it_needs_more() -> None:
    made = make_forecast()
    for name, peak in {"bf16": 100, "int8": 101}.items():
        made["precisions"][name]["peak"] = peak
    assert read_forecast("tuned", made).kept.startswith("int8 needs more than bf16: ")
    made["precisions"]["int8"]["peak"] = 100
    assert read_forecast("tuned", made).kept == ""


def test_the_claim_is_computed_from_these_figures_alone() -> None:
    made = make_forecast()
    for name, peak in {"fp32": 100_000, "bf16": 50_000, "int8": 30_000, "nf4": 20_000}.items():
        made["precisions"][name]["peak"] = peak
    made["precision"] = "nf4"
    claim = read_forecast("tuned", made, {"peak_bytes": 25_000}).claim
    assert "claim of 71\u00a0% less memory: nf4 takes 25.0\u00a0kB (measured)" in claim
    assert "75\u00a0% less than fp32 (predicted) and 50\u00a0% less than bf16 (predicted)" in claim


def test_where_not_the_whole_batch_fits_it_says_how_much_does() -> None:
    made = copy.deepcopy(make_forecast())
    made["precisions"]["fp32"]["fits"] = {"24": 0, "80": 2, "141": 8}
    table = markdown(read_forecast("tuned", made))
    assert "| no | 2 at once | yes |" in table


def test_a_report_shows_it_and_draws_it(whole_run: RunFolder) -> None:
    report = Report.read(whole_run)
    assert len(report.memory) == 1
    chart = next(chart for chart in draw(report) if chart.name == "memory")
    assert "bf16: predicted 26.2\u00a0MB, measured 30.1\u00a0MB." in chart.description
    texts = [text for text in ET.fromstring(chart.svg).itertext() if text.strip()]
    assert {"fp32", "bf16", "int8", "nf4", "measured"} <= {text.strip() for text in texts}


def test_names_are_escaped() -> None:
    assert "### \\<img src=x\\>\n" in markdown(read_forecast("<img src=x>", make_forecast()))


def test_a_run_that_could_not_predict_has_no_section(whole_run: RunFolder, tmp_path: Path) -> None:
    manifest = whole_run.manifest()
    manifest["stages"]["tune/tuned"]["detail"]["predicted"] = None
    other = RunFolder(tmp_path / "other")
    other.write_json("manifest.json", manifest)
    report = Report.read(other)
    assert report.memory == ()
    assert "memory" not in {chart.name for chart in draw(report)}
