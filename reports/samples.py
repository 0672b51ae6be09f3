"""Questions side by side: where the tuned model gained, where it lost, where both failed.

The choice is bounded and blind: within a kind the questions with the smallest document hash are
shown, which nobody picked and which does not change with the number of questions asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Picked:
    """What is to be shown of a task, its texts not yet read.

    Attributes:
        kinds: Name, number of questions, and of each question shown the places of its rows in the
            samples table, one a model.
    """

    task: str
    models: tuple[str, ...]
    n: int
    counts: tuple[tuple[str, int], ...]
    kinds: tuple[tuple[str, int, tuple[tuple[int, ...], ...]], ...]

    @property
    def places(self) -> set[int]:
        """Of all rows that are shown."""
        return {place for *_, shown in self.kinds for rows in shown for place in rows}


Row = dict[str, Any]
Test = tuple[str, "pd.Series[bool]"]
"""The name of a kind, and whether a question is of it."""


def side_by_side(picked: Picked, rows: pd.DataFrame) -> SideBySide:
    """*picked* with its texts.

    Args:
        picked: What is shown.
        rows: Its rows at least, whole; their index is their place in the samples table.
    """
    kinds = tuple(
        Kind(name, total, tuple(_shown(rows, places, picked.models) for places in shown))
        for name, total, shown in picked.kinds
    )
    return SideBySide(picked.task, picked.models, picked.n, picked.counts, kinds)


def pick(
    table: pd.DataFrame, task: str, models: tuple[str, ...], limit: int
) -> Picked | None:  # fmt: skip
    """The questions of *task* that all of *models* answered; None when there are none.

    Of a question that was asked under several orders of its options, the published one counts.

    Args:
        table: The samples table; of texts it need only say which are there.
        models: One model, or base and tuned.
        limit: Questions shown of each kind; those whose texts were taken out count, unshown.
    """
    asked = (table["task"] == task) & (table["order"] == 0) & table["model"].isin(models)
    slim = _slim(table.loc[asked, list(_NEEDED)])
    sides = [slim[slim["model"] == name].set_index("doc_hash") for name in models]
    shared = sides[0].index
    for side in sides[1:]:
        shared = shared.intersection(side.index)
    if shared.empty:
        return None
    sides = [side.loc[shared.sort_values()] for side in sides]
    marks = [side["score"] == 1 for side in sides]
    readable = pd.concat([side["readable"] for side in sides], axis=1).any(axis=1)
    kinds = []
    for name, found in _tests(models, marks, [side["unparsed"].astype(bool) for side in sides]):
        keys = found.index[found & readable][:limit]
        shown = tuple(tuple(int(side.loc[key, "place"]) for side in sides) for key in keys)
        kinds.append((name, int(found.sum()), shown))
    return Picked(task, models, len(shared), _counts(models, marks), tuple(kinds))


_READ = ("question", "prediction", "output")
_NEEDED = ("model", "doc_hash", "score", "unparsed", *_READ)


def _slim(table: pd.DataFrame) -> pd.DataFrame:
    """What kinds depend on, without the texts; ``place`` is the row's label in *table*."""
    return pd.DataFrame({
        "model": table["model"],
        "doc_hash": table["doc_hash"].astype(str),
        "score": table["score"],
        "unparsed": table["unparsed"],
        "readable": table[list(_READ)].notna().any(axis=1),
        "place": table.index,
    }).drop_duplicates(["model", "doc_hash"], keep="last")  # fmt: skip


def _shown(rows: pd.DataFrame, places: Sequence[int], models: tuple[str, ...]) -> Sample:
    sides = [{str(name): value for name, value in rows.loc[place].items()} for place in places]
    return _sample(sides, models)


def _tests(
    models: tuple[str, ...], marks: list[pd.Series[bool]], unparsed: list[pd.Series[bool]]
) -> list[Test]:
    unread = ("no answer could be read", pd.concat(unparsed, axis=1).any(axis=1))
    if len(models) == 1:
        return [(f"{models[0]} wrong", ~marks[0]), (f"{models[0]} right", marks[0]), unread]
    (base, tuned), (first, second) = models, marks
    return [
        (f"{base} wrong → {tuned} right", ~first & second),
        (f"{base} right → {tuned} wrong", first & ~second),
        ("both wrong", ~first & ~second),
        unread,
    ]


def _counts(
    models: tuple[str, ...], marks: list[pd.Series[bool]]
) -> tuple[tuple[str, int], ...]:  # fmt: skip
    if len(models) == 1:
        return (("right", int(marks[0].sum())), ("wrong", int((~marks[0]).sum())))
    first, second = marks
    return (
        ("both right", int((first & second).sum())),
        (f"only {models[1]} right", int((~first & second).sum())),
        (f"only {models[0]} right", int((first & ~second).sum())),
        ("both wrong", int((~first & ~second).sum())),
    )


def _right(row: Row) -> bool:
    return bool(row["score"] == 1)


def _sample(sides: Sequence[Row], models: tuple[str, ...]) -> Sample:
    first = sides[0]
    texts = _strings(first["options"])
    target = clean(_text(first["target"]))
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
    return Sample(int(first["doc_id"]), clean(_text(first["question"])), target, options, answers)


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
