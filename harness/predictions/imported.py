"""Makes a run folder of predictions that were made elsewhere, for report, compare and gate."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import InputError
from ..folder.store import FORMAT, RunFolder
from ..results import task_score
from .load import Side

SUITE = "imported"
"""What stands where a run has the name of its suite."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def model_name(side: Side, wanted: str | None) -> str:
    """*wanted*, or the side's own name in the letters that a name may have.

    Raises:
        InputError: *wanted* has others.
    """
    if wanted is None:
        return re.sub(r"[^A-Za-z0-9._-]+", "_", side.name).strip("._-")[:64] or "model"
    if not _NAME.fullmatch(wanted):
        raise InputError(
            f"--model {wanted}: expected letters, digits, '.', '_' and '-', at most 64 of them"
        )
    return wanted


def write_run(side: Side, out: Path, model: str, command: str) -> RunFolder:
    """A run folder at *out* that holds the answers of *side* and what follows from them.

    Args:
        side: The answers.
        out: The folder, new or empty.
        model: The model's name in it.
        command: The command line, for the manifest.

    Raises:
        InputError: *out* holds something already, or two rows are the same question.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {out}: is there already and not empty; choose another name")
    samples = _whole(side.samples.assign(model=model))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    notes = [f"{model} was scored elsewhere: its answers were imported from {side.origin}."]
    notes += [f"{note[:1].upper()}{note[1:]}." for note in side.notes]
    results = {
        "format": FORMAT,
        "suite": SUITE,
        "models": [model],
        "notes": notes,
        "tasks": {
            str(task): _task(table, model, side)
            for task, table in samples.groupby("task", sort=False)
        },
        "comparisons": [],
        "latency": [],
    }
    manifest = {
        "format": FORMAT,
        "status": "done",
        "command": command,
        "created": now,
        "updated": now,
        "seconds": None,
        "models": [model],
        "suite": {"name": SUITE, "models": {model: {"pretrained": side.origin}}},
        "notes": notes,
        "stages": {},
        "kept": {},
        "environment": {},
    }
    run = RunFolder(out)
    run.write_table("samples.parquet", samples)
    run.write_json("results.json", results)
    run.write_json("manifest.json", manifest)
    return run


def _whole(samples: pd.DataFrame) -> pd.DataFrame:
    """*samples* as a run has them: ``doc_id`` is a position, every question has a text."""
    if samples["target"].isna().any():
        raise InputError("a baseline file has no answers to import; import what it was made of")
    shown = samples["question"].where(
        samples["question"] != "", "doc_id " + samples["doc_id"].astype(str)
    )
    if not pd.api.types.is_integer_dtype(samples["doc_id"]):
        samples = samples.assign(doc_id=samples.groupby("task").cumcount())
    return samples.assign(question=shown)


def _task(table: pd.DataFrame, model: str, side: Side) -> dict[str, Any]:
    counts = table["options"].map(len)
    metric = str(table["metric"].iloc[0])
    return {
        "protocol": str(table["protocol"].iloc[0]),
        "metric": metric,
        "higher_is_better": metric == "acc",
        "chance": float((1 / counts).mean()) if metric == "acc" and (counts > 0).all() else None,
        "source": side.origin,
        "licence": "not known",
        "scores": {model: task_score(table)},
    }
