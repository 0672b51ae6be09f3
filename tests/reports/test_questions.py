"""The rows of the sample browser: what they hold, and how they are packed."""

import base64
import gzip
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medbench.harness.folder.store import RunFolder
from medbench.reports import Report
from medbench.reports.questions import PART, Questions, packed, read_questions


@pytest.fixture(scope="module")
def questions(whole_run: RunFolder) -> Questions:
    found = Report.read(whole_run).questions
    assert found is not None
    return found


def unpacked(parts: tuple[str, ...]) -> list[Any]:
    return [row for part in parts for row in json.loads(gzip.decompress(base64.b64decode(part)))]


def test_every_question_is_a_row_for_each_order(questions: Questions, whole_run: RunFolder) -> None:
    table = whole_run.samples()
    assert len(questions.rows) == table.groupby(["task", "doc_id", "order"]).ngroups
    published = table[table["order"] == 0].groupby(["task", "doc_id"]).ngroups
    assert [row[8] for row in questions.rows].count(0) == published
    assert questions.orders == 4
    assert questions.models == ("base", "tuned")
    assert questions.couples == ((0, 1),)


def test_a_row_says_what_the_samples_say(questions: Questions, whole_run: RunFolder) -> None:
    table = whole_run.samples()
    rows = {(row["task"], row["doc_id"], row["model"]): row for row in table.to_dict("records")}
    predicted = table.groupby(["model", "task", "cluster"])["prediction"].agg(set)
    for task, number, key, question, options, target, answers, subject, order in questions.rows[
        ::17
    ]:
        for model, one in zip(questions.models, answers, strict=True):
            row = rows[questions.tasks[task], number, model]
            right, value, prediction, reasoning, output, tokens, problem, truncated, *rest = one
            scores, moved = rest
            assert row["doc_hash"].startswith(key)
            assert row["question"] == question
            assert row["order"] == order
            named = row["subject"] if isinstance(row["subject"], str) else None
            assert named == (None if subject is None else questions.subjects[subject])
            if row["metric"] == "acc":
                several = predicted[model, row["task"], row["cluster"]]
                assert moved == (len(several) > 1)
            assert list(row["options"]) == options
            assert (options[target] if options else target) == row["target"]
            if row["metric"] == "acc":
                assert right == row["score"]
                said = options[prediction] if options else prediction
                assert said == (row["prediction"] if isinstance(row["prediction"], str) else None)
            else:
                assert right is None
                assert value == pytest.approx(row["score"] / row["weight"], abs=0.0005)
            assert scores == pytest.approx(list(row["option_scores"]), abs=0.005)
            if isinstance(row["output"], str):
                assert reasoning in row["output"]
                assert output in row["output"]
                assert tokens == row["output_tokens"]
            assert bool(problem) == bool(row["unparsed"])
            assert truncated == row["truncated"]


def test_the_same_question_asked_in_two_ways_stands_together(questions: Questions) -> None:
    texts = [row[3] for row in questions.rows]
    changes = sum(a != b for a, b in pairwise(texts))
    assert changes == len(set(texts)) - 1


def test_packing_loses_nothing_and_is_the_same_each_time(questions: Questions) -> None:
    found = packed(questions)
    assert unpacked(found.parts) == json.loads(json.dumps(questions.rows))
    assert found.without_text == 0
    assert packed(questions) == found


def test_what_does_not_fit_keeps_its_marks_and_loses_its_text(whole_run: RunFolder) -> None:
    table = whole_run.samples()
    rows = np.tile(table[table["task"] == "made_up_text"].to_numpy(), (12, 1))
    many = table.iloc[:0].copy()
    many = many.reindex(range(len(rows)))
    many[:] = rows
    many["doc_id"] = np.repeat(np.arange(len(rows) // 2), 2)
    many["question"] = [f"{text} {place // 2}" for place, text in enumerate(many["question"])]
    questions = read_questions(many, [("base", "tuned")])
    assert questions is not None
    assert len(questions.rows) > PART
    whole = packed(questions)
    found = packed(questions, budget=len(whole.parts[0]))
    assert found.without_text == len(questions.rows) - PART
    bare = unpacked(found.parts)
    assert [row[3] for row in bare[PART:]] == [None] * found.without_text
    for row, before in zip(bare, questions.rows, strict=True):
        assert [one[0] for one in row[6]] == [one[0] for one in before[6]]
    assert "".join(map(repr, bare[PART:])).count("ine") == 0, "no option, no answer"


@pytest.fixture
def run(whole_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may change."""
    shutil.copytree(whole_run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_endless_texts_are_cut(run: RunFolder) -> None:
    table = run.samples()
    table["output"] = table["output"] + "x" * 1_000_000
    table = table[(table["task"] == "made_up_open") & (table["doc_id"] < 20)]
    run.write_table("samples.parquet", table)
    questions = Report.read(run).questions
    assert questions is not None
    longest = max(len(one[4]) for row in questions.rows for one in row[6] if one)
    assert longest < 6100
    assert max(map(len, packed(questions).parts)) < 1_000_000


def test_nul_and_marks_of_direction_are_written_out(run: RunFolder) -> None:
    table = run.samples()
    table["question"] = "a\x00b\u202ec"
    run.write_table("samples.parquet", table)
    questions = Report.read(run).questions
    assert questions is not None
    assert {row[3] for row in questions.rows} == {"a\\x00b\\u202ec"}


def test_orders_beside_the_published_one_are_no_questions_of_their_own(
    questions: Questions, whole_run: RunFolder
) -> None:
    place = questions.tasks.index("made_up_letters")
    asked = [row for row in questions.rows if row[0] == place and row[8] == 0]
    assert len(asked) == whole_run.results()["tasks"]["made_up_letters"]["scores"]["base"]["n"]
