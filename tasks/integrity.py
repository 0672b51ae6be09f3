"""What can be wrong with a file of questions, found before a model sees one.

Each fault is named with file and row (from 0). Published test sets have a few known faults, which
stay in, since every published figure has them; they are declared in published.py and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import InputError
from .files import Row
from .splits import normalise

SURE = 40
"""Rows from which a missing index 0 shows that answers count from 1: 0.75^40 = 1e-5."""


@dataclass(frozen=True)
class Expected:
    """What is declared of a file.

    Attributes:
        options: How many options every question has; None when their number may differ.
        indexed: The answer is an index, so that it may have been counted from 1.
        faults: How many rows are known to have each kind of fault.
    """

    options: int | None = None
    indexed: bool = False
    faults: Mapping[str, int] | None = None


def check(questions: list[Row], where: str, expected: Expected) -> dict[str, int]:
    """Look at every question; count what is odd but harmless.

    Args:
        questions: As forms.py makes them.
        where: File or Hub data set, for messages.

    Returns:
        Number of rows with each known fault, and of ``repeated question``.

    Raises:
        InputError: The first fault that is not a known one, with file and row.
    """
    counts: Counter[str] = Counter()
    known = expected.faults or {}
    for number, question in enumerate(questions):
        for kind, found in _faults(question, expected):
            counts[kind] += 1
            if counts[kind] > known.get(kind, 0):
                more = f" ({known[kind]} such rows are known)" if kind in known else ""
                raise InputError(f"{where}, row {number}: {kind}: {found}{more}")
    if expected.indexed and len(questions) >= SURE and not any(0 in _golds(q) for q in questions):
        raise InputError(
            f"{where}: answers count from 1: no answer of {len(questions)} rows is 0, though they "
            "were declared to count from 0"
        )
    asked = Counter((q.get("context"), normalise(q["question"])) for q in questions)
    if repeated := sum(count - 1 for count in asked.values()):
        counts["repeated question"] = repeated
    return dict(counts)


def _golds(question: Row) -> list[int]:
    golds: list[int] | None = question.get("golds")
    return [question["gold"]] if golds is None else golds


def _faults(question: Row, expected: Expected) -> Iterator[tuple[str, str]]:
    stem, options = question["question"], question["options"]
    if not isinstance(stem, str) or not stem.strip():
        yield "empty question", f"expected text, found {stem!r}"
        return
    if not isinstance(options, list) or not all(isinstance(text, str) for text in options):
        yield "options", f"expected a list of texts, found {str(options)[:80]}"
        return
    if any(not text.strip() for text in options):
        yield "empty option", f"expected text in each of {options}"
    if len(options) < 2 or (expected.options and len(options) != expected.options):
        wanted = expected.options or "at least 2"
        yield "number of options", f"expected {wanted}, found {len(options)}: {str(options)[:80]}"
        return
    if len({text.strip() for text in options}) < len(options):
        yield "duplicated option", f"expected options that differ, found {str(options)[:160]}"
    golds = _golds(question)
    for gold in golds:
        if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(options):
            hint = "; does the column count from 1?" if gold == len(options) else ""
            yield "right answer", f"expected one of {len(options)} options, found {gold!r}{hint}"
            return
    if not golds or len(set(golds)) < len(golds):
        yield "right answer", f"expected right options that differ, found {golds}"
        return
    answer = question.get("answer")
    if answer is not None and answer != options[golds[0]]:
        yield (
            "right answer",
            f"its letter stands for {options[golds[0]][:60]!r}, its text is {str(answer)[:60]!r}; "
            "were files of 4 and 5 options mixed?",
        )
    for text in (stem, question.get("context") or "", *options):
        if damage := mojibake(text):
            yield "mojibake", f"text was decoded with the wrong encoding near {damage!r}"
            break


def mojibake(text: str) -> str | None:
    """The first place of *text* that was decoded with the wrong encoding; None when all is well.

    U+FFFD, and ftfy's table of sequences that only arise by such a mistake
    (https://ftfy.readthedocs.io/en/latest/heuristic.html).
    """
    from ftfy.badness import BADNESS_RE

    place = text.find("\ufffd")
    if place < 0:
        found = BADNESS_RE.search(text)
        if not found:
            return None
        place = found.start()
    return text[max(0, place - 12) : place + 12]
