"""The questions that tasks ask, without lm-eval."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from ..catalog import Task, spec_of


def questions_of(task: Task, limit: int | None = None) -> tuple[str, ...]:
    """The questions of *task* without options, in the task's order; the first *limit* of them."""
    if task.own is not None:
        return tuple(str(row["question"]) for row in task.own.questions()[:limit])
    spec = spec_of(task)
    module, _, name = str(spec["custom_dataset"]).rpartition(".")
    asked: dict[str, Any] = spec.get("dataset_kwargs") or {}
    docs = getattr(importlib.import_module(module), name)(**asked, questions=limit)
    return tuple(docs["test"]["question"])


def question_sets(
    tasks: Iterable[Task], limit: int | None = None
) -> dict[tuple[str, ...], list[str]]:
    """The different lists of questions among *tasks*, each with the tasks that ask it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        found.setdefault(questions_of(task, limit), []).append(task.name)
    return found
