"""The run's tables and results.json, derived from what the stages left in parts/."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from . import stats
from .calibration import calibration
from .latency import summarise
from .plan import Plan
from .store import FORMAT, RunFolder


def samples_part(model: str, task: str) -> str:
    """Where the samples of one model on one task lie until all are done."""
    return f"parts/samples/{model}/{task}.parquet"


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
    for name, table in (("samples.parquet", samples), ("timings.parquet", timings)):
        if table is None:
            (run / name).unlink(missing_ok=True)
        else:
            run.write_table(name, table)
    run.write_json("results.json", _results(plan, samples, timings))


def _gather(run: RunFolder, parts: list[str]) -> pd.DataFrame | None:
    tables = [run.table(part) for part in parts]
    return pd.concat(tables, ignore_index=True) if tables else None


def _results(
    plan: Plan, samples: pd.DataFrame | None, timings: pd.DataFrame | None
) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    comparisons: list[dict[str, Any]] = []
    tables: dict[tuple[str, str], pd.DataFrame] = {}
    if samples is not None:
        for (task_name, model), table in samples.groupby(["task", "model"], sort=False):
            tables[str(task_name), str(model)] = table
    for task in plan.tasks:
        scored = [model for model in plan.models if (task.name, model) in tables]
        tasks[task.name] = {
            "protocol": task.protocol,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "chance": task.chance,
            "source": task.source,
            "licence": task.licence,
            "scores": {model: _score(tables[task.name, model]) for model in scored},
        }
        for tuned in scored:
            base = plan.base_of(tuned)
            if base != tuned and base in scored:
                found = stats.compare(tables[task.name, base], tables[task.name, tuned])
                names = {"task": task.name, "metric": task.metric, "base": base, "tuned": tuned}
                comparisons.append(names | asdict(found))
    return {
        "format": FORMAT,
        "suite": plan.suite.name,
        "models": plan.models,
        "notes": plan.notes(),
        "tasks": tasks,
        "comparisons": comparisons,
        "latency": summarise(timings) if timings is not None else [],
    }


def _score(samples: pd.DataFrame) -> dict[str, Any]:
    """A score; with option scores its calibration, with several option orders their effect."""
    found = asdict(stats.summarise(samples))
    for key, extra in (
        ("calibration", calibration(samples)),
        ("orders", stats.order_effect(samples)),
    ):
        if extra is not None:
            found[key] = asdict(extra)
    return found
