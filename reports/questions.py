"""Every question with the answers of every model, as rows for the page's sample browser.

The rows are plain JSON values, in the order of the hashes of their questions: nobody picked it, and
a question that was asked by several protocols stands together. ``packed`` compresses them for a
page.

A row is ``[task, doc_id, hash, question, options, target, answers, subject, order]``; task and
subject are places in ``tasks`` and ``subjects`` (null without one), ``question`` is null where its
text is not shown, ``target`` is a place in ``options`` or a text, ``order`` is 0 for the options as
published. ``answers`` has an entry for each model, null where it was not asked: ``[right, value,
prediction, reasoning, output, tokens, problem, truncated, scores, moved]``; ``right`` is 1, 0, or
null where the metric knows no right and wrong (``value`` then has its value); ``prediction`` is
like ``target``; ``scores`` are the options' log-likelihoods in nats; ``moved`` is 1 where the
answer depends on the order of the options.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import gzip
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from .sections.parsing import wording
from .sections.subjects import shown as subject_shown
from .text import LIMIT, clean, split_reasoning

Row = list[Any]

TOTAL = 30_000_000
"""Characters of all texts together, beyond which single ones are cut shorter."""
LIMITS = (LIMIT, 2000, 700, 250)
"""Where a text is cut."""
PART = 2000
"""Questions in one compressed part."""
LEVEL = 4
"""Of compression: a tenth larger than at 6, in half the time."""
MOST = 100_000
"""Answers on the page; of more, those to the questions with the smallest document hashes."""
BUDGET = 12_000_000
"""Characters that all compressed parts have on the page; what does not fit goes without text."""


@dataclass(frozen=True)
class Questions:
    """What the browser shows.

    Attributes:
        subjects: Of the questions, by name.
        orders: How many orders of the options there are.
        couples: Pairs of places in ``models``: base and tuned, or a model and what was made of it.
        cut: Characters at which texts are cut.
        rows: See above.
        total: Rows there would be of the whole run, of which these may be a part.
    """

    tasks: tuple[str, ...]
    models: tuple[str, ...]
    subjects: tuple[str, ...]
    orders: int
    couples: tuple[tuple[int, int], ...]
    cut: int
    rows: tuple[Row, ...]
    total: int

    @property
    def readable(self) -> bool:
        """Whether there is a text to read."""
        return any(row[3] is not None for row in self.rows)


@dataclass(frozen=True)
class Packed:
    """The rows as base64 of gzipped JSON; ``without_text`` of them lost theirs to the budget."""

    parts: tuple[str, ...]
    without_text: int


def choose(samples: pd.DataFrame, most: int = MOST) -> tuple[pd.DataFrame, int]:
    """The rows of the questions that are shown, and how many there are of all, in each order.

    The choice is blind: the smallest hashes of the questions as they were published, all answers to
    one (in every order of its options) or none of them, *most* answers at most.
    """
    total = len(samples[["task", "doc_id", "order"]].drop_duplicates())
    if len(samples) <= most:
        return samples, total
    keys = samples.groupby(["task", "cluster"], sort=False, observed=True).ngroup()
    published = samples.loc[samples["order"] == 0, "doc_hash"]
    hashes = pd.Series(published.array, keys[published.index].array)
    hashes = hashes[~hashes.index.duplicated()].astype(str).sort_values(kind="stable")
    answers = keys.value_counts()[hashes.index].cumsum()
    return samples[keys.isin(answers.index[answers <= most])], total


def read_questions(
    samples: pd.DataFrame, couples: Collection[tuple[str, str]], total: int | None = None
) -> Questions | None:
    """The rows of a samples table as questions, of *total* in the run; None without any."""
    if samples.empty:
        return None
    table = samples[[name for name in ("task", *_Asked._fields) if name in samples]]
    orders = int(table["order"].max()) + 1
    if orders > 1:
        table = table.assign(moved=_moved(samples))
    tasks, models = (tuple(map(str, table[name].unique())) for name in ("task", "model"))
    cut = _cut(table)
    read = _Reader(models, _subjects(table), cut)
    with _uncollected():
        rows = [
            row
            for place, task in enumerate(tasks)
            for row in read.rows(place, table[table["task"] == task])
        ]
    rows.sort(key=lambda row: (_digest(row[3] or row[2]), row[0], row[8]))
    pairs = tuple(
        (models.index(a), models.index(b)) for a, b in couples if a in models and b in models
    )
    shown = tuple(map(clean, tasks)), tuple(map(clean, models))
    whole = len(rows) if total is None else total
    return Questions(*shown, tuple(read.subjects), orders, pairs, cut, tuple(rows), whole)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cycle collector: a third of the time it walks the rows, which have no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def packed(questions: Questions, budget: int = BUDGET) -> Packed:
    """The rows compressed, the first ones with their texts until *budget* characters are full."""
    parts, used, bare = [], 0, 0
    for start in range(0, len(questions.rows), PART):
        rows = questions.rows[start : start + PART]
        part = "" if bare else _pack(rows)
        if bare or used + len(part) > budget:
            part = _pack([_bare(row) for row in rows])
            bare += len(rows)
        used += len(part)
        parts.append(part)
    return Packed(tuple(parts), bare)


def _pack(rows: Sequence[Row]) -> str:
    text = json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # No time stamp: the same run gives the same page.
    return base64.b64encode(gzip.compress(text.encode("utf-8"), LEVEL, mtime=0)).decode("ascii")


def _bare(row: Row) -> Row:
    task, number, key, _, _, _, answers, *rest = row
    kept = [one and [*one[:2], None, "", "", *one[5:8], [], one[9]] for one in answers]
    return [task, number, key, None, [], None, kept, *rest]


def _moved(samples: pd.DataFrame) -> pd.Series[bool]:
    """Whether a model's answer to the question of a row depends on the order of the options."""
    answers = samples.groupby(["model", "task", "cluster"])["prediction"]
    several: pd.Series[bool] = answers.transform("nunique", dropna=False) > 1
    return several & (samples["metric"] == "acc")


def _subjects(table: pd.DataFrame) -> list[str]:
    """Their names, sorted; not those that say nothing."""
    if "subject" not in table:
        return []
    names = map(subject_shown, table["subject"].dropna().unique())
    return sorted({name for name in names if name})


def _cut(table: pd.DataFrame) -> int:
    """The most characters that let all texts together stay within their total."""
    first = table.drop_duplicates(["task", "doc_id"])
    lengths = pd.concat([table["output"].dropna().str.len(), first["question"].dropna().str.len()])
    fitting = (cut for cut in LIMITS if lengths.clip(upper=cut).sum() <= TOTAL)
    return next(fitting, LIMITS[-1])


class _Asked(NamedTuple):
    """What is read of a row of the samples table."""

    model: str
    doc_id: int
    doc_hash: str
    metric: str
    score: float
    weight: float
    question: str | None
    options: Any
    target: Any
    prediction: Any
    option_scores: Any
    output: Any
    output_tokens: float
    truncated: bool
    problem: Any
    subject: Any
    order: int
    moved: Any


class _Reader:
    """Rows of one task after the other; an option that was met before is not cleaned again."""

    def __init__(self, models: Sequence[str], subjects: Sequence[str], cut: int) -> None:
        self.places = {model: place for place, model in enumerate(models)}
        self.subjects = {name: place for place, name in enumerate(subjects)}
        self.cut = cut
        self.known: dict[str, str] = {}

    def rows(self, task: int, table: pd.DataFrame) -> Iterator[Row]:
        found: dict[tuple[int, int], Row] = {}
        for one in map(_Asked._make, zip(*map(_values, _columns(table)), strict=True)):
            key = (one.doc_id, one.order)
            row = found.get(key)
            if row is None:
                row = found[key] = self._question(task, one)
            row[6][self.places[one.model]] = self._answer(one, row[4])
        yield from found.values()

    def _question(self, task: int, one: _Asked) -> Row:
        options = [self._text(option) for option in _list(one.options)]
        question = one.question
        return [
            task,
            int(one.doc_id),
            str(one.doc_hash or "")[:16],
            clean(question, self.cut) if isinstance(question, str) else None,
            options,
            _place(self._text(one.target), options),
            [None] * len(self.places),
            self.subjects.get(subject_shown(one.subject) or ""),
            int(one.order),
        ]

    def _answer(self, one: _Asked, options: list[str]) -> list[Any]:
        binary, output = one.metric == "acc", one.output
        reasoning, visible = split_reasoning(output) if isinstance(output, str) else ("", "")
        scores, tokens = _list(one.option_scores), one.output_tokens
        whole = len(scores) == len(options) and all(map(math.isfinite, scores))
        value = one.score / one.weight if one.weight and not binary else math.nan
        return [
            int(one.score == 1) if binary else None,
            None if math.isnan(value) else round(value, 3),
            _place(self._text(one.prediction), options),
            clean(reasoning, self.cut) if reasoning else "",
            clean(visible, self.cut) if visible else "",
            None if math.isnan(tokens) else int(tokens),
            wording(one.problem) if isinstance(one.problem, str) else None,
            int(one.truncated),
            [round(score, 2) for score in scores] if whole else [],
            int(one.moved is True),
        ]

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            return ""
        text = self.known.get(value)
        if text is None:
            text = self.known[value] = clean(value, self.cut)
        return text


def _columns(table: pd.DataFrame) -> Iterator[pd.Series[Any]]:
    for name in _Asked._fields:
        if name == "output_tokens":
            yield pd.to_numeric(table[name], errors="coerce").astype(float)
        elif name in table:
            yield table[name]
        else:  # of an older run; or `moved`, where there is one order alone
            yield pd.Series(None, index=table.index, dtype=object)


def _values(column: pd.Series[Any]) -> list[Any]:
    # An array of objects first: pandas iterates over Arrow's strings one by one.
    found: list[Any] = column.to_numpy(dtype=object).tolist()
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _list(values: Any) -> list[Any]:
    """Of a list or an array of numpy."""
    if values is None:
        return []
    found: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return found


def _place(text: str, options: list[str]) -> int | str | None:
    """Which option *text* is; the text itself where it is none, null where there is none."""
    return options.index(text) if text in options else text or None
