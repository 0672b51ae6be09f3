"""trl's trainer with medbench's batches, checkpoints and watch over the loss."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from trl import SFTConfig, SFTTrainer

from ..errors import StageError
from ..harness.models import resolve_dtype
from ..harness.progress import Tick
from . import alarms, checkpoint
from .batches import EndToEnd, Padded
from .recipe import Recipe


@dataclass(frozen=True)
class Fit:
    """How a recipe's optimizer step is laid out on this machine.

    Attributes:
        rows: Per micro-batch and process; the recipe's ``batch_size`` is rows × accumulation ×
            processes.
        end_to_end: Rows lie in one sequence instead of a padded rectangle.
        reentrant: Activation checkpointing of torch's reentrant kind, which Unsloth's own takes.
    """

    rows: int
    accumulation: int
    processes: int
    end_to_end: bool
    reentrant: bool = False


@dataclass(frozen=True)
class Work:
    """What a trainer needs beside the model: rows, how they are laid out, and who hears of it.

    ``folder`` gets the checkpoints; ``name`` is what experiment trackers call the tuning.
    """

    recipe: Recipe
    train: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]
    fit: Fit
    device: str
    folder: Path
    name: str
    tick: Tick


class Trainer(SFTTrainer):  # type: ignore[misc]
    """trl's trainer, whose checkpoints are medbench's."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.is_fsdp_enabled:
            super()._save_checkpoint(model, trial)
            return
        if self.args.should_save:
            checkpoint.save(self, Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint_path: str | None) -> None:
        if checkpoint_path is None or self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint_path)
        else:
            checkpoint.restore(self, Path(checkpoint_path))

    def _load_rng_state(self, checkpoint_path: str | None) -> None:
        if checkpoint_path is not None and not self.is_fsdp_enabled:
            checkpoint.restore_random(Path(checkpoint_path))


def make_trainer(model: Any, tokenizer: Any, work: Work) -> Trainer:
    """A trainer of *model*, which already has its adapter.

    Raises:
        StageError: The libraries refuse the recipe's optimizer or schedule.
    """
    recipe = work.recipe
    collate = EndToEnd() if work.fit.end_to_end else Padded(tokenizer.pad_token_id)
    try:
        trainer = Trainer(
            model=model,
            args=_settings(work),
            train_dataset=datasets.Dataset.from_list(work.train),
            eval_dataset=datasets.Dataset.from_list(work.validation) if work.validation else None,
            data_collator=collate,
            processing_class=tokenizer,
            callbacks=[Watcher(work.tick)],
        )
    except ValueError as error:
        raise StageError(
            f"recipe {recipe.name!r} does not fit the model: {error}. "
            "Check adapter, optimizer and schedule"
        ) from error
    # trl leaves the adapter of a quantized base in bfloat16; its steps are too coarse for AdamW.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def _settings(work: Work) -> SFTConfig:
    recipe = work.recipe
    dtype = resolve_dtype(recipe.precision, work.device)
    every = recipe.logging_steps
    return SFTConfig(
        output_dir=str(work.folder),
        per_device_train_batch_size=work.fit.rows,
        per_device_eval_batch_size=work.fit.rows,
        gradient_accumulation_steps=work.fit.accumulation,
        max_steps=recipe.steps or -1,
        num_train_epochs=recipe.epochs or 1.0,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        optim=recipe.optimizer,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": work.fit.reentrant},
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=work.device == "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=every,
        logging_nan_inf_filter=False,  # the default shows a NaN loss as 0
        eval_strategy="steps" if work.validation else "no",
        eval_steps=every,
        save_strategy="steps" if recipe.checkpoint_steps else "no",
        save_steps=recipe.checkpoint_steps or every,
        report_to=list(recipe.watch) or "none",
        run_name=work.name,
        project="medbench",
        disable_tqdm=True,
        dataloader_pin_memory=work.device != "cpu",
        ddp_find_unused_parameters=False,
    )


class Watcher(transformers.TrainerCallback):  # type: ignore[misc]
    """Passes steps and losses on, times them, and stops a run that has gone wrong."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._note = ""
        self._since: tuple[float, int] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._since is None:
            self._since = (time.perf_counter(), state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tick(state.global_step, state.max_steps, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        if self._since:
            started, step = self._since
            seconds = (time.perf_counter() - started) / max(1, state.global_step - step)
            self._since = None
            # transformers keeps its own copy of what it logs
            for entry in (logs, state.log_history[-1]):
                entry["seconds_per_step"] = seconds
                if torch.cuda.is_available():
                    entry["peak_bytes"] = torch.cuda.max_memory_allocated()
        self._note = f"loss {float(logs['loss']):.3f}"
        for alarm in alarms.raised(state.log_history):
            if alarm.stop:
                raise StageError(f"{alarm.sentence} (step {state.global_step}){_kept(args)}")


def _kept(args: Any) -> str:
    good, _ = checkpoint.newest(Path(args.output_dir))
    return f". The adapter as it was before is kept in {good}" if good else ""
