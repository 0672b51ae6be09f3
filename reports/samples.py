"""Questions side by side: where the tuned model gained, where it lost, where both failed.

The choice is bounded and blind: within a kind the questions with the smallest document hash are
shown, which nobody picked and which does not change with the number of questions asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .formatting import DASH, number
from .text import clean, one_line, split_reasoning


@dataclass(frozen=True)
class Answer:
    """What one model said to one question."""

    model: str
    right: bool
    prediction: str
    reasoning: str
    output: str
    output_tokens: int | None
    truncated: bool
    unparsed: bool

    @property
    def mark(self) -> str:
        state = "right" if self.right else "wrong"
        extra = [word for word in ("unparsed", "truncated") if getattr(self, word)]
        return f"{state} ({', '.join(extra)})" if extra else state


@dataclass(frozen=True)
class Option:
    """One option of a question: its log-likelihood under each model, and each model's share.

    A share is the softmax over the options' log-likelihoods, 0 where none were scored.
    """

    text: str
    is_target: bool
    chosen_by: tuple[str, ...]
    scores: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Sample:
    """One question and the answers of one or two models."""

    doc_id: int
    question: str
    target: str
    options: tuple[Option, ...]
    answers: tuple[Answer, ...]

    @property
    def summary(self) -> str:
        return one_line(self.question)

    @property
    def scored(self) -> bool:
        """Whether the options carry log-likelihoods."""
        return any(score != DASH for option in self.options for score in option.scores)


@dataclass(frozen=True)
class Kind:
    """All questions of one kind, and the few of them that are shown."""

    name: str
    total: int
    shown: tuple[Sample, ...]


@dataclass(frozen=True)
class SideBySide:
    """One task under one model, or under a base and a tuned model."""

    task: str
    models: tuple[str, ...]
    n: int
    counts: tuple[tuple[str, int], ...]
    kinds: tuple[Kind, ...]


Row = dict[str, Any]
Test = Callable[[Sequence[Row]], bool]


def side_by_side(
    table: pd.DataFrame, task: str, models: tuple[str, ...], limit: int
) -> SideBySide | None:
    """The questions of *task* that all of *models* answered; None when there are none.

    Of a question that was asked under several orders of its options, the published one counts.

    Args:
        table: The samples table.
        models: One model, or base and tuned.
        limit: Questions shown of each kind.
    """
    table = table[(table["task"] == task) & (table["order"] == 0)]
    sides = [_by_hash(table[table["model"] == name]) for name in models]
    shared = sorted(set.intersection(*(set(side) for side in sides)))
    if not shared:
        return None
    rows = [[side[key] for side in sides] for key in shared]
    kinds = []
    for name, test in _tests(models):
        found = [row for row in rows if test(row)]
        shown = tuple(_sample(row, models) for row in found[:limit])
        kinds.append(Kind(name, len(found), shown))
    return SideBySide(task, models, len(rows), _counts(models, rows), tuple(kinds))


def _tests(models: tuple[str, ...]) -> list[tuple[str, Test]]:
    unparsed: tuple[str, Test] = (
        "no answer could be read",
        lambda row: any(side["unparsed"] for side in row),
    )
    if len(models) == 1:
        return [
            (f"{models[0]} wrong", lambda row: not _right(row[0])),
            (f"{models[0]} right", lambda row: _right(row[0])),
            unparsed,
        ]
    base, tuned = models
    return [
        (f"{base} wrong → {tuned} right", lambda row: not _right(row[0]) and _right(row[1])),
        (f"{base} right → {tuned} wrong", lambda row: _right(row[0]) and not _right(row[1])),
        ("both wrong", lambda row: not _right(row[0]) and not _right(row[1])),
        unparsed,
    ]


def _counts(models: tuple[str, ...], rows: list[list[Row]]) -> tuple[tuple[str, int], ...]:
    marks = [tuple(_right(side) for side in row) for row in rows]
    if len(models) == 1:
        return (("right", marks.count((True,))), ("wrong", marks.count((False,))))
    return (
        ("both right", marks.count((True, True))),
        (f"only {models[1]} right", marks.count((False, True))),
        (f"only {models[0]} right", marks.count((True, False))),
        ("both wrong", marks.count((False, False))),
    )


def _by_hash(table: pd.DataFrame) -> dict[str, Row]:
    records: Iterable[Any] = table.to_dict("records")
    return {str(record["doc_hash"]): record for record in records}


def _right(row: Row) -> bool:
    return bool(row["score"] == 1)


def _sample(sides: Sequence[Row], models: tuple[str, ...]) -> Sample:
    first = sides[0]
    texts = _strings(first["options"])
    target = clean(str(first["target"]))
    answers = tuple(_answer(name, side) for name, side in zip(models, sides, strict=True))
    scores = [_floats(side["option_scores"], len(texts)) for side in sides]
    shares = [_softmax(values) for values in scores]
    options = tuple(
        Option(
            text=text,
            is_target=text == target,
            chosen_by=tuple(answer.model for answer in answers if answer.prediction == text),
            scores=tuple(number(values[place], 2) for values in scores),
            shares=tuple(values[place] for values in shares),
        )
        for place, text in enumerate(texts)
    )
    return Sample(int(first["doc_id"]), clean(str(first["question"])), target, options, answers)


def _answer(model: str, row: Row) -> Answer:
    output = _text(row["output"])
    reasoning, visible = split_reasoning(output)
    tokens = row["output_tokens"]
    return Answer(
        model=model,
        right=_right(row),
        prediction=clean(_text(row["prediction"])) or DASH,
        reasoning=clean(reasoning),
        output=clean(visible),
        output_tokens=None if pd.isna(tokens) else int(tokens),
        truncated=bool(row["truncated"]),
        unparsed=bool(row["unparsed"]),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _strings(values: Any) -> list[str]:
    return [] if values is None else [clean(str(value)) for value in values]


def _floats(values: Any, length: int) -> list[float]:
    found = [] if values is None else [float(value) for value in values]
    return found if len(found) == length else [math.nan] * length


def _softmax(values: list[float]) -> list[float]:
    if not values or any(math.isnan(value) for value in values):
        return [0.0] * len(values)
    top = max(values)
    if math.isinf(top):
        return [0.0] * len(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / sum(weights) for weight in weights]
