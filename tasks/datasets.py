"""The documents of each task, in one shape, as lm-eval's ``custom_dataset`` functions.

A multiple-choice document has ``question``, ``options`` (list), ``gold`` (index) and ``target``
(the right option's text); an open one has ``question`` and ``target``. Where a question is asked
under several orders of its options, each order is a document of its own, and ``order`` (how far
the options were shifted) and ``cluster`` (which question it is) are added.

Each function takes what lm-eval calls metadata: ``orders`` and ``questions`` (the first so many).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..errors import InputError
from .clinic import choice_docs, o1_docs
from .prompts import LETTERS
from .sources import Row, rows
from .splits import is_held_out

Orders = int | Literal["all"]
"""Under how many cyclic shifts of its options a question is asked."""

Docs = dict[str, Any]
"""A test split: ``{"test": datasets.Dataset}``."""


def clinic_choice(**asking: Any) -> Docs:
    """Four options; all belong to the disease that is asked about."""
    return _choices(choice_docs("test"), **asking)


def clinic_open(**asking: Any) -> Docs:
    """Open questions with one short true answer."""
    docs = ({"question": doc["Question"], "target": doc["answer"]} for doc in o1_docs("test"))
    return _test(docs, **asking)


def clinic_response(**asking: Any) -> Docs:
    """The full reference response to each open question."""
    docs = ({"question": doc["Question"], "target": doc["Response"]} for doc in o1_docs("test"))
    return _test(docs, **asking)


def medqa(**asking: Any) -> Docs:
    """MedQA (USMLE), four options: https://github.com/jind11/MedQA."""
    return _choices(rows("medqa_us_4options"), **asking)


def medical_o1_response(**asking: Any) -> Docs:
    """The held-out tenth of medical-o1 (en): the reference response to each question."""
    docs = []
    for number, row in enumerate(rows("medical_o1_en")):
        if not all(isinstance(row.get(key), str) for key in ("Question", "Response")):
            raise InputError(
                f"medical_o1_en, row {number}: expected text in Question and Response; "
                f"its columns are: {', '.join(row)}"
            )
        if is_held_out(row["Question"]):
            docs.append({"question": row["Question"], "target": row["Response"]})
    return _test(docs, **asking)


def _choices(found: list[Row], orders: Orders = 1, questions: int | None = None, **_: Any) -> Docs:
    """Each question under its first *orders* cyclic shifts, one after another; all when ``all``."""
    docs = [_choice(row, number) for number, row in enumerate(found[:questions])]
    if orders == 1:
        return _test(docs)
    return _test(
        doc
        | {
            "options": doc["options"][shift:] + doc["options"][:shift],
            "gold": (doc["gold"] - shift) % len(doc["options"]),
            "order": shift,
            "cluster": number,
        }
        for number, doc in enumerate(docs)
        for shift in range(len(doc["options"]))
        if orders == "all" or shift < orders
    )


def _test(docs: Iterable[Row], questions: int | None = None, **_: Any) -> Docs:
    """*docs* as lm-eval's test split; the first so many *questions* when given."""
    import datasets

    found = list(docs)[:questions]
    if not found:
        raise InputError("the task has no question: its data is empty")
    return {"test": datasets.Dataset.from_list(found)}


def _choice(row: Row, number: int) -> Row:
    """A row with MedQA's columns, checked.

    Raises:
        InputError: The row has no question, no options A, B, … that differ, or no right one.
    """
    question, options, letter = (row.get(key) for key in ("question", "options", "answer_idx"))
    if isinstance(options, dict):
        options = {key: text for key, text in options.items() if text is not None}
    if (
        not (isinstance(question, str) and question.strip())
        or not isinstance(options, dict)
        or list(options) != list(LETTERS[: len(options)])
        or not all(isinstance(text, str) for text in options.values())
        or len(set(options.values())) < len(options)
        or letter not in options
        or options[letter] != row.get("answer")
    ):
        raise InputError(
            f"multiple-choice row {number}: expected a question, options {{A: …, B: …}} that "
            f"differ, an answer_idx among them and its text as answer; found question "
            f"{str(question)[:60]!r}, options {str(options)[:80]}, answer_idx {letter!r}, "
            f"answer {str(row.get('answer'))[:60]!r}"
        )
    return {
        "question": question,
        "options": list(options.values()),
        "gold": LETTERS.index(str(letter)),
        "target": row["answer"],
    }
