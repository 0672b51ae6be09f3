"""The run's tables and results.json, derived from what the stages left in parts/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from ..tasks.catalog import groups
from .comparing.join import join
from .folder.samples import FILE as SAMPLES
from .folder.samples import gather
from .folder.store import FORMAT, RunFolder
from .judge import agreement
from .latency import summarise
from .notes import notes
from .planning.plan import Plan
from .statistics import power, stats
from .statistics.calibration import calibration
from .statistics.groups import Pairs, Tables, comparison, group_scores

_UNREAD = ("prompt", "output")
"""What no figure depends on."""
_OF_ITS_SCORE = ("options", "option_scores", "prediction", "confidence", "cut")
"""What only a model's own score depends on."""

Parts = dict[tuple[str, str], str]
"""Paths in the run folder by (model, task)."""


def samples_part(model: str, task: str) -> str:
    """Where the samples of one model on one task lie until all are done."""
    return f"parts/samples/{model}/{task}.parquet"


def judgements_part(model: str, task: str) -> str:
    """Where the judgements of one model on one task lie until all are done."""
    return f"parts/judgements/{model}/{task}.parquet"


def timings_part(model: str) -> str:
    """Where the timings of one model lie until all are done."""
    return f"parts/timings/{model}.parquet"


def derive(plan: Plan, run: RunFolder, done: set[str]) -> None:
    """Write samples.parquet, timings.parquet and results.json from the parts that are *done*.

    Parts that an earlier try with other settings left behind are not in *done* and not in the
    tables. Of the samples one model's on one task are held at a time, and those of its base.
    """
    scored = _known(plan, [task.name for task in plan.tasks], samples_part, done)
    judged = _known(plan, [task.name for task in plan.judged()], judgements_part, done)
    timed = [part for part in map(timings_part, plan.timed()) if part in done]
    for name, parts in (
        (SAMPLES, list(scored.values())),
        ("judgements.parquet", list(judged.values())),
        ("timings.parquet", timed),
    ):
        if parts:
            gather(run, parts, name)
        else:
            (run / name).unlink(missing_ok=True)
    results = _results(plan, run, scored)
    results["latency"] = summarise(run.timings()) if timed else []
    if scored and judged:
        slim = run.samples(leave_out=["prompt", "question", "options", "option_scores", "output"])
        results["judge"] = agreement(slim, run.table("judgements.parquet"))
    run.write_json("results.json", results)


def _known(
    plan: Plan, tasks: Sequence[str], part: Callable[[str, str], str], done: set[str]
) -> Parts:
    """The part of each model and task that is done, in the order of the plan."""
    pairs = [(model, task) for model in plan.models for task in tasks]
    return {pair: part(*pair) for pair in pairs if part(*pair) in done}


def _results(plan: Plan, run: RunFolder, scored: Parts) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    remarks, comparisons = notes(plan), []
    tables: Tables = {}
    pairs: Pairs = {}
    members = {task for name in plan.suite.tasks for task in groups().get(name, ())}
    for task in plan.tasks:
        parts = {model: path for (model, name), path in scored.items() if name == task.name}
        found = _task(plan, run, task.name, parts, task.name in members)
        tasks[task.name] = {
            "protocol": task.protocol,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "chance": task.chance,
            "source": task.source,
            "licence": task.licence,
            "scores": found.scores,
        }
        remarks += found.remarks
        tables |= found.tables
        pairs |= found.pairs
        comparisons += [{"metric": task.metric, **one} for one in found.comparisons]
    grouped = group_scores(plan.suite.tasks, tables, pairs)
    adjusted([one for group in grouped.values() for one in group["comparisons"]])
    return {
        "format": FORMAT,
        "suite": plan.suite.name,
        "models": plan.models,
        "notes": remarks,
        "tasks": tasks,
        "groups": grouped,
        "comparisons": adjusted(comparisons),
    }


@dataclass
class _Found:
    """What one task came to; tables and pairs only where a group needs them."""

    scores: dict[str, Any] = field(default_factory=dict)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    tables: Tables = field(default_factory=dict)
    pairs: Pairs = field(default_factory=dict)


def _task(plan: Plan, run: RunFolder, task: str, parts: dict[str, str], grouped: bool) -> _Found:
    found = _Found()
    # A group's questions are told apart by their words.
    unread = _UNREAD if grouped else (*_UNREAD, "question")
    bases: dict[str, pd.DataFrame] = {}
    for model, part in parts.items():
        table = run.table(part, unread)
        found.remarks += cut_prompts(model, task, table)
        found.scores[model] = task_score(table)
        table = table.drop(columns=list(_OF_ITS_SCORE))
        if grouped:
            found.tables[task, model] = table
        base = plan.reference(model)
        if base not in parts:
            continue
        if base not in bases:
            bases[base] = run.table(parts[base], (*unread, *_OF_ITS_SCORE))
        joined = join(bases[base], table, (base, model))
        names = {"task": task, "base": base, "tuned": model}
        found.comparisons.append(names | comparison(joined.pairs))
        found.remarks += joined.warnings
        if grouped:
            found.pairs[task, base, model] = joined.pairs
    return found


def cut_prompts(model: str, task: str, table: pd.DataFrame) -> list[str]:
    """A note of which prompts were longer than the model's context, if any were."""
    count = int(table["cut"].sum())
    if not count:
        return []
    return [
        f"{model}: {count} of {len(table)} prompts of {task} were longer than the model's context "
        "and lost their beginning. It was asked what is left of them."
    ]


def adjusted(comparisons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with ``p_holm``, adjusted over the tasks (or groups) of each tuned model."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for one in comparisons:
        by_model.setdefault(one["tuned"], []).append(one)
    for family in by_model.values():
        for one, p in zip(family, stats.holm([one["p"] for one in family]), strict=True):
            one["p_holm"] = p
    return comparisons


def task_score(samples: pd.DataFrame) -> dict[str, Any]:
    """A score; with option scores its calibration, with several orders their effect and noise."""
    found = asdict(stats.summarise(samples))
    for key, extra in (
        ("calibration", calibration(samples)),
        ("orders", stats.order_effect(samples)),
        ("noise", power.noise_floor(samples)),
    ):
        if extra is not None:
            found[key] = asdict(extra)
    return found
