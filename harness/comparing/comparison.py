"""Two sides compared: every task they share, all of them pooled, and the answers that changed.

Numbers only; reports/comparing/compare.py says them in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ...errors import InputError
from ..predictions.load import Side
from ..statistics import power, stats
from ..statistics.pooling import pool
from .agreement import Remark, questions, told
from .join import join

ACCURACY = "acc"

HIGHER_IS_BETTER = {ACCURACY: True, "bits_per_byte": False}


@dataclass(frozen=True)
class Comparison:
    """b against a on one task, or pooled over tasks.

    Attributes:
        task: Its name; of the pooled one ``all tasks pooled``, or ``3 of 4 tasks pooled`` where the
            fourth is no accuracy.
        metric: ``acc`` or ``bits_per_byte``.
        protocol: How the task was asked; empty when pooled.
        found: The paired difference, its interval and test.
        p_holm: p adjusted over the tasks of this pair of sides; the pooled comparison, which is one
            question of its own, keeps its p.
        smallest_detectable: True difference that so many questions show with 80 % power.
    """

    task: str
    metric: str
    protocol: str
    found: stats.Paired
    p_holm: float
    smallest_detectable: float

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return HIGHER_IS_BETTER[self.metric]


@dataclass(frozen=True)
class Flip:
    """A question that one side answers right and the other wrong. Texts are as they were given."""

    task: str
    doc_id: str
    order: int
    gained: bool
    question: str
    options: tuple[str, ...]
    target: str
    prediction_a: str
    prediction_b: str
    output_a: str
    output_b: str

    @property
    def readable(self) -> bool:
        """Whether there is any text to show."""
        return bool(self.question or self.prediction_a or self.prediction_b)


@dataclass(frozen=True)
class Compared:
    """One pair of sides.

    Attributes:
        name_a, name_b: What the two are called, told apart where they share a name.
        origin_a, origin_b: Where they come from.
        tasks: A comparison for each task that both answered.
        pooled: All accuracies together, each question counting once; None where there is none.
        flips: Of each task the questions gained and those lost, blindly chosen.
        gained, lost: How many there are of each, by task.
        only_a, only_b: What one side alone answered: ``task, doc_id, doc_hash, order``.
        warnings: What a reader should know of the join.
    """

    name_a: str
    name_b: str
    origin_a: str
    origin_b: str
    tasks: tuple[Comparison, ...]
    pooled: Comparison | None
    flips: tuple[Flip, ...]
    gained: dict[str, int]
    lost: dict[str, int]
    only_a: pd.DataFrame
    only_b: pd.DataFrame
    warnings: tuple[str, ...]


def compare_sides(
    a: Side,
    b: Side,
    tasks: Sequence[str] | None = None,
    confidence: float = stats.CONFIDENCE,
    flips: int | None = None,
) -> Compared:
    """Compare *b* with *a*, the reference.

    Args:
        a: The reference.
        b: What is compared with it.
        tasks: The tasks that count; all that both answered when None.
        confidence: Of the intervals.
        flips: Changed answers kept of each task and kind; all when None. Those with the smallest
            document hash are kept, which nobody picked.

    Raises:
        InputError: No task in common, a task that is not there, or what join.join refuses.
    """
    names = names_of(a, b)
    left, right = only_tasks(a, tasks), only_tasks(b, tasks)
    shared = set(left["task"]) & set(right["task"])
    if not shared:
        raise InputError(
            f"{a.origin} and {b.origin} have no task in common ({_tasks(left)}; {_tasks(right)}); "
            "name the tasks alike, e.g. with --columns task==NAME"
        )
    joined = join(left, right, names)
    tables = {str(task): rows for task, rows in joined.pairs.groupby("task", sort=False)}
    if not tables:
        raise InputError(
            f"{a.origin} and {b.origin} have no question in common; check that both were scored "
            "on the same data, or name the column that tells questions apart with --columns"
        )
    found = [_compare(task, rows, confidence) for task, rows in tables.items()]
    adjusted = stats.holm([one.found.p for one in found])
    found = [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]
    accuracies = [rows for rows in tables.values() if rows["metric"].iloc[0] == ACCURACY]
    pooled, once = _pooled(accuracies, len(tables), confidence)
    changed = [rows[(rows["score_a"] == 1) != (rows["score_b"] == 1)] for rows in accuracies]
    kept = pd.concat([_blind(rows, flips) for rows in changed]) if changed else None
    return Compared(
        *names, a.origin, b.origin, tuple(found), pooled,
        _flips(kept, a, b) if kept is not None else (),
        _counts(changed, "score_b"), _counts(changed, "score_a"), joined.only_a, joined.only_b,
        (*notes_of(a, b), *joined.warnings, *_clustered(tables), *once),
    )  # fmt: skip


def parse_tasks(text: str | None) -> list[str] | None:
    """``a, b`` as a list; None stays None.

    Raises:
        InputError: A name is empty.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"--tasks {text}: expected names of tasks, comma-separated")
    return names


def names_of(a: Side, b: Side) -> tuple[str, str]:
    """What the two are called: their names, with their origin where that is one name."""
    if a.name != b.name:
        return a.name, b.name
    if a.origin != b.origin:
        return f"{a.name} ({a.origin})", f"{b.name} ({b.origin})"
    return f"{a.name} (first)", f"{b.name} (second)"


def notes_of(a: Side, b: Side) -> list[str]:
    """What is to be known of how each was read, with whose it is; said once where of both."""
    names = names_of(a, b)
    both = [f"{' and '.join(names)}: {note}" for note in a.notes if note in b.notes]
    own = [
        f"{name}: {note}"
        for name, side, other in ((names[0], a, b), (names[1], b, a))
        for note in side.notes
        if note not in other.notes
    ]
    return both + own


def only_tasks(side: Side, tasks: Sequence[str] | None) -> pd.DataFrame:
    """The samples of the side's tasks that are asked for.

    Raises:
        InputError: One of them is not there.
    """
    if tasks is None:
        return side.samples
    for task in tasks:
        if task not in set(side.samples["task"]):
            raise InputError(
                f"--tasks: {task!r} is not in {side.origin}; its tasks: {_tasks(side.samples)}"
            )
    return side.samples[side.samples["task"].isin(tasks)].reset_index(drop=True)


def _tasks(samples: pd.DataFrame) -> str:
    return ", ".join(map(str, samples["task"].unique()))


def _compare(task: str, pairs: pd.DataFrame, confidence: float) -> Comparison:
    found = stats.compare(pairs, confidence)
    least = power.smallest_detectable(pairs, alpha=1 - confidence)
    metric, protocol = (str(pairs[key].iloc[0]) for key in ("metric", "protocol"))
    return Comparison(task, metric, protocol, found, found.p, least)


def _pooled(
    accuracies: list[pd.DataFrame], tasks: int, confidence: float
) -> tuple[Comparison | None, list[str]]:
    """All accuracies as one comparison, None where there is none, and what to say of it."""
    if not accuracies:
        return None, []
    whole = pool(accuracies)
    which = "all" if len(accuracies) == tasks else f"{len(accuracies)} of {tasks}"
    name = f"{which} tasks pooled"
    asked = sum(rows["cluster"].nunique() for rows in accuracies)
    n = whole["cluster"].nunique()
    said = f"{name}: some of them ask the same, {questions(n)} in all; each counts once"
    return _compare(name, whole.assign(protocol=""), confidence), [said] if n < asked else []


def _clustered(tables: dict[str, pd.DataFrame]) -> list[str]:
    """What to say where n counts less than the questions, as some belong together."""
    found = []
    for task, pairs in tables.items():
        asked, n = pairs["doc_hash"].nunique(), pairs["cluster"].nunique()
        if asked > n:
            said = f"{asked} questions in {n} clusters; a cluster counts as one question"
            found.append(Remark(task, said))
    return told(found)


def _counts(changed: Sequence[pd.DataFrame], side: str) -> dict[str, int]:
    """By task, how many of the changed answers *side* has right."""
    return {
        str(rows["task"].iloc[0]): int((rows[side] == 1).sum()) for rows in changed if len(rows)
    }


def _blind(rows: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Of one task's changed answers the first *limit* lost and gained by document hash."""
    rows = rows.sort_values(["score_b", "doc_hash", "order"], kind="stable")
    return rows if limit is None else rows.groupby("score_b", sort=False).head(limit)


def _flips(rows: pd.DataFrame, a: Side, b: Side) -> tuple[Flip, ...]:
    if rows.empty:
        return ()
    read = [_texts(side.with_texts(rows)) for side in (a, b)]
    found = []
    for row in rows.to_dict("records"):
        key = (row["task"], row["doc_hash"], row["order"])
        sides = [one.get(key, {}) for one in read]
        found.append(
            Flip(
                task=str(row["task"]),
                doc_id=str(row["doc_id"]),
                order=int(row["order"]),
                gained=bool(row["score_b"] == 1),
                question=_first(*(side.get("question") for side in sides)),
                options=next((side["options"] for side in sides[::-1] if side.get("options")), ()),
                target=_first(row["target"]),
                prediction_a=_first(row["prediction_a"]),
                prediction_b=_first(row["prediction_b"]),
                output_a=_first(sides[0].get("output"), row["output_a"]),
                output_b=_first(sides[1].get("output"), row["output_b"]),
            )
        )
    return tuple(found)


def _texts(samples: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Question, options and output of each row, by task, hash and order."""
    columns = [name for name in ("question", "options", "output") if name in samples]
    keys = zip(*(samples[key] for key in ("task", "doc_hash", "order")), strict=True)
    rows = zip(*(samples[name] for name in columns), strict=True)
    found = {key: dict(zip(columns, row, strict=True)) for key, row in zip(keys, rows, strict=True)}
    for texts in found.values():
        options = texts.get("options")
        texts["options"] = () if options is None else tuple(map(str, options))
    return found


def _first(*values: Any) -> str:
    """The first that is a text and not empty."""
    return next((value for value in values if isinstance(value, str) and value), "")
