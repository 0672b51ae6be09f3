"""Local files → rows in the columns of the Hub data set that they stand in for.

Data sets are passed around in several shapes. Which shape a file has is declared by the folder it
lies in (published.py), never guessed from its values: answers that count from 1 look like those
that count from 0 in three rows out of four.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .files import Row, read_cells, read_object, read_rows

Reader = Callable[[Path], list[Row]]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def as_published(path: Path) -> list[Row]:
    """The file has the columns of the Hub data set."""
    return read_rows(path)


def medqa(path: Path) -> list[Row]:
    """MedQA's JSONL; or CSV with the options in columns A, B, … or as JSON in one column."""
    rows = read_rows(path)
    for number, row in enumerate(rows):
        if isinstance(row.get("options"), str):
            try:
                row["options"] = json.loads(row["options"])
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}, row {number}: options: not valid JSON: {error.msg}"
                ) from None
        elif "options" not in row and "A" in row:
            row["options"] = {key: row.pop(key) for key in LETTERS if row.get(key)}
    return rows


def medmcqa_released(path: Path) -> list[Row]:
    """MedMCQA as its authors released it: ``cop`` counts from 1 (from 0 on the Hub)."""
    rows = read_rows(path)
    for number, row in enumerate(rows):
        answer = str(row.get("cop"))
        if answer not in {"1", "2", "3", "4"}:
            raise InputError(
                f"{path}, row {number}: cop: expected 1, 2, 3 or 4 (released files count from 1), "
                f"found {row.get('cop')!r}. A file from the Hub counts from 0: put it in a folder "
                "called medmcqa"
            )
        row["cop"] = int(answer) - 1
    return rows


def mmlu(path: Path) -> list[Row]:
    """MMLU as its authors released it: CSV without a header, the answer's letter last.

    The subject is the file's name: ``anatomy_test.csv``.
    """
    rows = []
    for number, cells in enumerate(read_cells(path)):
        if len(cells) != 6 or cells[5] not in "ABCD":
            raise InputError(
                f"{path}, row {number}: expected a question, four options and a letter A to D; "
                f"found {len(cells)} cells, the last {cells[-1:]!r}"
            )
        rows.append(
            {
                "question": cells[0],
                "subject": path.stem.rpartition("_")[0],
                "choices": cells[1:5],
                "answer": LETTERS.index(cells[5]),
            }
        )
    return rows


def pubmedqa(path: Path) -> list[Row]:
    """PubMedQA-L as released, ``ori_pqal.json``: the rows of ``test_ground_truth.json`` beside it.

    They are the 500 test ids of every fold, in that file's order.
    """
    found, test = read_object(path), read_object(path.parent / "test_ground_truth.json")
    for pmid, answer in test.items():
        if not isinstance(found.get(pmid), dict) or found[pmid].get("final_decision") != answer:
            raise InputError(
                f"{path}: {pmid}: expected the row with the answer {answer!r} that "
                "test_ground_truth.json has for it"
            )
    return [{"pubid": pmid, **found[pmid]} for pmid in test]


def pubmedqa_rest(path: Path) -> list[Row]:
    """The rows of PubMedQA-L that are no test: few-shot examples."""
    test = read_object(path.parent / "test_ground_truth.json")
    return [{"pubid": pmid, **row} for pmid, row in read_object(path).items() if pmid not in test]


def medical_o1(path: Path) -> list[Row]:
    """medical-o1 with its own columns, or as chat rows: ``input``, ``<think>…</think>`` + answer.

    Chat rows that say in ``meta.source`` that they come from elsewhere are left out.
    """
    rows = []
    for number, row in enumerate(read_rows(path)):
        if "input" not in row:
            rows.append(row)
            continue
        if (row.get("meta") or {}).get("source", "medical-o1-reasoning") != "medical-o1-reasoning":
            continue
        thinking, closed, response = str(row.get("output")).partition("</think>")
        if not closed or not thinking.startswith("<think>"):
            raise InputError(
                f"{path}, row {number}: output: expected <think>…</think> and the response"
            )
        rows.append(
            {
                "Question": row["input"],
                "Complex_CoT": thinking.removeprefix("<think>").strip(),
                "Response": response.strip(),
            }
        )
    return rows
