"""Recipe + base model → adapter folder: setup, fit, save."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from ..errors import InputError, StageError
from ..harness.models import load_base
from ..harness.packing import out_of_memory
from ..harness.progress import Tick
from ..harness.store import atomic_path
from ..harness.suite import ModelSpec
from . import alarms, checkpoint
from .backends import choose, tune_with_unsloth
from .batches import lay_end_to_end
from .dataset import Example, encode, examples, fingerprint, keep_apart
from .memory import rows_that_fit
from .recipe import Recipe
from .trainer import Fit, Trainer, Work, make_trainer
from .watch import watching

COLUMNS = {
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "eval_loss": "validation_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "seconds_per_step": "seconds_per_step",
    "peak_bytes": "peak_bytes",
}
"""What transformers logs → the columns of losses.csv (docs/reference/run-folder.md)."""


PADDED_TOKENS = 2048
"""At most so many tokens go through a CPU at once: more only adds padding to compute."""


@dataclass(frozen=True)
class Job:
    """One tuning: *recipe* over *base* into the folder *out*, with its checkpoints in *scratch*.

    ``dropped`` are places in the source of rows that overlap a test and are left out; ``watch`` is
    where experiment trackers put their files, beside the adapter when it is None.
    """

    base: ModelSpec
    recipe: Recipe
    out: Path
    scratch: Path
    device: str
    dropped: frozenset[int] = frozenset()
    watch: Path | None = None


@dataclass(frozen=True)
class Rows:
    """What is tuned on, as texts and as token ids."""

    texts: list[Example]
    train: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]
    too_long: list[int]


@dataclass(frozen=True)
class Stack:
    """How one back end trains.

    Attributes:
        load: Gives (the base with a fresh adapter on it, its tokenizer).
        end_to_end: Whether rows may lie end to end, without padding, where the GPU can.
        reentrant: The kind of activation checkpointing, as torch names it.
    """

    load: Callable[[Job], tuple[Any, Any]]
    end_to_end: bool
    reentrant: bool


def tune(job: Job, tick: Tick) -> dict[str, Any]:
    """Train an adapter and save it, by the back end that fits (:func:`.backends.choose`).

    The folder gets adapter_config.json and adapter_model.safetensors, recipe.yaml (resolved),
    losses.csv, and data.json (rows, their hash, the rows left out, alarms). A run that was killed
    goes on from its newest whole checkpoint; the scratch folder is gone when tuning is done.

    Returns:
        What the run folder's manifest keeps of it (docs/reference/run-folder.md, ``tune``).

    Raises:
        InputError: The recipe's data does not fit its templates or the model's tokenizer.
        StageError: The loss stopped being a number, not one row fits into memory, or the adapter
            cannot be trained.
    """
    choice = choose(job.recipe, job.device)
    here = choice.name == "trl"
    detail = tune_here(job, tick, TRL) if here else tune_with_unsloth(job, tick)
    return detail | {"backend": choice.name, "backend_why": choice.why}


def tune_here(job: Job, tick: Tick, stack: Stack) -> dict[str, Any]:
    """Train and save in this process with *stack*; as :func:`tune`."""
    started = time.perf_counter()
    most = _share(job.recipe)
    while True:
        try:
            rows, trainer, went_on = _fit(job, most, tick, stack)
            break
        except Exception as error:
            if not out_of_memory(error):
                raise
            # Several processes would each have to know that one of them ran out.
            if most == 1 or job.recipe.micro_batch_size != "auto" or _processes() > 1:
                raise StageError(
                    f"recipe {job.recipe.name!r}: {most} rows at once do not fit into the memory "
                    "there is; set quantization: nf4, gradient_checkpointing: true, or a smaller "
                    "max_length or micro_batch_size"
                ) from error
        # The failed trainer is still on the stack inside the except block; only here is it gone.
        most = max(_divisors(most)[:-1])
        gc.collect()
        torch.cuda.empty_cache()
    detail = _detail(job, rows, trainer) | went_on
    if trainer.args.should_save:
        _save(job, rows, trainer)
    trainer.accelerator.wait_for_everyone()
    return detail | {"seconds": time.perf_counter() - started}


def _fit(job: Job, most: int, tick: Tick, stack: Stack) -> tuple[Rows, Trainer, dict[str, Any]]:
    """(rows, the trainer when it is done, what was gone on from); *most* rows go at once."""
    recipe = job.recipe
    transformers.set_seed(recipe.seed)
    model, tokenizer = stack.load(job)
    rows = _rows(job, tokenizer)
    automatic = recipe.micro_batch_size == "auto" and recipe.adapter.kind != "prefix"
    rows_at_once = _at_once(recipe, model, rows, most)
    fit = Fit(
        rows=rows_at_once,
        accumulation=recipe.batch_size // (rows_at_once * _processes()),
        processes=_processes(),
        end_to_end=automatic and stack.end_to_end and lay_end_to_end(model.get_base_model()),
        reentrant=stack.reentrant,
    )
    name = job.out.name
    work = Work(recipe, rows.train, rows.validation, fit, job.device, job.scratch, name, tick)
    start, damaged = checkpoint.newest(job.scratch)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with watching(recipe.watch, job.watch or job.out.parent / "watch", name):
        trainer = make_trainer(model, tokenizer, work)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    went_on = {"resumed_from": start and start.name, "damaged_checkpoints": damaged}
    return rows, trainer, went_on


def _prepared(job: Job) -> tuple[Any, Any]:
    """(the base with a fresh adapter on it, its tokenizer)."""
    from peft import get_peft_model

    recipe = job.recipe
    spec = job.base.model_copy(
        update={"quantization": recipe.quantization, "dtype": recipe.precision}
    )
    model, tokenizer = load_base(spec, job.device)
    for parameter in model.parameters():
        parameter.requires_grad = False
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
    model.config.use_cache = False
    try:
        return get_peft_model(model, recipe.adapter.config()), tokenizer
    except ValueError as error:
        raise StageError(
            f"recipe {recipe.name!r} does not fit the model: {error}. Check adapter.target_modules"
        ) from error


TRL = Stack(_prepared, end_to_end=True, reentrant=False)


def _rows(job: Job, tokenizer: Any) -> Rows:
    recipe = job.recipe
    texts = examples(recipe, recipe.seed, tokenizer, job.dropped)
    encoded = encode(texts, tokenizer, recipe)
    if len(encoded.rows) <= recipe.data.validation_rows:
        raise InputError(
            f"recipe {recipe.name!r}: of {len(texts)} rows {len(encoded.too_long)} are longer than "
            f"max_length {recipe.max_length} tokens and {recipe.data.validation_rows} are kept for "
            "validation, so that none is left to tune on"
        )
    train, validation = keep_apart(encoded.rows, recipe.data.validation_rows)
    return Rows(texts, train, validation, encoded.too_long)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _share(recipe: Recipe) -> int:
    """The most rows that may go through at once in each process.

    Raises:
        InputError: The recipe's batch cannot be shared out evenly.
    """
    share, rest = divmod(recipe.batch_size, _processes())
    if rest or share == 0:
        raise InputError(
            f"recipe {recipe.name!r}: batch_size {recipe.batch_size} cannot be shared evenly by "
            f"{_processes()} processes; start as many as divide it"
        )
    if recipe.micro_batch_size == "auto":
        return share
    if share % recipe.micro_batch_size:
        raise InputError(
            f"recipe {recipe.name!r}: {share} rows a process and step are no multiple of "
            f"micro_batch_size {recipe.micro_batch_size}"
        )
    return recipe.micro_batch_size


def _at_once(recipe: Recipe, model: Any, rows: Rows, most: int) -> int:
    """How many rows go through at once: a divisor of *most*, so that a step keeps its rows.

    On a GPU as many as are predicted to fit; on a CPU, where rows are padded, as many as keep the
    padding small.
    """
    if recipe.micro_batch_size != "auto":
        return most
    longest = max(len(row["input_ids"]) for row in rows.train)
    if model.device.type == "cpu":
        fitting = PADDED_TOKENS // longest
    else:
        free, total = torch.cuda.mem_get_info(model.device)
        free += torch.cuda.memory_allocated(model.device)
        # Processes must decide alike, and what is free is not alike on all GPUs.
        budget = round(0.9 * total) if _processes() > 1 else free
        fitting = rows_that_fit(model.config, recipe, budget, longest)
    return max(size for size in _divisors(most) if size <= max(1, fitting))


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _detail(job: Job, rows: Rows, trainer: Trainer) -> dict[str, Any]:
    log = trainer.state.log_history
    losses = [float(line["loss"]) for line in log if "loss" in line]
    if not losses:
        raise StageError("no loss was logged; set the recipe's logging_steps below its steps")
    trainable, total = _unwrapped(trainer).get_nb_trainable_parameters()
    fit = trainer.args
    return {
        "rows": len(rows.train),
        "validation_rows": len(rows.validation),
        "too_long": len(rows.too_long),
        "data_sha256": fingerprint(rows.texts),
        "rows_at_once": fit.per_device_train_batch_size,
        "accumulation": fit.gradient_accumulation_steps,
        "processes": _processes(),
        "steps": trainer.state.global_step,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "trainable_parameters": trainable,
        "parameters": total,
        "quantization": job.recipe.quantization,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "alarms": [asdict(alarm) for alarm in alarms.raised(log)],
    }


def _save(job: Job, rows: Rows, trainer: Trainer) -> None:
    data = {
        "source": job.recipe.data.source,
        "rows": len(rows.train),
        "validation_rows": len(rows.validation),
        "sha256": fingerprint(rows.texts),
        "too_long": rows.too_long,
    }
    with atomic_path(job.out) as draft:
        _unwrapped(trainer).save_pretrained(draft)
        (draft / "recipe.yaml").write_text(job.recipe.yaml(), "utf-8")
        _losses(trainer.state.log_history).to_csv(draft / "losses.csv", index=False)
        (draft / "data.json").write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    shutil.rmtree(job.scratch, ignore_errors=True)


def _losses(log: list[dict[str, Any]]) -> pd.DataFrame:
    """The log, one row a step: training and validation lines of one step are merged."""
    lines = [line for line in log if "loss" in line or "eval_loss" in line]
    merged: dict[int, dict[str, Any]] = {}
    for line in lines:
        merged.setdefault(int(line["step"]), {}).update(line)
    table = pd.DataFrame(merged.values()).reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
    return table.astype(dict.fromkeys(list(COLUMNS.values())[1:], float))


def _unwrapped(trainer: Trainer) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)
