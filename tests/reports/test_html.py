"""The page, read by a parser: what it may load, what it says, how it is built."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import write_reports
from medbench.reports.html import source_hash

DATA = {"application/json", "text/plain"}
"""Types of scripts that no browser runs."""


class Page(HTMLParser):
    """Collects tags, attributes and text; notices what is left open."""

    VOID = {"meta", "link", "br", "hr", "img", "input"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


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
