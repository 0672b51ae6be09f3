"""The page of a hostile run in Chromium: no script, no request, no error, no sideways scrolling."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from medbench.harness.store import RunFolder
from medbench.reports import write_reports

pytestmark = pytest.mark.browser
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


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["whole_run", "hostile_run"])
def test_page(browser: Any, request: pytest.FixtureRequest, kind: str, width: int) -> None:
    run: RunFolder = request.getfixturevalue(kind)
    write_reports(run)
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report.html").resolve().as_uri())
    title = page.title()
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    page.wait_for_timeout(100)
    assert said == []
    assert len(asked) == 1, "the page itself and nothing else"
    assert page.title() == title, "no script ran"
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow == 0
    page.close()
