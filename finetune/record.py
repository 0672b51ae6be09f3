"""What a tuning leaves: the adapter's folder, and what the manifest keeps of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..errors import StageError
from ..harness.folder.store import atomic_path
from . import alarms
from .batches import EndToEnd
from .dataset import Prepared, fingerprint
from .recipe import Recipe
from .trainer import Trainer

COLUMNS = {
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "eval_loss": "validation_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "seconds_per_step": "seconds_per_step",
    "tokens_per_second": "tokens_per_second",
    "peak_bytes": "peak_bytes",
}
"""What is logged → the columns of losses.csv (docs/reference/run-folder.md)."""


def detail(recipe: Recipe, rows: Prepared, trainer: Trainer) -> dict[str, Any]:
    """What the run folder's manifest keeps (docs/reference/run-folder.md, ``tune``).

    Raises:
        StageError: No loss was logged.
    """
    log = trainer.state.log_history
    losses = [float(line["loss"]) for line in log if "loss" in line]
    if not losses:
        raise StageError("no loss was logged; set the recipe's logging_steps below its steps")
    return {
        "rows": len(rows.train),
        "validation_rows": len(rows.validation),
        "too_long": len(rows.too_long),
        "data_sha256": fingerprint(rows.texts),
        "rows_at_once": trainer.args.per_device_train_batch_size,
        "accumulation": trainer.args.gradient_accumulation_steps,
        "processes": trainer.args.world_size,
        "end_to_end": isinstance(trainer.data_collator, EndToEnd),
        "steps": trainer.state.global_step,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "quantization": recipe.quantization,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "alarms": [asdict(alarm) for alarm in alarms.raised(log)],
    }


def save(out: Path, recipe: Recipe, rows: Prepared, trainer: Trainer) -> None:
    """Write the adapter, its resolved recipe, its losses and its rows' hash, all or nothing."""
    data = {
        "source": recipe.data.source,
        "rows": len(rows.train),
        "validation_rows": len(rows.validation),
        "sha256": fingerprint(rows.texts),
        "too_long": rows.too_long,
    }
    with atomic_path(out) as draft:
        _unwrapped(trainer).save_pretrained(draft)
        (draft / "recipe.yaml").write_text(recipe.yaml(), "utf-8")
        losses(trainer.state.log_history).to_csv(draft / "losses.csv", index=False)
        (draft / "data.json").write_text(json.dumps(data, indent=2) + "\n", "utf-8")


def losses(log: list[dict[str, Any]]) -> pd.DataFrame:
    """The log, one row a step: training and validation lines of one step are merged."""
    merged: dict[int, dict[str, Any]] = {}
    for line in log:
        if "loss" in line or "eval_loss" in line:
            merged.setdefault(int(line["step"]), {}).update(line)
    table = pd.DataFrame(merged.values()).reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
    return table.astype(dict.fromkeys(list(COLUMNS.values())[1:], float))


def _unwrapped(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)
