"""The pairs of several tasks as one table, in which every question counts once.

Clusters keep what belongs together apart: the same name in two tasks means nothing, and the same
question in two tasks (by letter and by option text, say) is one piece of evidence, not two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ...errors import InputError
from .pairs import ACCURACY

Ints = npt.NDArray[np.int64]

_SAME = (("doc_hash",), ("question", "target"))
"""Rows of two tasks are the same question where all columns of one of these are equal and known."""


def pool(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The pairs of several tasks of one metric, as stats.compare takes them.

    An accuracy's rows are weighted so that a task counts by its questions, however many option
    orders it was asked under: the pooled value is Σ n·value / Σ n over tasks. Bits per byte stay
    Σ bits / Σ bytes.

    Args:
        tables: Pairs of one task each, as join.join makes them.

    Raises:
        InputError: The tables are of several metrics.
    """
    whole = pd.concat(tables, ignore_index=True)
    if whole["metric"].nunique() > 1:
        raise InputError(
            f"tasks of different metrics ({', '.join(sorted(whole['metric'].unique()))}) have no "
            "common difference; pool tasks of one metric"
        )
    if (whole["metric"] == ACCURACY).all():
        asked = np.array([_questions(table) / max(len(table), 1) for table in tables])
        # Whole where it can be: sums of 0 and 1 have an exact test.
        share = np.repeat(asked / (asked.max(initial=0) or 1), [len(table) for table in tables])
        columns = ["score_a", "score_b", "weight"]
        whole[columns] = whole[columns].mul(share, axis=0)
    return whole.assign(cluster=clusters(tables))


def _questions(table: pd.DataFrame) -> int:
    """How many questions were asked, each under one order of its options or more."""
    return int(table["order"].value_counts().max()) if len(table) else 0


def clusters(tables: Sequence[pd.DataFrame]) -> Ints:
    """The clusters of the rows of all *tables*, numbered, one task a table.

    Those that share a question across tasks are one. The tables are samples or pairs, with the
    columns ``cluster, doc_hash, question, target``.
    """
    columns = ["cluster", *(key for keys in _SAME for key in keys)]
    whole = pd.concat([table[columns] for table in tables], ignore_index=True)
    task = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    own = whole.groupby([task, whole["cluster"]], sort=False).ngroup().to_numpy()
    nodes, links = int(own.max(initial=-1)) + 1, [np.empty((0, 2), np.int64)]
    for keys in map(list, _SAME):
        known = (whole[keys].notna() & (whole[keys] != "")).all(axis=1).to_numpy()
        question = whole[known].groupby(keys, sort=False).ngroup()
        tasks = pd.Series(task[known], question.index).groupby(question).transform("nunique")
        ends = np.stack([own[known], nodes + question.to_numpy()], axis=1)
        links.append(ends[tasks.to_numpy() > 1])
        nodes += len(whole)
    ends = np.concatenate(links)
    graph = sparse.coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(nodes, nodes))
    _, label = connected_components(graph, directed=False)
    return np.asarray(label[own], np.int64)
