"""A measure that sees through rewording: rare words and numbers shared beyond what is usual.

Exam items that were rewritten share few runs of words, but they keep the rare ones: the drug, the
finding, the age. Each pair gets four figures, all symmetric:

* ``cosine``: of TF-IDF vectors of content words (each counted once; words that stand in more than a
  tenth of the texts left out; document frequencies from the two corpora themselves),
* ``evidence``: ln(1 + how many rare words are shared, each by its squared relative IDF), so that
  two short questions on one topic are not taken for one question,
* ``numbers``: (shared − missing) / (n + 1) over the n numbers of the text with fewer; 0 when it has
  none,
* ``crowd``: the mean cosine of the ten next best partners of either text, summed: what is as
  similar to everything of its kind is no copy. After cross-domain similarity local scaling
  (Conneau et al. 2018, arXiv:1710.04087). It is no mutual-best rule: each of several rewritings of
  one question is found.

A logistic model of the four gives the score; 0.5 is the threshold. Weights and figures:
benchmarks/overlap_calibration.py derives them, docs/reference/overlap.md describes the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from .words import content, numbers

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FLOOR = 0.1
"""Pairs of a smaller cosine are not looked at; none of them reaches the threshold."""
CROWD = 10
COMMON = 0.1
"""Share of the texts above which a word is too common to tell questions apart."""
FEW = 50
"""A word in at most so many texts is never too common."""
BLOCK = 1000
"""Rows of one product; bounds the memory."""

WEIGHTS = {"cosine": 29.75, "evidence": 1.95, "numbers": 3.91, "crowd": -24.1}
INTERCEPT = -9.67
"""Includes the threshold: the score is 0.5 where a pair begins to be reported."""


def resembling(a: Sequence[str], b: Sequence[str]) -> tuple[Ints, Ints, Floats]:
    """Pairs of texts whose score is at least 0.5.

    Args:
        a, b: Texts, each side without repeats (a text repeated ten times would be its own crowd).

    Returns:
        Row in *a*, row in *b*, score; in the order of *a*, then *b*.
    """
    rows, columns, figures = features(a, b)
    scores = 1 / (1 + np.exp(-(figures @ np.array(list(WEIGHTS.values())) + INTERCEPT)))
    found = scores >= 0.5
    return rows[found], columns[found], scores[found]


def features(a: Sequence[str], b: Sequence[str]) -> tuple[Ints, Ints, Floats]:
    """Every pair that may be a paraphrase, with its four figures in the order of WEIGHTS.

    Numbers are compared only where the other three leave the outcome open.
    """
    rows, columns, cosine, shared = _similar(a, b)
    crowd = _crowd(rows, columns, cosine, len(a)) + _crowd(columns, rows, cosine, len(b))
    figures = np.stack([cosine, np.log1p(shared), np.ones_like(cosine), crowd], axis=1)
    at_best = figures @ np.array(list(WEIGHTS.values())) + INTERCEPT
    open_ = np.flatnonzero(at_best >= 0)
    rows, columns, figures = rows[open_], columns[open_], figures[open_]
    in_a = {row: numbers(a[row]) for row in np.unique(rows)}
    in_b = {column: numbers(b[column]) for column in np.unique(columns)}
    figures[:, 2] = [
        _agreement(in_a[row], in_b[column]) for row, column in zip(rows, columns, strict=True)
    ]
    return rows, columns, figures


def _agreement(one: set[str], other: set[str]) -> float:
    n = min(len(one), len(other))
    return (2 * len(one & other) - n) / (n + 1) if n else 0.0


def _similar(a: Sequence[str], b: Sequence[str]) -> tuple[Ints, Ints, Floats, Floats]:
    """Pairs of a cosine of FLOOR or more: rows, columns, cosine, shared squared relative IDF."""
    nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
    if not (a and b):
        return nothing
    texts = [*a, *b]
    vectorizer = TfidfVectorizer(
        analyzer=lambda text: sorted(content(text)),
        max_df=min(len(texts), max(FEW, math.ceil(COMMON * len(texts)))),
        norm=None,
        dtype=np.float32,
    )
    try:
        table = sparse.csr_array(vectorizer.fit_transform(texts))
    except ValueError:  # no text has a word that is left
        return nothing
    table.data /= math.log((1 + len(texts)) / 2) + 1  # IDF relative to a word seen once
    length = np.sqrt(table.multiply(table).sum(axis=1))
    table.data /= np.repeat(np.maximum(length, 1e-9), np.diff(table.indptr))
    left, right = table[: len(a)], table[len(a) :].T.tocsr()
    parts = [_block(left, right, start) for start in range(0, len(a), BLOCK)]
    rows, columns, cosine = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rows, columns, cosine, cosine * length[rows] * length[len(a) + columns]


def _block(left: Any, right: Any, start: int) -> tuple[Ints, Ints, Floats]:
    product = (left[start : start + BLOCK] @ right).tocoo()
    kept = product.data >= FLOOR
    rows, columns = (axis[kept].astype(np.int64) for axis in product.coords)
    return rows + start, columns, product.data[kept].astype(np.float64)


def _crowd(rows: Ints, columns: Ints, cosine: Floats, count: int) -> Floats:
    """For each pair: the mean cosine of its row's ten best partners after the best."""
    order = np.lexsort((-cosine, rows))
    sizes = np.bincount(rows, minlength=count)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    counted = order[(rank >= 1) & (rank <= CROWD)]
    return (np.bincount(rows[counted], cosine[counted], minlength=count) / CROWD)[rows]
