"""Every pair of a training and a test text that is, or may be, the same question.

Four measures, the plainest first; a pair is named after the first that finds it:

* ``exact``: the same text,
* ``normalised``: the same but for case, width, punctuation and spacing,
* ``8-gram``: half or more of the shorter text's runs of eight words stand in the other,
* ``paraphrase``: paraphrase.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..splits import normalise
from .paraphrase import resembling
from .runs import SHARE, shared_runs

Measure = Literal["exact", "normalised", "8-gram", "paraphrase"]
MEASURES: tuple[Measure, ...] = ("exact", "normalised", "8-gram", "paraphrase")

LISTED = 50
"""Training rows listed for one test row; :attr:`Found.train_rows` has all of them."""


@dataclass(frozen=True)
class Pair:
    """A training row and a test row that may be the same question.

    Attributes:
        train: Row number, from 0.
        eval: Row number, from 0.
        score: 1 for copies; the share of shared runs for ``8-gram``; else paraphrase.py's score.
            Pairs from 0.5 are reported.
        measure: The plainest measure that finds it.
    """

    train: int
    eval: int
    score: float
    measure: Measure


@dataclass(frozen=True)
class Found:
    """What the four measures found.

    Attributes:
        pairs: The surest first; of a test row at most ``LISTED``.
        train_rows: Every training row in any pair, ascending.
        eval_rows: Every test row in any pair, ascending.
        n_train: Training rows with text.
        n_eval: Test rows with text.
    """

    pairs: tuple[Pair, ...]
    train_rows: tuple[int, ...]
    eval_rows: tuple[int, ...]
    n_train: int
    n_eval: int


def find(train: Sequence[str], test: Sequence[str]) -> Found:
    """Compare every text of *train* with every text of *test*. Empty texts match nothing."""
    train_rows, test_rows = _distinct(train), _distinct(test)
    left, right = list(train_rows), list(test_rows)
    scores: dict[tuple[int, int], tuple[float, Measure]] = {}
    for row, column, score in zip(*resembling(left, right), strict=True):
        scores[int(row), int(column)] = float(score), "paraphrase"
    for (row, column), share in shared_runs(left, right).items():
        if share >= SHARE:
            scores[row, column] = share, "8-gram"
    for key, (score, measure) in _copies(left, right).items():
        scores[key] = score, measure
    pairs: list[Pair] = []
    for (row, column), (score, measure) in scores.items():
        found = train_rows[left[row]][:LISTED]
        pairs += [Pair(a, b, score, measure) for b in test_rows[right[column]] for a in found]
    pairs.sort(key=lambda pair: (MEASURES.index(pair.measure), -pair.score, pair.eval, pair.train))
    return Found(
        pairs=_first(pairs),
        train_rows=_rows([train_rows[left[row]] for row, _ in scores]),
        eval_rows=_rows([test_rows[right[column]] for _, column in scores]),
        n_train=sum(map(len, train_rows.values())),
        n_eval=sum(map(len, test_rows.values())),
    )


def _distinct(texts: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each text that has a word."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        if normalise(text):
            rows[text].append(row)
    return rows


def _copies(left: list[str], right: list[str]) -> dict[tuple[int, int], tuple[float, Measure]]:
    by_words: dict[str, list[int]] = defaultdict(list)
    for column, text in enumerate(right):
        by_words[normalise(text)].append(column)
    return {
        (row, column): (1.0, "exact" if text == right[column] else "normalised")
        for row, text in enumerate(left)
        for column in by_words.get(normalise(text), ())
    }


def _first(pairs: list[Pair]) -> tuple[Pair, ...]:
    listed: dict[int, int] = defaultdict(int)
    kept = []
    for pair in pairs:
        listed[pair.eval] += 1
        if listed[pair.eval] <= LISTED:
            kept.append(pair)
    return tuple(kept)


def _rows(groups: list[list[int]]) -> tuple[int, ...]:
    return tuple(sorted({row for group in groups for row in group}))
