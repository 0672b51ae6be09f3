"""The page, read by a parser: what it may load, what it says, how it is built."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import write_reports
from medbench.reports.html import source_hash

DATA = {"application/json", "text/plain"}
"""Types of scripts that no browser runs."""


class Page(HTMLParser):
    """Collects tags, attributes, text and tables; notices what is left open."""

    VOID = {"meta", "link", "br", "hr", "img", "input"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.label = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if attributes.get("role") == "region":
            self.label = attributes["aria-label"] or ""
        if tag == "tr":
            self.tables.setdefault(self.label, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.label][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[self.label][-1][-1] += data


@pytest.fixture(scope="module")
def source(whole_run: RunFolder) -> str:
    write_reports(whole_run)
    return (whole_run / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_asks_nobody_for_anything(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "style" not in attributes
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "action", "formaction"):
                assert (value or "").startswith("#")
            elif name != "xmlns":
                assert "//" not in (value or "")


def test_policy_names_the_hashes_of_the_only_style_and_the_only_script(
    source: str, page: Page
) -> None:
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    [css] = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    [js] = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert set(kinds) == {None, *DATA}
    assert kinds.count(None) == 1
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{source_hash(css)}'; "
        f"script-src 'sha256-{source_hash(js)}'; require-trusted-types-for 'script'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in css
    assert "@import" not in css
    for sink in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("):
        assert sink not in js


def test_ids_are_unique_and_links_arrive(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert [link.removeprefix("#") for link in links] == sections


def test_answer_comes_before_evidence(source: str) -> None:
    marks = ["<h1>", "tuned is better than base", 'aria-label="Scores"', "differences-title",
             'id="results"', '<ul class="verdicts">', 'id="subjects"',
             'id="tasks"', 'id="calibration"', 'id="training"', 'id="latency"', 'id="samples"',
             'id="reproduce"', "medbench run --models base,tuned"]  # fmt: skip
    body = source[source.index("<main>") :]
    places = [body.index(mark) for mark in marks]
    assert places == sorted(places)


def test_says_what_it_is_not(source: str) -> None:
    assert "not a medical device" in source


def number(value: float | None, digits: int, signed: bool = False) -> str:
    if value is None:
        return "–"
    text = f"{abs(value):,.{digits}f}".replace(",", "\u00a0")
    if not float(text.replace("\u00a0", "")):
        return text
    return f"−{text}" if value < 0 else f"+{text}" if signed else text


def shown(metric: str, value: float | None) -> str:
    return f"{number(100 * value, 1)}\u00a0%" if metric == "acc" and value else number(value, 3)


def ends(metric: str, low: float | None, high: float | None) -> str:
    factor, digits = (100, 1) if metric == "acc" else (1, 3)
    if low is None or high is None:
        return "–"
    return f"{number(factor * low, digits)} to {number(factor * high, digits)}"


def p_value(p: float) -> str:
    return "<\u00a00.001" if p < 0.001 else number(p, 3 if p < 0.1 else 2)


def parts(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """(name, group or task, its comparisons) as results.json has them."""
    for name, group in results["groups"].items():
        yield name, group, group["comparisons"]
    for name, task in results["tasks"].items():
        yield name, task, [one for one in results["comparisons"] if one["task"] == name]


def test_every_score_is_that_of_results_json(whole_run: RunFolder, page: Page) -> None:
    wanted = [["Model", "Score 95 % interval"]]
    for name, part, _ in parts(whole_run.results()):
        wanted.append([name])
        for model, one in part["scores"].items():
            metric = part["metric"]
            interval = ends(metric, one["low"], one["high"])
            wanted.append([model, f"{shown(metric, one['value'])} {interval}"])
    found = [[row[0].split()[0], *row[1:]] for row in page.tables["Scores"]]
    assert found == wanted


def test_every_difference_is_that_of_results_json(whole_run: RunFolder, page: Page) -> None:
    wanted = []
    for name, part, compared in parts(whole_run.results()):
        for one in compared:
            factor, digits = (100, 1) if part["metric"] == "acc" else (1, 3)
            p, holm = p_value(one["p"]), p_value(one["p_holm"])
            lost, gained = one["discordant"] or ("–", "–")
            wanted.append([
                name, one["tuned"], str(one["n"]),
                f"{number(factor * one['difference'], digits, signed=True)} "
                f"{ends(part['metric'], one['low'], one['high'])}",
                p if p == holm else f"{p}, adjusted {holm}", str(gained), str(lost),
                number(factor * one["smallest_detectable"], digits),
            ])  # fmt: skip
    assert page.tables["Differences"][1:] == wanted


def test_every_calibration_is_that_of_results_json(whole_run: RunFolder, page: Page) -> None:
    rows = {
        f"{name} {model}": [number(one["calibration"][key], 3) for key in ("ece", "brier", "aurc")]
        for name, task in whole_run.results()["tasks"].items()
        for model, one in task["scores"].items()
        if one.get("calibration")
    }
    found, task = {}, ""
    for row in page.tables["Calibration"][1:]:
        task = row[0] if len(row) == 1 else task
        if len(row) > 1 and row[0] != "chance":
            found[f"{task} {row[0]}"] = row[3:]
    assert found == rows


def test_every_latency_is_that_of_results_json(whole_run: RunFolder, page: Page) -> None:
    def milliseconds(value: float) -> str:
        return number(value, 0 if value >= 100 else 1 if value >= 10 else 2)

    keys = [f"{part}_ms_p{share}" for part in ("ttft", "tpot") for share in (50, 90, 99)]
    rows = [[milliseconds(row[key]) for key in keys] for row in whole_run.results()["latency"]]
    assert [row[-6:] for row in page.tables["Latency"][2:]] == rows


def test_charts_say_the_numbers_that_they_draw(whole_run: RunFolder, source: str) -> None:
    [said] = re.findall(r'<desc id="accuracy-desc">(.*?)</desc>', source)
    for name, task in whole_run.results()["tasks"].items():
        for model, one in task["scores"].items() if task["metric"] == "acc" else ():
            interval = ends("acc", one["low"], one["high"])
            assert f"{name}, {model}: {shown('acc', one['value'])} ({interval})" in said


def test_what_the_script_reads_is_no_tag(hostile_run: RunFolder) -> None:
    write_reports(hostile_run)
    source = (hostile_run / "report.html").read_text("utf-8")
    found = re.findall(r'<script type="application/json" id="about">(.*?)</script>', source)
    [about] = found
    assert "<" not in about
    assert json.loads(about)["models"] == ["base", "tuned"]
    for part in re.findall(r'<script type="text/plain" class="part">(.*?)</script>', source):
        assert re.fullmatch(r"[A-Za-z0-9+/=]+", part)


def test_the_example_report_is_whole_and_names_no_machine() -> None:
    folder = Path(__file__).parents[2] / "docs/example-report"
    source, text = ((folder / f"report.{form}").read_text("utf-8") for form in ("html", "md"))
    [css] = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    [js] = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    assert f"'sha256-{source_hash(css)}'" in source
    assert f"'sha256-{source_hash(js)}'" in source
    pictures = re.findall(r"\((figures/\w+\.svg)\)", text)
    assert pictures
    assert sorted(pictures) == sorted(f"figures/{p.name}" for p in folder.glob("figures/*"))
    report = json.loads((folder / "report.json").read_text("utf-8"))
    for sentence in report["headlines"]:
        assert sentence in source
    checkout = str(Path(__file__).parents[2])
    for private in ("/home/", "/root/", "/tmp/", checkout):
        assert private not in source + text
