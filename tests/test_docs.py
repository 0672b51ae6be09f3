"""The documentation names what is there: pages, headings, files, and options of the program."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from medbench.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    if "example-report" not in path.parts
)
FENCE = re.compile(r"^```.*?^```", re.S | re.M)
FILE = re.compile(r"(?<![\w/.-])(?:harness|tasks|reports|finetune|commands|benchmarks|tests|docs)/"
                  r"[\w/.-]+\.(?:py|md|yaml|html)\b")  # fmt: skip


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=named)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_files_that_are_named_are_there(page: Path) -> None:
    for path in FILE.findall(page.read_text("utf-8")):
        assert (ROOT / path).exists(), path


def commands(page: Path) -> Iterator[tuple[list[str], str]]:
    """(the verb, with its sub-verb where it has one; the rest) of each line that calls medbench."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for called in re.findall(r"\bmedbench ([a-z]+(?: [a-z]+)?)([^`\n|#]*)", text):
        yield called[0].split(), called[1]


def test_options_that_are_shown_exist(page: Path) -> None:
    program = typer.main.get_command(app)
    verbs = program.commands  # type: ignore[attr-defined]
    for (verb, *sub), rest in commands(page):
        if verb not in verbs:
            continue
        command = verbs[verb]
        if sub and sub[0] in getattr(command, "commands", {}):
            command = command.commands[sub[0]]
        known = {name for given in command.params for name in given.opts + given.secondary_opts}
        shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))
        assert shown <= known | {"--help"}, f"medbench {verb}{rest}"


def test_there_are_pages_with_links_and_commands() -> None:
    assert len(PAGES) > 20
    assert sum(len(list(commands(page))) for page in PAGES) > 50
