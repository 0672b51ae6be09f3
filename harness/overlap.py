"""Overlap within a run: tuning rows against the tests' questions, and the tests against each other.

What is found goes to overlap.json (docs/reference/overlap.md); what becomes of tuning rows that
overlap is the recipe's ``data.overlap``.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from ..errors import InputError
from ..finetune.dataset import compared
from ..finetune.recipe import Recipe
from ..tasks.overlap import as_json, find
from ..tasks.overlap.asked import question_sets
from .folder.store import RunFolder
from .planning.plan import Plan
from .progress import Tick

FILE = "overlap.json"
FORMAT = 1
TEXTS = 200
"""Pairs of one check that are kept with their texts."""


def checks(plan: Plan, tick: Tick) -> list[dict[str, Any]]:
    """Every check of *plan*, one object each, as overlap.json holds them.

    Raises:
        InputError: A recipe refuses rows that overlap, and there are some.
    """
    sets = question_sets(plan.tasks, plan.suite.limit)
    pairs = list(combinations(sets.items(), 2))
    total, made = len(plan.recipes) * len(sets) + len(pairs), []
    for name, recipe in plan.recipes.items():
        numbers, texts = compared(recipe, recipe.seed)
        for questions, tasks in sets.items():
            who: dict[str, Any] = {"model": name, "policy": recipe.data.overlap, "train_tasks": []}
            one = _check(who, texts, questions, tasks)
            one["train_rows"] = [numbers[row] for row in one["train_rows"]]
            for pair in one["pairs"]:
                pair["train"] = numbers[pair["train"]]
            made.append(one)
            tick(len(made), total, "")
        _refuse(name, recipe, made)
    for (left, left_tasks), (right, right_tasks) in pairs:
        who = {"model": None, "policy": "report", "train_tasks": left_tasks}
        made.append(_check(who, list(left), right, right_tasks))
        tick(len(made), total, "")
    return made


def dropped(run: RunFolder, model: str) -> frozenset[int]:
    """Numbers of the source rows that *model* is not tuned on, because they overlap a test."""
    found = json.loads((run / FILE).read_text("utf-8"))["checks"]
    return frozenset(
        row
        for one in found
        if one["model"] == model and one["policy"] == "drop"
        for row in one["train_rows"]
    )


def _check(
    who: dict[str, Any], texts: list[str], questions: tuple[str, ...], tasks: list[str]
) -> dict[str, Any]:
    found = find(texts, questions)
    against = "training rows" if who["model"] else f"questions of {who['train_tasks'][0]}"
    result = as_json(found, texts, questions, TEXTS, against)
    asked = [questions[row] for row in found.eval_rows]
    return (
        who | {"eval_tasks": tasks, "n_pairs": len(found.pairs), "eval_questions": asked} | result
    )


def _refuse(name: str, recipe: Recipe, made: list[dict[str, Any]]) -> None:
    """Raises when *recipe* refuses what was found for model *name*."""
    bad = [one for one in made if one["model"] == name and one["pairs"]]
    if recipe.data.overlap != "refuse" or not bad:
        return
    rows = {row for one in bad for row in one["train_rows"]}
    first = [
        f"row {pair['train']} is question {pair['eval']} of {one['eval_tasks'][0]} "
        f"({pair['measure']}, {pair['score']:.2f})"
        for one in bad
        for pair in one["pairs"]
    ]
    more = f", and {len(first) - 5} more pairs" if len(first) > 5 else ""
    raise InputError(
        f"recipe {recipe.name!r}: {len(rows)} rows of {recipe.data.source} overlap the tests: "
        f"{'; '.join(first[:5])}{more}. Set data.overlap: drop in the recipe to leave them out, or "
        "report to tune on them and say so"
    )
