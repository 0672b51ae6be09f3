"""Shared runs of eight words, the usual check for copied test questions.

Runs that stand in more than ten texts of a side are turns of phrase ("which of the following is the
most likely diagnosis") and are not counted, as in GPT-3's check (Brown et al. 2020,
arXiv:2005.14165, appendix C).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from .words import run_words

LENGTH = 8
USUAL = 10
SHARE = 0.5
"""Share of the shorter text's runs from which two texts are reported."""
FEWEST = 3
"""Runs that must be shared, ten words in a row: fewer are a turn of phrase in a small set."""

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

_FACTORS = np.random.default_rng(8).integers(2**63, 2**64, LENGTH, np.uint64) | np.uint64(1)


def shared_runs(a: Sequence[str], b: Sequence[str]) -> dict[tuple[int, int], float]:
    """(row of *a*, row of *b*) → share of the runs of the text with fewer that the other has too.

    Only pairs that share ``FEWEST`` runs are there. A run is known by 64 bits: among ten million
    runs two different ones are taken for one with a probability of 3e-6.
    """
    numbers: dict[str, int] = defaultdict(lambda: len(numbers) + 1)
    (rows_a, runs_a), (rows_b, runs_b) = (_runs(texts, numbers) for texts in (a, b))
    usual = np.union1d(_usual(runs_a), _usual(runs_b))
    counts = [
        np.bincount(rows[~np.isin(runs, usual)], minlength=len(texts))
        for rows, runs, texts in ((rows_a, runs_a, a), (rows_b, runs_b, b))
    ]
    common = np.setdiff1d(np.intersect1d(runs_a, runs_b), usual)
    left = _incidence(rows_a, runs_a, common, len(a))
    shared = (left @ _incidence(rows_b, runs_b, common, len(b)).T).tocoo()
    row, column = shared.coords
    share = shared.data / np.maximum(np.minimum(counts[0][row], counts[1][column]), 1)
    kept = shared.data >= FEWEST
    return {
        (int(i), int(j)): float(value)
        for i, j, value in zip(row[kept], column[kept], share[kept], strict=True)
    }


def _runs(texts: Sequence[str], numbers: dict[str, int]) -> tuple[Rows, Hashes]:
    """Every distinct run of every text: the row it stands in, and its hash."""
    found = [np.empty(0, np.uint64)]
    for text in texts:
        words = np.array([numbers[word] for word in run_words(text)], np.uint64)
        if len(words) < LENGTH:
            found.append(np.empty(0, np.uint64))
            continue
        windows = np.lib.stride_tricks.sliding_window_view(words, LENGTH)
        mixed = windows * _FACTORS
        mixed ^= mixed >> np.uint64(29)
        found.append(np.unique((mixed * _FACTORS[::-1]).sum(axis=1, dtype=np.uint64)))
    rows = np.repeat(np.arange(len(texts)), [len(runs) for runs in found[1:]])
    return rows, np.concatenate(found)


def _usual(runs: Hashes) -> Hashes:
    distinct, counts = np.unique(runs, return_counts=True)
    return distinct[counts > USUAL]


def _incidence(rows: Rows, runs: Hashes, common: Hashes, count: int) -> sparse.csr_array:
    """Text × run of *common*: 1 where it stands in the text."""
    kept = np.isin(runs, common)
    columns = np.searchsorted(common, runs[kept])
    shape = (count, len(common))
    return sparse.csr_array((np.ones(len(columns), np.int32), (rows[kept], columns)), shape)
