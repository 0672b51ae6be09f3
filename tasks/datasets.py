"""The documents of each task, in one shape, as lm-eval's ``custom_dataset`` functions.

A multiple-choice document has ``question``, ``options`` (list), ``gold`` (index of the right one;
``golds`` where several are), ``target`` (the right option's text) and ``subject``; an open one has
``question`` and ``target``. Where a question is asked under several orders of its options, each
order is a document of its own, and ``order`` (how far the options were shifted) and ``cluster``
(which question it is) are added.

Each function takes what lm-eval calls metadata: ``orders``, ``questions`` (the first so many) and
``shots`` (how many few-shot examples will be shown: the split of that name holds so many).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..errors import InputError
from . import integrity, sources
from .clinic import choice_docs, o1_docs
from .forms import FORMS
from .local import LETTERS
from .own import QuestionFile
from .sources import Row
from .splits import is_held_out, normalise

Orders = int | Literal["all"]
"""Under how many cyclic shifts of its options a question is asked."""

Docs = dict[str, Any]
"""Splits: ``{"test": datasets.Dataset, "shots": list}``."""


def clinic_choice(**asking: Any) -> Docs:
    """Four options; all belong to the disease that is asked about."""
    found = [
        {
            "question": row["question"],
            "options": list(row["options"].values()),
            "gold": LETTERS.index(row["answer_idx"]),
            "subject": None,
        }
        for row in choice_docs("test")
    ]
    return _choices(found, **asking)


def clinic_open(**asking: Any) -> Docs:
    """Open questions with one short true answer."""
    docs = ({"question": doc["Question"], "target": doc["answer"]} for doc in o1_docs("test"))
    return _test(docs, **asking)


def clinic_response(**asking: Any) -> Docs:
    """The full reference response to each open question."""
    docs = ({"question": doc["Question"], "target": doc["Response"]} for doc in o1_docs("test"))
    return _test(docs, **asking)


def choices(data: str, context: bool = True, **asking: Any) -> Docs:
    """The questions of data source *data*; without the text that precedes them unless *context*."""
    found = questions(data)
    shown = _shots(data, found, asking.get("shots") or 0)
    if not context:
        found, shown = (
            [{key: row[key] for key in row if key != "context"} for row in part]
            for part in (found, shown)
        )
    return _choices(found, **asking) | {"shots": [_document(row) for row in shown]}


def own_choices(mapping: dict[str, Any], **asking: Any) -> Docs:
    """The questions of a file of your own, described by *mapping* (own.QuestionFile)."""
    file = QuestionFile.model_validate(mapping)
    found = file.questions()
    count = asking.get("shots") or 0
    shown = []
    if count:
        if file.shots is None:
            raise InputError(
                f"{file.file}: no few-shot examples; name another file as shots, or ask 0-shot"
            )
        shown = _apart(file.questions(file.shots), found)[:count]
    return _choices(found, **asking) | {"shots": [_document(row) for row in shown]}


def held_out(data: str, target: str, question: str = "Question", **asking: Any) -> Docs:
    """The held-out tenth of an open data set: the text in column *target* for each *question*."""
    found = sources.table(data)
    docs = []
    for number, row in enumerate(found.rows):
        if not all(isinstance(row.get(key), str) for key in (question, target)):
            raise InputError(
                f"{found.where}, row {number}: expected text in {question} and {target}; "
                f"its columns are: {', '.join(row)}"
            )
        if is_held_out(row[question]):
            docs.append({"question": row[question], "target": row[target]})
    return _test(docs, **asking)


def questions(data: str) -> list[Row]:
    """The questions of data source *data*, in file order, checked (forms.py, integrity.py).

    Raises:
        InputError: A row that is no sound question, with file and row.
    """
    return _checked(data)[0]


def provenance(data: str) -> dict[str, Any]:
    """Exactly which data a task asks: ``sources.provenance``, and ``faults``: known ones, counted.

    Raises:
        InputError: As for ``questions``.
    """
    asked = data in sources.SOURCES and sources.SOURCES[data].form is not None
    return sources.provenance(data) | {"faults": _checked(data)[1] if asked else {}}


def _checked(data: str) -> tuple[list[Row], dict[str, int]]:
    found = sources.table(data)
    made = _formed(data, found)
    return made, integrity.check(made, found.where, expected(sources.SOURCES[data]))


def expected(source: sources.Source) -> integrity.Expected:
    """What integrity.py may rely on in the rows of *source*."""
    indexed = source.form in ("medmcqa", "mmlu")
    return integrity.Expected(source.options, indexed, source.faults)


def _formed(data: str, found: sources.Table) -> list[Row]:
    form = sources.SOURCES[data].form
    if form is None:
        raise InputError(f"data source {data!r}: holds no multiple-choice questions")
    made = []
    for number, row in enumerate(found.rows):
        try:
            made.append(FORMS[form](row))
        except ValueError as error:
            raise InputError(f"{found.where}, row {number}: {error}") from None
    return made


def _shots(data: str, test: list[Row], count: int) -> list[Row]:
    """The first *count* sound questions of the split for examples that are no test questions."""
    if not count:
        return []
    found = sources.shots(data, count)
    shown = _apart(_formed(data, found), test)[:count]
    if len(shown) < count:
        raise InputError(f"{found.where}: expected {count} few-shot examples, found {len(shown)}")
    integrity.check(shown, found.where, integrity.Expected(sources.SOURCES[data].options))
    return shown


def _apart(examples: list[Row], test: list[Row]) -> list[Row]:
    asked = {normalise(row["question"]) for row in test}
    return [row for row in examples if normalise(str(row["question"])) not in asked]


def _document(row: Row) -> Row:
    golds = row.get("golds", [row["gold"]])
    target = "; ".join(row["options"][gold] for gold in golds)
    return {key: value for key, value in row.items() if key != "answer"} | {"target": target}


def _choices(found: list[Row], orders: Orders = 1, questions: int | None = None, **_: Any) -> Docs:
    """Each question under its first *orders* cyclic shifts, one after another; all when ``all``."""
    docs = [_document(row) for row in found[:questions]]
    if orders == 1:
        return _test(docs)
    return _test(
        _shifted(doc, shift) | {"order": shift, "cluster": number}
        for number, doc in enumerate(docs)
        for shift in range(len(doc["options"]))
        if orders == "all" or shift < orders
    )


def _shifted(doc: Row, shift: int) -> Row:
    count = len(doc["options"])
    moved = doc | {
        "options": doc["options"][shift:] + doc["options"][:shift],
        "gold": (doc["gold"] - shift) % count,
    }
    if "golds" in doc:
        moved["golds"] = sorted((gold - shift) % count for gold in doc["golds"])
        moved["gold"] = moved["golds"][0]
    return moved


def _test(docs: Iterable[Row], questions: int | None = None, **_: Any) -> Docs:
    """*docs* as lm-eval's test split; the first so many *questions* when given."""
    import datasets

    found = list(docs)[:questions]
    if not found:
        raise InputError("the task has no question: its data is empty")
    return {"test": datasets.Dataset.from_list(found), "shots": []}
