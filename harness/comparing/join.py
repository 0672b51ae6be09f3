"""Puts two sides' samples next to each other, question by question, or says why that is wrong.

A question is known by its task, its ``doc_hash`` and the order of its options. lm-eval hashes the
whole document; a file without such hashes is known by its ids (identity.py). Where one side has
hashes and the other ids, both are joined on the id, and that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...errors import InputError
from .agreement import Names, Remark, Rows, agree, questions, some, spelled, tasks, told
from .identity import ID, UNKNOWN, id_hash

_NAMES = ["task", "doc_id", "doc_hash", "order"]
_SHARED = ("question", "target", "subject")
_OF_EACH = ("score", "prediction", "output")
_COLUMNS = (
    *_NAMES, "cluster", "metric", "weight", "protocol", "prompt_hash", "target_hash", "options",
    *_SHARED, *_OF_EACH,
)  # fmt: skip


@dataclass(frozen=True)
class Joined:
    """Two sides, joined.

    Attributes:
        pairs: One row per question and order that both sides answered, in the order of the first:
            ``task, doc_id, doc_hash, order, cluster, metric, weight, protocol, question, target,
            subject``, and for each side ``score_a, score_b``, ``prediction_…`` and ``output_…``.
            What no side knows is None.
        only_a: The rows that only the first side has: ``task, doc_id, doc_hash, order``.
        only_b: The rows that only the second side has, likewise.
        warnings: What a reader must know of the join; one sentence each.
    """

    pairs: pd.DataFrame
    only_a: pd.DataFrame
    only_b: pd.DataFrame
    warnings: tuple[str, ...]


def join(a: pd.DataFrame, b: pd.DataFrame, names: Names = ("a", "b")) -> Joined:
    """Join two samples tables of one model each on task, question and order.

    The k-th copy of a question that stands in the data several times joins the k-th copy; as they
    share a cluster they count as one. Clusters are those of the side that has fewer.

    Args:
        a: Samples of the first side, any number of tasks.
        b: Samples of the second side.
        names: What the two sides are called in messages.

    Raises:
        InputError: A side holds several models, a doc_id twice or a score that is no number, or
            the two differ in right answers, protocol or metric.
    """
    for table, name in ((a, names[0]), (b, names[1])):
        _check(table, name)
    a, b, warnings = _identified(a, b)
    in_a, in_b, rest_a, rest_b = _positions(a, b)
    left, right, said = spelled(_rows(a, in_a, _COLUMNS), _rows(b, in_b, _COLUMNS), names)
    only = [_rows(table, rest, _NAMES) for table, rest in ((a, rest_a), (b, rest_b))]
    for alone, other, name in zip(only, (b, a), names, strict=True):
        warnings += _unmatched(alone, set(other["task"]), name)
    warnings += said + agree(left, right, names)
    pairs = left[["task", "doc_hash", "order", "metric", "weight"]].assign(
        doc_id=_first_known(left["doc_id"], right["doc_id"]),
        cluster=_clusters(left, right),
        protocol=left["protocol"].where(left["protocol"] != UNKNOWN, right["protocol"]),
        **{key: _first_known(left[key], right[key]) for key in _SHARED},
        **{
            f"{key}_{side}": table[key]
            for key in _OF_EACH
            for side, table in (("a", left), ("b", right))
        },
    )
    return Joined(pairs, only[0], only[1], tuple(warnings))


def _unmatched(alone: pd.DataFrame, others: set[str], name: str) -> list[str]:
    """What to say of the rows that only *name* has; *others* are the other side's tasks."""
    here = alone["task"].isin(others)
    found = []
    if here.any():
        rows = alone[here]
        named = tasks([str(task) for task in rows["task"].unique()])
        found = [
            f"{named}: only {name} answered {questions(len(rows))}: doc_id {some(rows['doc_id'])}"
        ]
    asked = [str(task) for task in alone.loc[~here, "task"].unique()]
    return found + ([f"only {name} answered {tasks(asked)}"] if asked else [])


def _check(table: pd.DataFrame, name: str) -> None:
    """One model, no question twice, no score that is no number."""
    if "model" in table and table["model"].nunique() > 1:
        models = ", ".join(map(str, table["model"].unique()))
        raise InputError(f"{name}: holds samples of several models ({models}); name one of them")
    if "doc_id" in table:
        keys = [key for key in ("task", "doc_id", "order") if key in table]
        twice = table[table.duplicated(keys) & table["doc_id"].notna()]
        if len(twice):
            task = twice["task"].iloc[0]
            ids = twice.loc[twice["task"] == task, "doc_id"].drop_duplicates()
            raise InputError(
                f"{name}: task {task}: more than one row of {questions(len(ids))}: doc_id "
                f"{some(ids)}; keep one row a question"
            )
    numbers = table[["score", "weight"]].to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1) | (numbers[:, 1] <= 0))
    if len(bad):
        row = table.iloc[int(bad[0])]
        raise InputError(
            f"{name}: task {row['task']}, doc_id {row.get('doc_id')}: score {row['score']} of "
            f"weight {row['weight']}; expected a finite score and a weight above 0, score it again"
        )


def _identified(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Both tables with ``doc_hash`` of one kind in each task."""
    kinds = [_known_by_id(table) for table in (a, b)]
    mixed = {task for task, kind in kinds[0].items() if kinds[1].get(task, kind) != kind}
    tables = []
    for table, kind in zip((a, b), kinds, strict=True):
        rows = table["task"].isin({task for task in mixed if not kind[task]})
        if rows.any():
            hashes = table["doc_hash"].astype(object)
            pairs = zip(table.loc[rows, "task"], table.loc[rows, "doc_id"], strict=True)
            hashes[rows] = [id_hash(task, doc_id) for task, doc_id in pairs]
            table = table.assign(doc_hash=hashes)
        tables.append(table)
    said = "joined on doc_id, as one side has no doc_hash"
    return tables[0], tables[1], told([Remark(task, said) for task in sorted(mixed)])


def _known_by_id(table: pd.DataFrame) -> dict[str, bool]:
    """Whether the questions of each task are known by their id alone."""
    first = table.drop_duplicates("task")
    return {
        task: str(doc_hash).startswith(ID)
        for task, doc_hash in zip(first["task"], first["doc_hash"], strict=True)
    }


def _positions(a: pd.DataFrame, b: pd.DataFrame) -> tuple[Rows, Rows, Rows, Rows]:
    """Rows of *a* and *b* that belong together, and those of each that stand alone."""
    code = np.zeros(len(a) + len(b), np.int64)
    for key in ("task", "doc_hash", "order"):
        both = pd.concat([_column(a, key), _column(b, key)], ignore_index=True)
        codes, values = pd.factorize(both)
        code = code * max(len(values), 1) + codes
    sides = code[: len(a)], code[len(a) :]
    copies = np.concatenate([pd.Series(one).groupby(one).cumcount().to_numpy() for one in sides])
    key_of = code * (int(copies.max(initial=0)) + 1) + copies
    found = pd.Index(key_of[len(a) :]).get_indexer(pd.Index(key_of[: len(a)])).astype(np.int64)
    shared = found >= 0
    alone = np.ones(len(b), bool)
    alone[found[shared]] = False
    return np.flatnonzero(shared), found[shared], np.flatnonzero(~shared), np.flatnonzero(alone)


def _column(table: pd.DataFrame, key: str) -> pd.Series[Any]:
    """A column, or what its absence means."""
    if key in table:
        return table[key]
    if key == "order":
        return pd.Series(0, index=table.index)
    absent = UNKNOWN if key == "protocol" else None
    return pd.Series([absent] * len(table), index=table.index, dtype=object)


def _rows(table: pd.DataFrame, rows: Rows, columns: tuple[str, ...] | list[str]) -> pd.DataFrame:
    return pd.DataFrame({key: _column(table, key).iloc[rows].array for key in columns})


def _first_known(left: pd.Series[Any], right: pd.Series[Any]) -> pd.Series[Any]:
    """The left value where there is one, else the right one."""
    return left.where(left.notna() & (left != ""), right)


def _clusters(left: pd.DataFrame, right: pd.DataFrame) -> pd.Series[Any]:
    """In each task the clusters of the side that has fewer: it knows what belongs together."""
    if left["cluster"].equals(right["cluster"]):
        return left["cluster"]
    counts = [side.groupby("task")["cluster"].nunique() for side in (left, right)]
    fewer = left["task"].map(counts[1] < counts[0]).astype(bool)
    return left["cluster"].where(~fewer, right["cluster"])
