import contextlib
import io
import json
import re
from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from medbench.harness.gate.result import GateResult, Status, Verdict
from medbench.reports.comparing import github

COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")


def verdict(task: str, status: Status, sentence: str = "It is so.") -> Verdict:
    return Verdict("difference", task, status, -0.02, -0.01, -0.03, -0.01, 1273, None, sentence)


RESULT = GateResult(
    (
        verdict("medqa", "pass"),
        verdict("medmcqa", "inconclusive", "medmcqa: 900 questions would decide."),
        verdict("pubmedqa", "regression", "pubmedqa: worse by 4 points (95 % of them)."),
    ),
    "tuned",
    "main",
    ("task medqa: prompts differ",),
)


# -- annotations ----------------------------------------------------------------------------------


def test_what_did_not_pass_is_annotated_worst_first() -> None:
    assert github.annotate(RESULT) == [
        "::error title=Regression%3A pubmedqa (difference)::"
        "pubmedqa: worse by 4 points (95 %25 of them).",
        "::error title=Inconclusive%3A medmcqa (difference)::medmcqa: 900 questions would decide.",
        "::notice title=medbench gate::task medqa: prompts differ",
    ]


def test_what_is_let_pass_is_no_error() -> None:
    kinds = [line.split(" ")[0] for line in github.annotate(RESULT, "pass")]
    assert kinds == ["::error", "::warning", "::notice"]


@given(
    task=st.text(st.characters(codec=None)),
    words=st.sampled_from(
        ["::add-mask::a", "\n::set-output name=status::pass", "%0A::x::", ",a=b"]
    ),
)
def test_no_name_makes_a_second_command(task: str, words: str) -> None:
    hostile = f"{task}{words}\r\n::stop-commands::x\n##[add-path]x\x85\u2028::error::"
    result = GateResult((verdict(hostile, "regression", hostile),), warnings=(hostile,))
    lines = github.annotate(result)
    assert len(lines) == 2
    for line in lines:
        found = COMMAND.fullmatch(line)
        assert found, line
        assert not re.search("%(?!25|0A|0D|3A|2C)", line), "every percent sign is an escape"


def test_an_escaped_message_is_read_back_as_it_was() -> None:
    """As the runner reads it: %25 last, or `%250A` would become a line break."""
    said = "50 % of a: b, c %0A\nnext"
    found = COMMAND.fullmatch(github.command("error", said, said))
    assert found
    data = found[3].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    assert data == said


def test_printed_names_are_text_to_the_runner() -> None:
    """Between the two lines of commands_stopped the runner executes nothing but its token."""
    tokens = set()
    for _ in range(2):
        out = io.StringIO()
        with contextlib.suppress(RuntimeError), github.commands_stopped(out):
            out.write("::error::from a hostile task")
            raise RuntimeError
        first, middle, last = out.getvalue().splitlines()
        assert middle == "::error::from a hostile task"
        token = first.removeprefix("::stop-commands::")
        assert last == f"::{token}::"
        assert len(token) >= 32
        tokens.add(token)
    assert len(tokens) == 2, "a token that can be guessed stops nothing"


# -- Markdown -------------------------------------------------------------------------------------


def rows_of(source: str) -> list[list[str]]:
    """The body rows of the table, as a Markdown reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    cells = [
        (token.type, tokens[n + 1].content)
        for n, token in enumerate(tokens)
        if token.type in ("tr_open", "td_open")
    ]
    rows: list[list[str]] = []
    for kind, content in cells:
        if kind == "tr_open":
            rows.append([])
        else:
            rows[-1].append(content)
    return rows[1:]


def test_the_summary_has_the_worst_first() -> None:
    source = github.summary(RESULT)
    assert source.startswith("## ❌ Regression\n")
    assert "tuned against main: 1\u00a0regression, 1\u00a0inconclusive, 1\u00a0pass." in source
    rows = rows_of(source)
    assert [row[0:3] for row in rows] == [
        ["❌", "pubmedqa", "difference"],
        ["❔", "medmcqa", "difference"],
        ["✅", "medqa", "difference"],
    ]
    assert rows[0][3] == "1,273"
    assert "task medqa: prompts differ" in source


def test_hostile_names_stay_in_their_cells(hostile_text: str) -> None:
    for line in hostile_text.split("\n"):
        hostile = f"a {line} | b\n| c | d |\n\n# e"
        result = GateResult((verdict(hostile, "pass", hostile),), hostile, hostile, (hostile,))
        source = github.comment(result)
        assert len(rows_of(source)) == 1
        assert len(rows_of(source)[0]) == 5
        shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
        tags = set(re.findall(r"<(\w+)", shown))
        assert tags <= {"h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}, line
        assert shown.count("<h2>") == 1


def test_a_comment_begins_with_the_marker_and_fits() -> None:
    many = tuple(verdict(f"task_{n}", "pass", "long " * 200) for n in range(500))
    source = github.comment(GateResult((*many, verdict("bad", "regression")), "a", "b"))
    assert source.startswith(f"{github.MARKER}\n## ")
    assert len(source) < 65_536
    rows = rows_of(source)
    assert rows[0][1] == "bad", "what failed is not what is left out"
    assert f"{501 - len(rows)}\u00a0verdicts more stand in" in source


def test_a_gate_of_floors_alone_is_against_nothing() -> None:
    assert "\n\ntuned: 1\u00a0pass.\n" in github.summary(
        GateResult((verdict("medqa", "pass"),), "tuned", "")
    )


def test_a_gate_without_verdicts_says_so() -> None:
    assert "no rule applies" in github.summary(GateResult(()))


# -- the files of a runner ------------------------------------------------------------------------


def test_publishing_appends_to_the_runners_files(tmp_path: Path) -> None:
    environ = {"GITHUB_STEP_SUMMARY": str(tmp_path / "s"), "GITHUB_OUTPUT": str(tmp_path / "o")}
    (tmp_path / "s").write_text("before\n")
    out = io.StringIO()
    github.publish(RESULT, "inconclusive", environ, out)
    assert (tmp_path / "s").read_text("utf-8") == f"before\n{github.summary(RESULT)}"
    assert (tmp_path / "o").read_text() == "status=regression\n"
    assert out.getvalue().splitlines() == github.annotate(RESULT)


def test_outside_a_workflow_only_annotations_are_printed() -> None:
    out = io.StringIO()
    github.publish(RESULT, "pass", {}, out)
    assert out.getvalue().count("\n") == 3


# -- benchmark ------------------------------------------------------------------------------------


def test_accuracies_are_benchmarks_where_bigger_is_better() -> None:
    common = {"weight": 1.0, "unparsed": False, "truncated": False, "protocol": "letters"}
    rows = [
        common | {"task": "medqa", "metric": "acc", "score": float(n < 30), "cluster": str(n)}
        for n in range(40)
    ]
    rows += [common | {"task": "open", "metric": "bits_per_byte", "score": 3.0, "cluster": "0"}]
    rows += [common | {"task": "one", "metric": "acc", "score": 1.0, "cluster": "0"}]
    found = json.loads(json.dumps(github.benchmark(pd.DataFrame(rows)), allow_nan=False))
    assert [entry["name"] for entry in found] == ["medqa", "one"]
    medqa = found[0]
    assert (medqa["value"], medqa["unit"], medqa["extra"]) == (75, "% right", "n = 40; letters")
    # Wilson's interval for 30 of 40 is 59.8 to 85.8 %.
    assert medqa["range"] == "± 13.00"
