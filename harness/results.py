"""The run's tables and results.json, derived from what the stages left in parts/."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from .comparing.join import join
from .folder.store import FORMAT, RunFolder
from .judge import agreement
from .latency import summarise
from .notes import notes
from .planning.plan import Plan
from .statistics import power, stats
from .statistics.calibration import calibration
from .statistics.groups import Pairs, Tables, comparison, group_scores


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
    tables.
    """
    names = [(model, task.name) for model in plan.models for task in plan.tasks]
    samples = _gather(run, [samples_part(*pair) for pair in names if samples_part(*pair) in done])
    timings = _gather(run, [p for p in map(timings_part, plan.timed()) if p in done])
    judged = [(model, task.name) for model in plan.models for task in plan.judged()]
    parts = [judgements_part(*pair) for pair in judged]
    judgements = _gather(run, [part for part in parts if part in done])
    for name, table in (
        ("samples.parquet", samples),
        ("judgements.parquet", judgements),
        ("timings.parquet", timings),
    ):
        if table is None:
            (run / name).unlink(missing_ok=True)
        else:
            run.write_table(name, table)
    results = _results(plan, samples, timings)
    if samples is not None and judgements is not None:
        results["judge"] = agreement(samples, judgements)
    run.write_json("results.json", results)


def _gather(run: RunFolder, parts: list[str]) -> pd.DataFrame | None:
    tables = [run.table(part) for part in parts]
    return pd.concat(tables, ignore_index=True) if tables else None


def _results(
    plan: Plan, samples: pd.DataFrame | None, timings: pd.DataFrame | None
) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    remarks, comparisons = notes(plan), []
    tables: Tables = {}
    pairs: Pairs = {}
    if samples is not None:
        for (task_name, model), table in samples.groupby(["task", "model"], sort=False):
            tables[str(task_name), str(model)] = table
    remarks += cut_prompts(tables)
    for task in plan.tasks:
        scored = [model for model in plan.models if (task.name, model) in tables]
        tasks[task.name] = {
            "protocol": task.protocol,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "chance": task.chance,
            "source": task.source,
            "licence": task.licence,
            "scores": {model: task_score(tables[task.name, model]) for model in scored},
        }
        for tuned in scored:
            base = plan.reference(tuned)
            if base in scored:
                joined = join(tables[task.name, base], tables[task.name, tuned], (base, tuned))
                names = {"task": task.name, "metric": task.metric, "base": base, "tuned": tuned}
                pairs[task.name, base, tuned] = joined.pairs
                comparisons.append(names | comparison(joined.pairs))
                remarks += joined.warnings
    groups = group_scores(plan.suite.tasks, tables, pairs)
    adjusted([one for group in groups.values() for one in group["comparisons"]])
    return {
        "format": FORMAT,
        "suite": plan.suite.name,
        "models": plan.models,
        "notes": remarks,
        "tasks": tasks,
        "groups": groups,
        "comparisons": adjusted(comparisons),
        "latency": summarise(timings) if timings is not None else [],
    }


def cut_prompts(tables: Tables) -> list[str]:
    """A note for each model and task of which prompts were longer than the model's context."""
    return [
        f"{model}: {count} of {len(table)} prompts of {task} were longer than the model's context "
        "and lost their beginning. It was asked what is left of them."
        for (task, model), table in tables.items()
        if (count := int(table["cut"].sum()))
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
