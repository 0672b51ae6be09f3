"""The page, read by a parser: what it may load, what it says, how it is built."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from medbench.harness.store import RunFolder
from medbench.reports import write_reports


class Page(HTMLParser):
    """Collects tags, attributes and text; notices what is left open."""

    VOID = {"meta", "link", "br", "hr", "img", "input"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
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


def test_is_well_formed(page: Page) -> None:
    assert page.open == []


def test_asks_nobody_for_anything(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form")
        assert "style" not in attributes
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "action"):
                assert (value or "").startswith("#")
            elif name != "xmlns":
                assert "//" not in (value or "")


def test_policy_names_the_hash_of_the_only_style(source: str, page: Page) -> None:
    [policy] = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    [css] = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert "unsafe" not in policy
    assert "url(" not in css
    assert "@import" not in css


def test_ids_are_unique_and_links_arrive(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(links) == 7


def test_answer_comes_before_evidence(source: str) -> None:
    marks = ["tuned is better than base", 'id="results"', "made_up_text right than base",
             'id="tasks"', 'id="calibration"', 'id="training"', 'id="latency"', 'id="samples"',
             'id="reproduce"', "medbench run --models base,tuned"]  # fmt: skip
    places = [source.index(mark) for mark in marks]
    assert places == sorted(places)


def test_says_what_it_is_not(source: str) -> None:
    assert "not a medical device" in source


def test_figures_of_results_json_are_on_the_page(whole_run: RunFolder, page: Page) -> None:
    text = " ".join(page.text)
    for task in whole_run.results()["tasks"].values():
        for score in task["scores"].values():
            scaled = 100 * score["value"] if task["metric"] == "acc" else score["value"]
            assert f"{scaled:.{1 if task['metric'] == 'acc' else 3}f}" in text
