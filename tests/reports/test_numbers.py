"""Every figure of the page is that of the run: each table is read and compared with its source."""

import json
import re
from html import unescape
from typing import Any

import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import write_reports

from .conftest import build
from .sources import Sources, score
from .tables import disagreement, disagreements, figures, read, tables
from .test_latency import measured
from .test_overlap import checked

EVERY = {
    "Scores", "Differences", "Protocols", "Answers generated", "Verdicts of the judge",
    "Calibration", "Option order", "Latency", "Floors, throughput and memory",
    "Accuracy against latency", "Stages", "Pairs to read", "Effect of the overlap",
    "Memory of tuning tuned", "made_up_text by subject", "made_up_letters by subject",
    "invented for these tests by protocol",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has every table: two formats timed and scored, rows that overlap a test."""
    found = checked(measured(build(tmp_path_factory.mktemp("numbers") / "run")), 12)
    write_reports(found)
    return found


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return (run / "report.html").read_text("utf-8")


def test_every_table_says_what_its_source_says(run: RunFolder, page: str) -> None:
    sources, found = Sources(run), tables(page)
    assert {table.label for table in found} == EVERY
    wrong = [why for table in found for why in disagreements(table, sources.of(table))]
    assert wrong == []


def test_no_figure_of_a_table_can_be_altered_unnoticed(run: RunFolder, page: str) -> None:
    """Digits become other digits, and minus signs plus signs, one after the other."""
    sources, altered = Sources(run), 0
    for table in tables(page):
        rows = sources.of(table)
        body = table.source.index("<tbody>")
        for place in [one.start() for one in re.finditer(r"[\d−](?=[^<>]*<)", table.source)]:
            if place < body:
                continue
            old = table.source[place]
            new = "+" if old == "−" else str((int(old) + 1) % 10)
            changed = table.source[:place] + new + table.source[place + 1 :]
            again = read(table.label, changed)
            if again.body == table.body:
                continue  # inside a tag or an attribute: the bars of the stages
            assert disagreements(again, rows), f"{table.label}: {changed[place - 30 : place + 1]}"
            altered += 1
    assert altered > 1000


@pytest.mark.slow
def test_every_table_of_the_embedded_run_says_what_its_source_says(
    embedded_run: RunFolder,
) -> None:
    page = (embedded_run / "report.html").read_text("utf-8")
    sources, found = Sources(embedded_run), tables(page)
    wrong = [why for table in found for why in disagreements(table, sources.of(table))]
    assert wrong == []
    assert {"Scores", "Differences", "Option order", "Accuracy against latency"} <= {
        table.label for table in found
    }


def test_a_table_whose_source_nobody_named_is_an_error(run: RunFolder) -> None:
    with pytest.raises(KeyError, match="Something new"):
        Sources(run).of(read("Something new", "<table></table>"))


def test_chances_at_the_head_of_the_protocols(run: RunFolder, page: str) -> None:
    (table,) = [one for one in tables(page) if one.label.endswith(" by protocol")]
    heads = table.head[0][1:]
    for text, name in zip(heads, ["made_up_text", "made_up_letters"], strict=True):
        task = run.results()["tasks"][name]
        assert disagreement(text, [name, task["protocol"], task["chance"]]) == ""


def test_a_figure_is_described_with_the_scores_that_it_draws(run: RunFolder, page: str) -> None:
    (said,) = re.findall(r'<desc id="accuracy-desc">(.*?)</desc>', page)
    scores = [
        (f"{name}, {model}", one)
        for name, task in run.results()["tasks"].items() if task["metric"] == "acc"
        for model, one in task["scores"].items()
    ]  # fmt: skip
    assert len(scores) == 9
    for who, one in scores:
        sentence = unescape(said).partition(f"{who}: ")[2].partition(")")[0]
        assert disagreement(sentence, score(one, "acc")) == ""


def comparisons(run: RunFolder) -> list[dict[str, Any]]:
    results = run.results()
    pooled = [one for group in results["groups"].values() for one in group["comparisons"]]
    return [*pooled, *results["comparisons"]]


def test_verdicts_say_the_figures_of_results_json_and_no_other(run: RunFolder, page: str) -> None:
    items = re.findall(r'<li><span class="verdict[^>]*>([^<]*)</span><span>(.*?)</span></li>', page)
    compared = comparisons(run)
    assert len(items) == len(compared)
    for (verdict, html), one in zip(items, compared, strict=True):
        k = 100 if one["metric"] == "acc" else 1
        keys = ("a", "b", "difference", "low", "high", "smallest_detectable")
        known = [k * abs(one[key]) for key in keys]
        known += [one["a"], one["b"], one["n"], one["p"], one["p_holm"], 0.95]
        known.append(max(known[3], known[4]))
        sentence = unescape(html).replace(one["task"], "")
        for shown in figures(sentence):
            assert any(shown.says(value) or shown.says(-value) for value in known), sentence
        assert verdict in ("better", "worse", "no difference shown", "inconclusive")


def test_words_of_the_page_are_those_of_report_json(run: RunFolder, page: str) -> None:
    """Facts of tuning, export, models and environment; headlines, method, statements of overlap."""
    told = json.loads((run / "report.json").read_text("utf-8"))
    text = " ".join(unescape(re.sub(r"<[^>]+>", "", page)).split())
    facts = [pair for one in told["tunings"] + told["exports"] for pair in one["facts"].items()]
    for label, value in [*facts, *told["environment"].items()]:
        assert " ".join(f"{label}{value}".split()) in text
    said = [*told["headlines"], told["method"], told["disclaimer"], told["command"]]
    said += [sentence for one in told["memory"] for sentence in one["sentences"]]
    said += [one["statement"] for one in told["overlap"]]
    for sentence in said:
        assert " ".join(sentence.split()) in text


def test_report_json_repeats_results_json(run: RunFolder) -> None:
    told = json.loads((run / "report.json").read_text("utf-8"))
    results = run.results()
    for task in told["tasks"]:
        source = results["tasks"][task["name"]]
        for model, one in task["scores"].items():
            for key in ("value", "low", "high", "n", "unparsed", "truncated"):
                assert one[key] == source["scores"][model][key]
    shown = [one for part in told["groups"] + told["tasks"] for one in part["comparisons"]]
    for one, source in zip(shown, comparisons(run), strict=True):
        for key in ("n", "a", "b", "difference", "low", "high", "p", "p_holm", "discordant"):
            assert one[key] == source[key]


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("29.2 %", 0.2918, True), ("29.2 %", 0.2926, False), ("−0.214", -0.2141, True),
        ("0.214", -0.214, False), ("< 0.001", 0.0009, True), ("< 0.001", 0.002, False),
        ("1,273", 1273, True), ("42.2 MB", 42_174_464, True), ("42.2 MB", 42_300_000, False),
        ("3 min 05 s", 185.2, True), ("3 min 05 s", 186, False), ("6.9e−05", 6.87e-5, True),
        ("6.9e−05", 6.8e-5, False),
    ],
)  # fmt: skip
def test_a_figure_says_what_rounds_to_it(text: str, value: float, holds: bool) -> None:
    (shown,) = figures(text)
    assert shown.says(value) is holds


def test_digits_of_words_are_no_figures() -> None:
    assert figures("fp32, nf4, 0-shot, 8-gram, made_up_2, tuned@onnx-int4") == []
