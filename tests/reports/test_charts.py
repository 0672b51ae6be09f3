import xml.etree.ElementTree as ET
from dataclasses import asdict, replace

import pandas as pd
import pytest

from medbench.harness.folder.store import RunFolder
from medbench.harness.statistics import stats
from medbench.reports import Report
from medbench.reports.figures import forest as forest_module
from medbench.reports.figures.charts import NAMES, Chart, draw
from medbench.reports.figures.svg import FILE_INK, INK
from medbench.reports.sections.scores import read_tasks


@pytest.fixture(scope="module")
def charts(whole_run: RunFolder) -> tuple[Chart, ...]:
    return draw(Report.read(whole_run))


def test_all_are_drawn_and_the_same_each_time(
    charts: tuple[Chart, ...], whole_run: RunFolder
) -> None:
    # The front needs several models that were timed.
    assert [chart.name for chart in charts] == [name for name in NAMES if name != "front"]
    assert charts == draw(Report.read(whole_run))


def test_text_is_text_and_readers_hear_it(charts: tuple[Chart, ...]) -> None:
    for chart in charts:
        root = ET.fromstring(chart.svg)
        assert root.get("role") == "img"
        names = [element.tag.rpartition("}")[2] for element in root]
        assert names[:2] == ["title", "desc"]
        assert root.get("aria-labelledby") == f"{root[0].get('id')} {root[1].get('id')}"
    assert "made_up_text" in charts[0].svg
    assert "made_up_text, base: 27.5" in charts[0].description


def test_ids_are_unique_over_all_figures(charts: tuple[Chart, ...]) -> None:
    roots = [ET.fromstring(chart.svg) for chart in charts]
    ids = [element.get("id") for root in roots for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for root in roots:
        own = {element.get("id") for element in root.iter()}
        for element in root.iter():
            target = element.get("href")
            assert target is None or target.removeprefix("#") in own


def test_no_style_and_ink_follows_the_page(charts: tuple[Chart, ...]) -> None:
    for chart in charts:
        root = ET.fromstring(chart.svg)
        assert root.get("color") == FILE_INK
        assert "currentColor" in chart.svg
        assert INK not in chart.svg
        for element in root.iter():
            assert element.tag.rpartition("}")[2] not in ("style", "script", "image", "metadata")
            assert element.get("style") is None


def test_a_forest_of_equal_answers_still_has_width(
    whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers as its base does on every question: 0 points, but not 0.0 to 0.0."""
    right = [float(i % 3 > 0) for i in range(120)]
    pairs = pd.DataFrame({
        "score_a": right, "score_b": right, "weight": 1.0, "metric": "acc",
        "cluster": [str(i) for i in range(120)],
    })  # fmt: skip
    entry = asdict(stats.compare(pairs)) | {"task": "same", "metric": "acc"}
    results = {
        "tasks": {"same": {"metric": "acc", "scores": {"base": {}, "tuned": {}}}},
        "comparisons": [entry | {"base": "base", "tuned": "tuned"}],
    }
    drawn: list[tuple[float, float, float]] = []
    monkeypatch.setattr(forest_module, "interval", lambda ax, y, ends, look: drawn.append(ends))
    report = replace(Report.read(whole_run), tasks=read_tasks(results))
    (chart,) = [one for one in draw(report) if one.name == "differences"]
    assert "cannot be excluded" in chart.description
    ((value, low, high),) = drawn
    assert value == 0
    assert low < -3
    assert high > 3
