"""A baseline file in the terminal: what it holds, and what a new one changes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ...harness.gate.baseline import BaselineInfo, tasks
from ..formatting import DASH, count, scale_of
from ..text import clean_tree


def description(info: BaselineInfo, samples: pd.DataFrame) -> Group:
    """Whose scores they are, and a line a task."""
    shown: BaselineInfo = BaselineInfo(**clean_tree(vars(info)))
    said = [f"suite {shown.suite}" if shown.suite else "scored elsewhere", shown.created]
    machine = [shown.hardware.get(key) for key in ("device", "processor")]
    timed = f"; {count(len(shown.latency), 'latency series', 'latency series')}"
    head = Text.assemble((shown.model, "bold"), f"  {', '.join(filter(None, said))}")
    where = Text(", ".join(str(part) for part in machine if part) + timed, "dim")
    table = _table("task", "rows", "value", "how it was asked")
    for task, of in clean_tree(tasks(samples)).items():
        value = scale_of(of["metric"]).value(of["value"])
        table.add_row(Text(task), count(of["n"]), value, Text(of["protocol"]))
    return Group(head, *([where] if shown.hardware else []), table)


def changes(before: pd.DataFrame | None, after: pd.DataFrame) -> Table:
    """A line a task: the value before and after, and how many of its rows are others now."""
    old, new = clean_tree(tasks(before) if before is not None else {}), clean_tree(tasks(after))
    differing = _differing(before, after) if before is not None else {}
    table = _table("task", "before", "now", "rows", "changed")
    for task in sorted({*old, *new}):
        values = [_value(side.get(task)) for side in (old, new)]
        rows = new.get(task, {}).get("n")
        changed = count(differing.get(task, 0)) if task in old else "all"
        table.add_row(Text(task), *values, count(rows), changed)
    return table


def _differing(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, int]:
    """Rows by task that are new, gone, or scored otherwise."""
    keys = ["task", "doc_hash", "order"]
    old, new = (side.assign(copy=side.groupby(keys).cumcount()) for side in (before, after))
    both = old.merge(new, on=[*keys, "copy"], how="outer", suffixes=("_old", "_new"))
    same = both["score_old"].eq(both["score_new"]) & both["weight_old"].eq(both["weight_new"])
    counts = both.loc[~same, "task"].value_counts()
    return {str(task): int(number) for task, number in clean_tree(counts.to_dict()).items()}


def _value(of: dict[str, Any] | None) -> str:
    return scale_of(of["metric"]).value(of["value"]) if of else DASH


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        right = name != "how it was asked"
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table
