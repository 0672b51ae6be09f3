"""Text from models and data sets that tries to be more than text."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt
from rich.console import Console

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report, print_summary, write_reports
from medbench.reports.figures.charts import draw
from medbench.reports.markdown import block, escape


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags_of_markdown(source: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Tags(reader.render(source)).found


def unseen(text: str) -> set[str]:
    return {
        c for c in text if (ord(c) < 32 and c not in "\n\t") or c in "\x7f\x9b\u202e\u2066\u200f"
    }


def test_html_is_inert(hostile_run: RunFolder) -> None:
    write_reports(hostile_run)
    source = (hostile_run / "report.html").read_text("utf-8")
    assert "script ran" in source, "the text itself is shown"
    found = Tags(source).found
    scripts = [attributes.get("type") for tag, attributes in found if tag == "script"]
    assert [kind for kind in scripts if kind not in ("application/json", "text/plain")] == [None]
    for tag, attributes in found:
        assert tag not in ("img", "iframe")
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "49" not in source.partition("{{ 7 * 7 }}")[2][:20]
    assert unseen(source) == set()


def test_markdown_is_inert(hostile_run: RunFolder, whole_run: RunFolder) -> None:
    write_reports(hostile_run)
    write_reports(whole_run)
    harmless = (whole_run / "report.md").read_text("utf-8")
    sections = len(re.findall("^## ", harmless, re.MULTILINE))
    source = (hostile_run / "report.md").read_text("utf-8")
    found = tags_of_markdown(source)
    ours = {
        "h1", "h2", "h3", "p", "strong", "em", "ul", "li", "blockquote", "img", "pre", "details",
        "summary", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert {tag for tag, _ in found} <= ours
    pictures = [attributes["src"] for tag, attributes in found if tag == "img"]
    drawn = [chart.name for chart in draw(Report.read(whole_run))]
    assert pictures == [f"figures/{name}.svg" for name in drawn]
    assert [tag for tag, _ in found].count("h1") == 1
    assert [tag for tag, _ in found].count("h2") == sections
    assert unseen(source) == set()


def test_markdown_has_the_same_shape_as_of_harmless_text(
    hostile_run: RunFolder, whole_run: RunFolder
) -> None:
    def shape(run: RunFolder) -> list[int]:
        write_reports(run)
        found = tags_of_markdown((run / "report.md").read_text("utf-8"))
        tags = [tag for tag, _ in found]
        return [tags.count(tag) for tag in ("h2", "h3", "pre", "details", "summary")]

    assert shape(hostile_run) == shape(whole_run)


def test_terminal_is_inert(hostile_run: RunFolder) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    print_summary(Report.read(hostile_run), console)
    text = out.getvalue()
    assert "[bold red]rich markup[/bold red]" in text
    # rich itself may write style codes; none of the data's codes are left.
    assert "\x1b[31m" not in text
    assert "\x1b]8" not in text
    assert not unseen(text) - {"\x1b"}
    assert max(len(line) for line in text.splitlines()) <= 80 + 16


def test_each_line_is_one_paragraph_of_text(hostile_text: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    for line in hostile_text.split("\n"):
        tokens = reader.parse(str(escape(line.strip())))
        assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
        kinds = {child.type for token in tokens for child in token.children or []}
        assert kinds <= {"text", "text_special", "softbreak"}, line


def test_nothing_escapes_a_cell() -> None:
    assert "\n" not in escape("a\n\n| b |")
    assert r"\|" in escape("a | b")


def test_blocks_are_wrapped_and_escaped() -> None:
    text = block("x" * 250 + "\n</pre>\n\n  indented")
    assert max(map(len, text.split("\n"))) <= 100
    assert "</pre>" not in text
    assert text.endswith("&lt;/pre&gt;\n\n  indented")


def test_figures_are_inert(hostile_run: RunFolder) -> None:
    write_reports(hostile_run)
    for path in Path(hostile_run / "figures").glob("*.svg"):
        for tag, attributes in Tags(path.read_text("utf-8")).found:
            assert tag not in ("script", "a", "image", "foreignobject")
            assert not [name for name in attributes if name.startswith("on")]
