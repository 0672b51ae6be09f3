"""Plain predictions, one record a question → the samples table. Nothing is guessed.

What each key may hold, and how an answer is compared with the target where nobody said whether it
is right, is documented in docs/reference/predictions.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..comparing.identity import UNKNOWN, id_hash, text_hash
from .answers import Answers, grade
from .files import Records
from .reader import Column, Reader, name_of
from .scores import confidence, in_order, read_options, read_scores

COLUMNS = {
    "model": None, "task": None, "doc_id": None, "cluster": None, "order": 0, "doc_hash": None,
    "prompt_hash": None, "target_hash": None, "protocol": UNKNOWN, "metric": "acc", "score": None,
    "weight": 1.0, "prompt": "", "subject": None, "question": "", "options": None, "target": None,
    "prediction": None, "option_scores": None, "confidence": math.nan, "output": None,
    "output_tokens": None, "truncated": False, "unparsed": False, "problem": None,
    "cut": False,
}  # fmt: skip
"""The columns of the samples table, and what stands where a file does not know."""

_LONGEST_ID = 64


def to_samples(records: Records, columns: dict[str, str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The samples table of *records*, without a model's name, and what to know of it.

    Args:
        records: One object a question.
        columns: Which key of theirs holds what, where it has another name.

    Raises:
        InputError: A row is not what it must be; the message names file, row and remedy.
    """
    raw = Reader(records, columns)
    tasks = raw.texts("task", required=True)
    ids = _ids(raw)
    orders = raw.whole("order", 0)
    _once(records, tasks, ids, orders)
    options = [
        read_options(records, index, value) for index, value in enumerate(raw.get("options"))
    ]
    scores = [read_scores(raw, index, value) for index, value in enumerate(raw.get("scores"))]
    answers = Answers(
        tasks=tasks,
        targets=raw.texts("target", required=True),
        predictions=raw.texts("prediction", required=False, present=True),
        options=[
            known or sorted(given or {}) for known, given in zip(options, scores, strict=True)
        ],
        score=_given(raw),
    )
    graded, notes = grade(records, answers)
    option_scores = in_order(raw, graded.options, scores, tasks)
    hashes = _hashes(raw, tasks, ids)
    clusters = raw.get("cluster")
    unparsed = raw.flags("unparsed")
    found = {
        "task": tasks,
        "doc_id": _compact(ids),
        "cluster": [
            hashed if cluster is None else name_of(records, index, "cluster", cluster)
            for index, (cluster, hashed) in enumerate(zip(clusters, hashes, strict=True))
        ],
        "order": orders,
        "doc_hash": hashes,
        "target_hash": [text_hash(target) for target in graded.targets],
        "protocol": [text or UNKNOWN for text in raw.texts("protocol")],
        "score": graded.score,
        "subject": raw.texts("subject"),
        "question": [text or "" for text in raw.texts("question")],
        "options": graded.options,
        "target": graded.targets,
        "prediction": graded.predictions,
        "option_scores": option_scores,
        "confidence": confidence(option_scores, graded.options, graded.predictions),
        "output": [
            text if text is not None or problem is None else answer
            for text, answer, problem in zip(
                raw.texts("output"), answers.predictions, graded.problems, strict=True
            )
        ],
        "truncated": [bool(flag) for flag in raw.flags("truncated")],
        "unparsed": [
            problem is not None if flag is None else flag
            for flag, problem in zip(unparsed, graded.problems, strict=True)
        ],
        "problem": [
            (problem or "unstated") if flag or (flag is None and problem) else None
            for flag, problem in zip(unparsed, graded.problems, strict=True)
        ],
    }
    return frame(found), notes


def frame(found: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A samples table with these columns, the others as :data:`COLUMNS` has them."""
    n = len(found["task"])
    return pd.DataFrame(
        {key: found.get(key, [default] * n) for key, default in COLUMNS.items()}
    ).astype({"score": float, "weight": float})


def _ids(raw: Reader) -> Column:
    return [
        name_of(raw.records, index, "doc_id", value)
        for index, value in enumerate(raw.get("doc_id"))
    ]


def _once(records: Records, tasks: Column, ids: Column, orders: list[int]) -> None:
    """Refuse a question that stands in the file twice."""
    seen: dict[tuple[str, str, int], int] = {}
    for index, key in enumerate(zip(tasks, ids, orders, strict=True)):
        first = seen.setdefault(key, index)
        if first != index:
            records.refuse(
                index,
                f"doc_id {key[1][:40]!r} of task {key[0]!r} stands there already, in "
                f"{records.word} {records.numbers[first]}; keep one of them",
            )


def _compact(ids: Column) -> Column:
    """Ids as the table holds them: numbers where all are, and no long texts (question texts)."""
    numbers = [int(one) if one.isdecimal() and len(one) < 19 else None for one in ids]
    if all(n is not None and str(n) == one for n, one in zip(numbers, ids, strict=True)):
        return numbers
    return [one if len(one) <= _LONGEST_ID else id_hash("", one)[3:15] for one in ids]


def _hashes(raw: Reader, tasks: Column, ids: Column) -> Column:
    """doc_hash where the file has it, in every row; else what stands for it."""
    given = raw.texts("doc_hash")
    if not any(given):
        return [id_hash(task, one) for task, one in zip(tasks, ids, strict=True)]
    for index, value in enumerate(given):
        if not value:
            raw.records.refuse(index, "doc_hash is missing; give it in every row or in none")
    return given


def _given(raw: Reader) -> list[float | None]:
    """The score of each row where it is given as ``score`` or ``correct``."""
    found = raw.numbers("score")
    correct = raw.flags("correct")
    for index, (score, flag) in enumerate(zip(found, correct, strict=True)):
        if score is not None and not 0 <= score <= 1:
            raw.records.refuse(index, f"score is {score:g}; expected 0 (wrong) to 1 (right)")
        if flag is not None:
            if score is not None and score != flag:
                raw.records.refuse(
                    index, f"score is {score:g} and correct {flag}; leave one of the two out"
                )
            found[index] = float(flag)
    return found
