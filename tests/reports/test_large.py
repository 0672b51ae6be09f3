"""A run of 100,000 samples: texts are read of what is shown, once, in pieces; nothing else is."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.harness.comparing.comparison import compare_sides
from medbench.harness.folder import samples as table_of
from medbench.harness.folder.samples import PIECE, gather, identified, numbers, of_model, whole
from medbench.harness.folder.store import RunFolder
from medbench.harness.predictions.load import load_side, numbers_of
from medbench.reports import Report
from medbench.reports.questions import MOST, choose

TEXTS = {"prompt", "question", "options", "target", "prediction", "option_scores", "output"}
ROWS = 20_000
"""In a row group of the made-up file."""


@pytest.fixture(scope="module")
def large(whole_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The made-up run with every question many times over, each time as another question."""
    run = RunFolder(tmp_path_factory.mktemp("large") / "run")
    shutil.copytree(whole_run.path, run.path)
    table = whole_run.samples()
    parts = []
    for copy in range(100_000 // len(table) + 5):
        parts.append(table.assign(doc_id=table["doc_id"] + 10_000 * copy))
        parts[-1]["cluster"] = f"{copy} " + table["cluster"]
        parts[-1]["doc_hash"] = f"{copy % 16:x}{copy // 16:x}" + table["doc_hash"].str[2:]
    rows = pd.concat(parts).sort_values("model", kind="stable")
    rows.to_parquet(run / "samples.parquet", index=False, row_group_size=ROWS)
    return run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each column of texts is read from a row group, and that never at once."""
    found: Counter[str] = Counter()
    frame = pd.read_parquet
    pieces, read = pq.ParquetFile.iter_batches, pq.ParquetFile.read

    def in_pieces(file: Any, size: int, groups: list[int], columns: Any) -> Any:
        assert size <= PIECE
        for name in TEXTS & set(columns):
            found[name] += len(groups)
        return pieces(file, size, groups, columns)

    def at_once(file: Any, columns: Any = None) -> Any:
        assert columns is not None
        assert not TEXTS & set(columns)
        return read(file, columns)

    def small(path: Path, **options: Any) -> pd.DataFrame:
        assert path.name != "samples.parquet"
        return frame(path, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", in_pieces)
    monkeypatch.setattr(pq.ParquetFile, "read", at_once)
    monkeypatch.setattr(pd, "read_parquet", small)
    return found


def groups_of(run: RunFolder) -> int:
    return int(pq.ParquetFile(run / "samples.parquet").metadata.num_row_groups)


def test_a_report_reads_the_texts_of_what_it_shows_in_one_pass(
    large: RunFolder, reads: Counter[str]
) -> None:
    report = Report.read(large)
    found = reads.copy()
    assert report.questions is not None
    rows = numbers(large)
    assert len(rows) > 100_000
    shown = sum(one is not None for row in report.questions.rows for one in row[6])
    assert shown <= MOST
    assert report.questions.total == len(rows) // 2
    assert found["prompt"] == 0
    # Words tell the same question in two tasks, so these two are gone through once more.
    data = {task.source for task in report.tasks if task.scores}
    passes = 1 + (len(data) < len(report.tasks))
    for name in ("options", "option_scores"):
        assert found[name] == groups_of(large)
    for name in ("question", "target"):
        assert found[name] == passes * groups_of(large)
    for name in ("prediction", "output"):  # once more to mark which rows have any
        assert found[name] == 2 * groups_of(large)


def test_numbers_hold_no_text(large: RunFolder) -> None:
    table = numbers(large)
    names = [name for name, kind in table.dtypes.items() if isinstance(kind, pd.CategoricalDtype)]
    assert {"model", "task", "doc_hash", "cluster", "question", "output"} <= set(names)
    for name in ("question", "prediction", "output"):
        assert list(table[name].cat.categories) == [table_of.THERE]
    held = (column.cat.codes if name in names else column for name, column in table.items())
    assert sum(column.to_numpy().nbytes for column in held) < 60 * len(table)


def test_a_comparison_holds_names_of_questions_and_no_output(
    large: RunFolder, reads: Counter[str]
) -> None:
    base, tuned = numbers_of([f"{large.path}:{name}" for name in ("base", "tuned")])
    groups = groups_of(large)
    for side in (base, tuned):
        assert not {"prompt", "options", "output", "option_scores"} & set(side.samples)
        assert side.samples["question"].str.len().max() <= 21
    assert not {"prompt", "options", "output", "option_scores"} & set(reads)
    assert reads["question"] <= groups + 1, "of its own model each, and of the one row group shared"
    found = compare_sides(base, tuned, flips=2)
    assert all(len(flip.question) > 40 for flip in found.flips)
    assert any(flip.options for flip in found.flips)
    assert any(flip.output_b for flip in found.flips)
    assert reads["output"] <= groups + 1


def test_a_comparison_without_texts_says_what_one_with_them_says(whole_run: RunFolder) -> None:
    names = [f"{whole_run.path}:{name}" for name in ("base", "tuned")]
    (a, b), (c, d) = numbers_of(names), map(load_side, names)
    slim, full = compare_sides(a, b), compare_sides(c, d)
    assert slim.flips == full.flips
    assert (slim.tasks, slim.pooled, slim.warnings) == (full.tasks, full.pooled, full.warnings)


def test_sides_whose_questions_are_known_by_ids_are_read_whole(
    whole_run: RunFolder, tmp_path: Path
) -> None:
    table = of_model(whole_run, "base")
    table = table[table["metric"] == "acc"]
    rows = table[["task", "doc_id", "order", "target", "question", "prediction"]].to_dict("records")
    for row in rows:
        row["prediction"] = row["prediction"] if isinstance(row["prediction"], str) else None
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run, file = numbers_of([f"{whole_run.path}:tuned", str(path)])
    assert run.samples["question"].str.len().max() > 40
    done = CliRunner().invoke(
        app, ["import", str(path), "--out", str(tmp_path / "R"), "--model", "other"]
    )
    assert done.exit_code == 0, done.output
    _, imported = numbers_of([f"{whole_run.path}:tuned", str(tmp_path / "R")])
    assert imported.samples["question"].tolist() == file.samples["question"].tolist()


def test_chosen_rows_are_as_in_the_whole_table(whole_run: RunFolder) -> None:
    table = whole_run.samples(leave_out=["prompt"])
    rows = numbers(whole_run).iloc[[700, 3, 4, 511]]
    found = whole(whole_run, rows)[table.columns]
    expected = table.loc[sorted(rows.index)]
    assert found.index.tolist() == expected.index.tolist()
    for name in table:
        pairs = zip(found[name], expected[name], strict=True)
        assert all(str(a) == str(b) for a, b in pairs), name


def test_texts_are_told_apart_by_their_numbers(whole_run: RunFolder) -> None:
    table = whole_run.samples()
    found = identified(whole_run, numbers(whole_run), ["question"])["question"]
    assert (pd.factorize(found)[0] == pd.factorize(table["question"])[0]).all()
    asked = {table["question"].iloc[5]}
    assert (table_of.matching(whole_run, "question", asked) == table["question"].isin(asked)).all()


def test_few_questions_are_chosen_blindly_and_with_all_their_answers(large: RunFolder) -> None:
    table = numbers(large)
    rows, total = choose(table, 1000)
    assert total == len(table) // 2
    assert 900 < len(rows) <= 1000
    asked = ["task", "cluster"]
    assert set(rows.groupby([*asked, "order"], observed=True)["model"].nunique()) == {2}
    whole_ones = table.groupby(asked, observed=True).size().reindex(
        pd.MultiIndex.from_frame(rows[asked].drop_duplicates())
    )  # fmt: skip
    assert whole_ones.sum() == len(rows), "in every order"
    hashes = [
        part.loc[part["order"] == 0, "doc_hash"].astype(str)
        for part in (rows, table[~table.index.isin(rows.index)])
    ]
    assert hashes[0].max() <= hashes[1].min()


def test_parts_become_one_table_whatever_is_null_in_them(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    tables = [
        pd.DataFrame({"n": range(70_000), "text": None, "tokens": None, "list": [[]] * 70_000}),
        pd.DataFrame({"n": [1], "text": ["a"], "tokens": [3.0], "list": [["x", "y"]]}),
        pd.DataFrame({"n": [2], "tokens": [4.0], "list": [[]]}),
    ]
    for place, table in enumerate(tables):
        run.write_table(f"{place}.parquet", table)
    gather(run, [f"{place}.parquet" for place in range(3)], "all.parquet")
    found = run.table("all.parquet")
    assert found["n"].tolist() == [*range(70_000), 1, 2]
    assert found["text"].iloc[-2:].tolist()[0] == "a"
    assert found["text"].isna().sum() == 70_001
    assert found["tokens"].iloc[-2:].tolist() == [3.0, 4.0]
    assert list(found["list"].iloc[-2]) == ["x", "y"]
    assert pq.ParquetFile(tmp_path / "all.parquet").metadata.num_row_groups == 2
