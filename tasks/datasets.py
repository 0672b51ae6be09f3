"""The documents of each task, in one shape, as lm-eval's ``custom_dataset`` functions.

A multiple-choice document has ``question``, ``options`` (list), ``gold`` (index) and ``target``
(the right option's text); an open one has ``question`` and ``target``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import InputError
from .clinic import choice_docs, o1_docs
from .prompts import LETTERS
from .sources import Row, rows
from .splits import is_held_out


def clinic_choice(**_: Any) -> dict[str, Any]:
    """Four options; all belong to the disease that is asked about."""
    return _test(_choice(doc) for doc in choice_docs("test"))


def clinic_open(**_: Any) -> dict[str, Any]:
    """Open questions with one short true answer."""
    return _test({"question": d["Question"], "target": d["answer"]} for d in o1_docs("test"))


def clinic_response(**_: Any) -> dict[str, Any]:
    """The full reference response to each open question."""
    return _test({"question": d["Question"], "target": d["Response"]} for d in o1_docs("test"))


def medqa(**_: Any) -> dict[str, Any]:
    """MedQA (USMLE), four options: https://github.com/jind11/MedQA."""
    return _test(_choice(row) for row in rows("medqa_us_4options"))


def medical_o1_response(**_: Any) -> dict[str, Any]:
    """The held-out tenth of medical-o1 (en): the reference response to each question."""
    return _test(
        {"question": row["Question"], "target": row["Response"]}
        for row in rows("medical_o1_en")
        if is_held_out(row["Question"])
    )


def _choice(row: Row) -> Row:
    """A row with MedQA's columns, checked."""
    options = {key: text for key, text in row["options"].items() if text is not None}
    letter = row["answer_idx"]
    if list(options) != list(LETTERS[: len(options)]) or options.get(letter) != row["answer"]:
        raise InputError(
            f"question {row['question'][:60]!r}: expected options A, B, … and an answer_idx that "
            f"names the answer; found options {list(options)}, answer_idx {letter!r}, "
            f"answer {row['answer']!r}"
        )
    return {
        "question": row["question"],
        "options": list(options.values()),
        "gold": LETTERS.index(letter),
        "target": row["answer"],
    }


def _test(docs: Iterable[Row]) -> dict[str, Any]:
    import datasets

    return {"test": datasets.Dataset.from_list(list(docs))}
