"""The value of a group of tasks: the mean over all their questions, as lm-eval weights by size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pandas as pd

from ..tasks import catalog
from . import stats

Tables = dict[tuple[str, str], pd.DataFrame]
"""Samples by (task, model)."""


def group_scores(names: Iterable[str], tables: Tables) -> dict[str, dict[str, Any]]:
    """The score of every group among *names*, for each model that answered all its members.

    Args:
        names: What a suite asks; names of tasks are passed over.

    Returns:
        ``{group: {members, scores: {model: Score as a dict}}}``.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        members = catalog.groups().get(name, ())
        models = dict.fromkeys(model for task, model in tables if task in members)
        scores = {
            model: asdict(stats.summarise(pooled([tables[task, model] for task in members])))
            for model in models
            if all((task, model) in tables for task in members)
        }
        if scores:
            found[name] = {"members": list(members), "scores": scores}
    return found


def pooled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """All samples in one table in which every question weighs the same, however often asked."""
    parts = []
    for table in tables:
        asked = table.groupby("cluster")["cluster"].transform("size")
        cluster = table["task"] + "/" + table["cluster"].astype(str)
        parts.append(table.assign(weight=1 / asked, cluster=cluster))
    return pd.concat(parts, ignore_index=True)
