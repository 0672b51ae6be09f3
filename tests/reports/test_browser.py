"""The page in Chromium: nothing is asked for, nothing runs that is not ours, the browser works."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import write_reports
from medbench.reports.history.site import build_site

from .test_site import clone

pytestmark = pytest.mark.browser
MakeRun = Callable[..., RunFolder]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium on PATH (looked for {', '.join(NAMES)})")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Tab:
    """A page, what it said on the console and what it asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.id"))

    def chosen(self) -> str:
        """The text of the question chosen in the list."""
        return self.text("#list [aria-selected=true] bdi")


def opened(browser: Any, path: Path, **options: Any) -> Tab:
    tab = Tab(browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options)))
    tab.page.on("console", lambda message: tab.said.append(message.text))
    tab.page.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.page.on("request", lambda request: tab.asked.append(request.url))
    tab.page.goto(path.resolve().as_uri())
    if path.name == "report.html":
        tab.page.wait_for_selector("#list li")
    return tab


@pytest.fixture
def tab(browser: Any, whole_run: RunFolder) -> Iterator[Tab]:
    write_reports(whole_run)
    found = opened(browser, whole_run / "report.html")
    yield found
    assert found.said == []
    found.page.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["whole_run", "hostile_run"])
def test_page(browser: Any, request: pytest.FixtureRequest, kind: str, width: int) -> None:
    run: RunFolder = request.getfixturevalue(kind)
    write_reports(run)
    tab = opened(browser, run / "report.html", viewport={"width": width, "height": 900})
    title = tab.page.title()
    for _ in range(3):
        tab.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        tab.page.press("#list", "ArrowDown")
    tab.page.wait_for_timeout(100)
    assert tab.said == []
    assert len(tab.asked) == 1, "the page itself and nothing else"
    assert tab.page.title() == title, "no script but ours ran"
    overflow = tab.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow == 0
    tab.page.close()


def test_hostile_text_is_shown_as_text(
    browser: Any, hostile_run: RunFolder, hostile_text: str
) -> None:
    write_reports(hostile_run)
    tab = opened(browser, hostile_run / "report.html")
    tab.page.select_option("#task", label="made_up_open")
    shown = tab.page.locator("#detail").text_content()
    assert "<script>document.title = 'script ran'</script>" in shown
    assert "\\u202egnp.exe" in shown, "marks that reorder text are written out"
    kinds = set(
        tab.page.eval_on_selector_all("#detail *", "all => all.map(one => one.localName)")
    )  # fmt: skip
    assert kinds <= {
        "h3", "h4", "small", "p", "span", "bdi", "div", "details", "summary", "pre", "table",
        "thead", "tbody", "tr", "th", "td", "svg", "rect",
    }  # fmt: skip
    tab.page.close()


def test_every_question_is_there(tab: Tab, whole_run: RunFolder) -> None:
    table = whole_run.samples()
    asked = table[table["model"] == "base"]
    published = asked[asked["order"] == 0]
    assert tab.text("#found").startswith(f"{len(published)} of {len(published)}")
    tab.page.select_option("#order", label="in every order")
    assert tab.text("#found").startswith(f"{len(asked):,} of {len(asked):,}")


@pytest.mark.parametrize(
    ("result", "base", "tuned"),
    [("base wrong → tuned right", 0, 1), ("base right → tuned wrong", 1, 0), ("both wrong", 0, 0)],
)
def test_filters_count_what_the_samples_count(
    tab: Tab, whole_run: RunFolder, result: str, base: int, tuned: int
) -> None:
    table = whole_run.samples()
    asked = table[(table["order"] == 0) & (table["task"] == "made_up_text")]
    scores = asked.pivot_table(index="doc_id", columns="model", values="score")
    n = int(((scores["base"] == base) & (scores["tuned"] == tuned)).sum())
    tab.page.select_option("#task", label="made_up_text")
    tab.page.select_option("#result", label=result)
    assert tab.text("#found").split(" of ")[0] == str(n)
    marks = tab.page.locator("#list li").first.locator(".marks").inner_text()
    assert f"base {'right' if base else 'wrong'}" in marks
    assert f"tuned {'right' if tuned else 'wrong'}" in marks


def test_answers_that_were_not_read_can_be_found(tab: Tab, whole_run: RunFolder) -> None:
    table = whole_run.samples()
    n = table[table["unparsed"] & (table["order"] == 0)].groupby(["task", "doc_id"]).ngroups
    tab.page.select_option("#answer", label="not read")
    assert tab.text("#found").split(" of ")[0] == str(n)
    assert "not read" in tab.text("#detail") or "unclosed" in tab.text("#detail")


def test_questions_of_a_subject_and_of_an_order_can_be_found(
    tab: Tab, whole_run: RunFolder
) -> None:
    table = whole_run.samples()
    asked = table[table["model"] == "base"]
    offered = tab.page.eval_on_selector_all("#subject option", "all => all.map(o => o.label)")
    assert offered == ["all", *sorted(table["subject"].dropna().unique())]
    tab.page.select_option("#subject", label="Neurology")
    neurology = asked[asked["subject"] == "Neurology"]
    assert tab.text("#found").split(" of ")[0] == str((neurology["order"] == 0).sum())
    assert "Neurology" in tab.text("#detail h3")
    tab.page.select_option("#order", label="shifted by 2")
    assert tab.text("#found").split(" of ")[0] == str((neurology["order"] == 2).sum())
    assert "options shifted by 2" in tab.text("#detail h3")


def test_answers_that_depend_on_the_order_can_be_found(tab: Tab, whole_run: RunFolder) -> None:
    table = whole_run.samples()
    letters = table[table["task"] == "made_up_letters"]
    moved = letters.groupby(["cluster", "model"])["prediction"].nunique() > 1
    tab.page.select_option("#answer", label="depends on the options' order")
    assert tab.text("#found").split(" of ")[0] == str(moved.groupby("cluster").any().sum())
    assert "depends on the options' order" in tab.text("#detail")


def test_answers_that_an_export_changes_can_be_found(browser: Any, make_run: MakeRun) -> None:
    run = make_run()
    table, results, manifest = run.samples(), run.results(), run.manifest()
    exported = [
        row | {"model": "tuned@onnx-int4"}
        for row in table[(table["model"] == "tuned") & (table["order"] == 0)].to_dict("records")
    ]
    text = [row for row in exported if row["task"] == "made_up_text"]
    for row in [row for row in text if len(set(row["options"])) == 4][:7]:
        options = list(row["options"])
        row["prediction"] = options[(options.index(row["prediction"]) + 1) % 4]
    run.write_table("samples.parquet", pd.concat([table, pd.DataFrame(exported)]))
    manifest["models"].append("tuned@onnx-int4")
    run.write_json("manifest.json", manifest)
    run.write_json("results.json", results)
    write_reports(run)
    tab = opened(browser, run / "report.html")
    (value,) = tab.page.eval_on_selector_all(
        '#result optgroup[label="tuned → tuned@onnx-int4"] option',
        "all => all.filter((o) => o.label === 'another answer').map((o) => o.value)",
    )
    tab.page.select_option("#result", value=value)
    tab.page.select_option("#task", label="made_up_text")
    assert tab.text("#found").split(" of ")[0] == "7"
    tab.page.close()


def test_filters_without_a_choice_are_not_shown(browser: Any, make_run: MakeRun) -> None:
    run = make_run()
    table = run.samples().query("task == 'made_up_open'")
    run.write_table("samples.parquet", table)
    write_reports(run)
    tab = opened(browser, run / "report.html")
    visible = [tab.page.locator(f"#{name}").is_visible() for name in ("task", "subject", "order")]
    assert visible == [False, False, False]
    assert tab.page.locator("#result").is_visible()
    tab.page.close()


def test_search_finds_words_of_questions_and_answers(tab: Tab) -> None:
    word = tab.page.locator("#detail .prose").inner_text().split()[3]
    tab.page.fill("#find", word.upper())
    shown = tab.page.eval_on_selector_all("#list li bdi", "all => all.map(one => one.textContent)")
    assert shown
    assert all(word.lower() in one.lower() for one in shown)
    tab.page.fill("#find", "no such words at all")
    assert tab.text("#found").startswith("0 of")
    assert tab.page.locator("#detail").inner_text() == ""
    assert tab.page.get_attribute("#list", "aria-activedescendant") is None


def test_a_question_shows_options_shares_answers_and_folded_reasoning(tab: Tab) -> None:
    tab.page.select_option("#task", label="made_up_text")
    assert tab.page.locator("#detail tbody tr").count() == 4
    widths = tab.page.eval_on_selector_all(
        "#detail tbody td:nth-child(2) rect:not(.all)",
        "all => all.map(one => Number(one.getAttribute('width')))",
    )
    assert sum(widths) == pytest.approx(100, abs=0.3)
    assert tab.page.locator("#detail td small", has_text="right answer").count() == 1
    tab.page.select_option("#task", label="made_up_open")
    reasoning = tab.page.locator("#detail details pre").first
    assert not reasoning.is_visible()
    tab.page.locator("#detail summary").first.click()
    assert reasoning.is_visible()
    assert tab.page.locator("#detail .answer").count() == 2


def test_everything_can_be_done_from_the_keyboard(tab: Tab) -> None:
    keys = tab.page.keyboard
    keys.press("/")
    assert tab.focused() == "find"
    keys.type("a patient")
    keys.press("ArrowDown")
    assert tab.focused() == "list"
    first = tab.chosen()
    keys.press("ArrowDown")
    second = tab.chosen()
    assert tab.page.get_attribute("#list", "aria-activedescendant") == "q1"
    assert second in tab.text("#detail")
    keys.press("ArrowUp")
    assert tab.chosen() == first
    keys.press("PageDown")
    assert tab.page.get_attribute("#list", "aria-activedescendant") == "q50"
    assert tab.text("#place").startswith("51–100 of")
    keys.press("End")
    last = int(tab.text("#found").split(" of ")[0]) - 1
    assert tab.page.get_attribute("#list", "aria-activedescendant") == f"q{last}"
    assert tab.page.locator("#after").is_disabled()
    keys.press("Home")
    keys.press("Enter")
    assert tab.focused() == "detail"
    keys.press("Escape")
    assert tab.focused() == "list"
    keys.press("Shift+Tab")
    assert tab.focused() == "answer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_violation(
    browser: Any, whole_run: RunFolder, width: int, scheme: str
) -> None:
    write_reports(whole_run)
    tab = opened(
        browser, whole_run / "report.html",
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True,
    )  # fmt: skip
    tab.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert violations(tab) == []
    tab.page.close()


def test_axe_finds_no_violation_in_a_site(
    browser: Any, whole_run: RunFolder, tmp_path: Path
) -> None:
    runs = [clone(whole_run, tmp_path / f"runs/{day}", day, wrong=20 * day) for day in (1, 2)]
    build_site(runs, tmp_path / "site")
    tab = opened(browser, tmp_path / "site/index.html", bypass_csp=True)
    assert violations(tab) == []
    tab.page.get_by_role("link", name="Scores by run").click()
    assert "regression" in tab.text("main")
    assert violations(tab) == []
    tab.page.go_back()
    tab.page.get_by_role("link", name="base and tuned").first.click()
    tab.page.wait_for_selector("#list li")
    assert "hash" in tab.text("#detail")
    assert violations(tab) == []
    assert tab.said == []
    tab.page.close()


def violations(tab: Tab) -> list[tuple[str, str, list[str]]]:
    """What axe-core objects to: rule, weight, the first elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(tab.page).response["violations"]
    return [
        (one["id"], one["impact"], [node["html"][:160] for node in one["nodes"][:3]])
        for one in found
    ]


def test_of_a_printed_page_the_evidence_is_left(tab: Tab) -> None:
    tab.page.emulate_media(media="print")
    for hidden in ("nav", "#filters", "#list"):
        assert not tab.page.locator(hidden).is_visible()
    for shown in ("h1", "#results", "#detail", "#reproduce"):
        assert tab.page.locator(shown).is_visible()
