"""Recipe + base model → adapter folder: setup, fit, save."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from ..errors import StageError
from ..harness.models.load import load_base, resolve_dtype
from ..harness.progress import Tick
from ..harness.ranks import sharded, world
from ..harness.scorer.packing import out_of_memory
from ..harness.suite import ModelSpec
from . import checkpoint, record
from .backends import choose, tune_with_unsloth
from .batches import lay_end_to_end
from .dataset import Prepared, prepare
from .layout import Fit, fewer, most_rows, rows_at_once
from .recipe import Recipe
from .sharding import hold_in_nf4, let_go, shard
from .trainer import Trainer, Work, make_trainer
from .watch import watching


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
    losses.csv, and data.json (rows, their hash, the rows left out). A run that was killed goes on
    from its newest whole checkpoint; the scratch folder is gone when tuning is done.

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
    if sharded():
        let_go()
    return detail | {"backend": choice.name, "backend_why": choice.why}


def tune_here(job: Job, tick: Tick, stack: Stack) -> dict[str, Any]:
    """Train and save in this process with *stack*; as :func:`tune`."""
    started = time.perf_counter()
    most = most_rows(job.recipe, world())
    while True:
        try:
            rows, trainer, beside = _fit(job, most, tick, stack)
            break
        except Exception as error:
            if not out_of_memory(error):
                raise
            # Several processes would each have to know that one of them ran out.
            if most == 1 or job.recipe.micro_batch_size != "auto" or world() > 1:
                raise StageError(
                    f"recipe {job.recipe.name!r}: {most} rows at once do not fit into the memory "
                    "there is; set quantization: nf4, gradient_checkpointing: true, or a smaller "
                    "max_length or micro_batch_size"
                ) from error
        # The failed trainer is still on the stack inside the except block; only here is it gone.
        most = fewer(most)
        gc.collect()
        torch.cuda.empty_cache()
    detail = record.detail(job.recipe, rows, trainer) | beside
    if trainer.args.should_save:
        record.save(job.out, job.recipe, rows, trainer)
        shutil.rmtree(job.scratch, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return detail | {"seconds": time.perf_counter() - started}


def _fit(job: Job, most: int, tick: Tick, stack: Stack) -> tuple[Prepared, Trainer, dict[str, Any]]:
    """(rows, the trainer when it is done, more for the manifest); *most* rows go at once."""
    recipe = job.recipe
    transformers.set_seed(recipe.seed)
    model, tokenizer = stack.load(job)
    trainable, parameters = model.get_nb_trainable_parameters()
    if sharded():
        shard(model, job.device)
    rows = prepare(recipe, tokenizer, job.dropped)
    longest = max(len(row["input_ids"]) for row in rows.train)
    at_once = rows_at_once(recipe, model, longest, most, world())
    automatic = recipe.micro_batch_size == "auto" and recipe.adapter.kind != "prefix"
    fit = Fit(
        rows=at_once,
        accumulation=recipe.batch_size // (at_once * world()),
        processes=world(),
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
    return (
        rows,
        trainer,
        {
            "trainable_parameters": trainable,
            "parameters": parameters,
            "sharded": sharded(),
            "resumed_from": start and start.name,
            "damaged_checkpoints": damaged,
        },
    )


def _prepared(job: Job) -> tuple[Any, Any]:
    """(the base with a fresh adapter on it, its tokenizer)."""
    from peft import get_peft_model

    recipe = job.recipe
    spec = job.base.model_copy(
        update={"quantization": recipe.quantization, "dtype": recipe.precision}
    )
    if sharded():
        model, tokenizer = _to_be_sharded(spec, job.device)
    else:
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


def _to_be_sharded(spec: ModelSpec, device: str) -> tuple[Any, Any]:
    """As :func:`load_base`, but on the CPU, for no GPU need hold it whole."""
    dtype = resolve_dtype(spec.dtype, device)
    plain = spec.model_copy(
        update={"quantization": "none", "dtype": str(dtype).removeprefix("torch.")}
    )
    model, tokenizer = load_base(plain, "cpu")
    if spec.quantization == "nf4":
        hold_in_nf4(model, dtype, device)
    return model, tokenizer


TRL = Stack(_prepared, end_to_end=True, reentrant=False)
