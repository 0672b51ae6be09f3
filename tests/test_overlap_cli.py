"""``medbench overlap`` as it is typed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError

ROWS: list[dict[str, Any]] = [
    {"text": None, "n": 1},
    {"text": "A [bold red]glassblower[/] aged 44 | has opaque lenses. Which <b>wave</b> did it?"},
    {"text": "A shepherd with a black eschar on the forearm: which bacillus?"},
]
QUESTIONS: list[dict[str, Any]] = [
    {"stem": "A diver surfaces with joint pain. What formed in the blood?", "x": 1},
    {"stem": "Opaque lenses in a glassblower aged 44: which wave did it?", "x": 2},
]
COLUMNS = ["--train-column", "text", "--eval-column", "stem"]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return str(path)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["overlap", *arguments], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    train, test = write(tmp_path / f"a{suffix}", ROWS), write(tmp_path / f"b{suffix}", QUESTIONS)
    found = json.loads(run(train, test, *COLUMNS, "--format", "json"))
    assert [(pair["train"], pair["eval"]) for pair in found["pairs"]] == [(1, 1)]
    assert 0.5 <= found["pairs"][0]["score"] <= 1
    assert found["train"] == {"rows": 3, "empty": 1}
    assert found["eval_rows"] == [1]
    assert found["estimated_share"]["low"] <= 0.5 <= found["estimated_share"]["high"]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", QUESTIONS)
    shown = run(*files, *COLUMNS)
    assert "[bold red]glassblower[/]" in shown
    markdown = run(*files, *COLUMNS, "--format", "md")
    assert "\\[bold red\\]glassblower\\[/\\] aged 44 \\|" in markdown
    assert "<b>" not in markdown


def test_nothing_found_is_no_promise(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", ROWS[2:]), write(tmp_path / "b.jsonl", QUESTIONS)
    for form in ("terminal", "md", "json"):
        shown = " ".join(run(*files, *COLUMNS, "--format", form).split())
        assert "No overlap found between" in shown
        assert "recall" in shown
    assert json.loads(run(*files, *COLUMNS, "--format", "json"))["pairs"] == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["--train-column", "txt", "--eval-column", "stem"],
            r"a.jsonl: no column 'txt' .*: text, n",
        ),
        (["--train-column", "text", "--eval-column", "q"], r"b.jsonl: no column 'q' .*: stem, x"),
    ],
)
def test_a_missing_column_names_those_there_are(
    tmp_path: Path, columns: list[str], message: str
) -> None:
    files = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", QUESTIONS)
    with pytest.raises(InputError, match=message):
        run(*files, *columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a.jsonl: no row in it"),
        ([{"text": ""}, {"text": None}], r"column 'text' .* is empty in all 2 rows"),
        ([{"text": "a"}, {"text": ["b"]}], "a.jsonl, row 1: text: expected text, found list"),
    ],
)
def test_a_file_without_text_is_refused(
    tmp_path: Path, rows: Sequence[dict[str, Any]], message: str
) -> None:
    files = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", QUESTIONS)
    with pytest.raises(InputError, match=message):
        run(*files, *COLUMNS)
