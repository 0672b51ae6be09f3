"""The value of a group of tasks: the mean over all their questions, as lm-eval weights by size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pandas as pd

from ...tasks import catalog
from . import power, stats
from .pairs import ACCURACY
from .pooling import clusters, pool

Tables = dict[tuple[str, str], pd.DataFrame]
"""Samples by (task, model)."""
Pairs = dict[tuple[str, str, str], pd.DataFrame]
"""Pairs of base and tuned (comparing/join.py) by (task, base, tuned)."""


def group_scores(names: Iterable[str], tables: Tables, pairs: Pairs) -> dict[str, dict[str, Any]]:
    """The score of every group among *names*, for each model that answered all its members.

    Args:
        names: What a suite asks; names of tasks are passed over.
        tables: What the models answered.
        pairs: Base and tuned beside each other.

    Returns:
        ``{group: {members, metric, scores: {model: Score as a dict}, comparisons: [...]}}``; a
        comparison is as that of a task, its p not yet adjusted.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        members = catalog.groups().get(name, ())
        models = dict.fromkeys(model for task, model in tables if task in members)
        whole = [model for model in models if all((task, model) in tables for task in members)]
        if not whole:
            continue
        asked = {model: pooled([tables[task, model] for task in members]) for model in whole}
        found[name] = {
            "members": list(members),
            "metric": str(asked[whole[0]]["metric"].iloc[0]),
            "scores": {model: asdict(stats.summarise(table)) for model, table in asked.items()},
            "comparisons": _comparisons(name, members, pairs),
        }
    return found


def comparison(pairs: pd.DataFrame) -> dict[str, Any]:
    """A paired comparison as results.json has it."""
    found = asdict(stats.compare(pairs))
    return found | {"smallest_detectable": power.smallest_detectable(pairs)}


def pooled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """All samples in one table in which every question weighs the same, however often asked."""
    parts = []
    for table in tables:
        parts.append(table.copy(deep=False))
        if (table["metric"] == ACCURACY).all():
            names = table["cluster"]
            share = 1 / names.groupby(names).transform("size")
            columns = ["score", "weight"]
            parts[-1][columns] = table[columns].mul(share, axis=0)
    return pd.concat(parts, ignore_index=True).assign(cluster=clusters(tables))


def _comparisons(name: str, members: tuple[str, ...], pairs: Pairs) -> list[dict[str, Any]]:
    found = []
    for base, tuned in dict.fromkeys((base, tuned) for task, base, tuned in pairs):
        tables = [pairs.get((task, base, tuned)) for task in members]
        known = [table for table in tables if table is not None]
        if len(known) == len(members):
            whole = pool(known)
            names = {"task": name, "base": base, "tuned": tuned}
            found.append(names | {"metric": str(whole["metric"].iloc[0])} | comparison(whole))
    return found
