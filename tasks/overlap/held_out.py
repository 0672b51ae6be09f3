"""Which texts resemble a held-out one: decided pair by pair, whatever else the data holds.

The measure of paraphrase.py is the sharper one, but its word weights depend on all texts, so a
data set that grows would move rows across the line of a split. Here two texts are compared by
themselves: the cosine of their sets of content words, unweighted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from .paraphrase import BLOCK
from .words import content

ALIKE = 0.45
"""Cosine from which a text is taken for a held-out one in other words."""
FEWEST = 3
"""Content words that must be shared: two short questions on one topic are no copies."""


def resembles(texts: Sequence[str], held_out: Sequence[str]) -> npt.NDArray[np.bool_]:
    """For each text: whether it resembles any of *held_out*."""
    alike = np.zeros(len(texts), bool)
    vectorizer = CountVectorizer(analyzer=lambda text: sorted(content(text)), dtype=np.int32)
    try:
        table = sparse.csr_array(vectorizer.fit_transform([*texts, *held_out]))
    except ValueError:  # no text has a content word
        return alike
    sizes = np.asarray(table.sum(axis=1), np.float64)
    rows, held = table[: len(texts)], table[len(texts) :].T.tocsr()
    for start in range(0, len(texts), BLOCK):
        shared = (rows[start : start + BLOCK] @ held).tocoo()
        row, column = shared.coords[0] + start, shared.coords[1] + len(texts)
        # Whole numbers on both sides, so that no rounding depends on what else is in the table.
        near = shared.data.astype(np.float64) ** 2 >= ALIKE**2 * (sizes[row] * sizes[column])
        alike[row[near & (shared.data >= FEWEST)]] = True
    return alike
