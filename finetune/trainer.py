"""trl's trainer with medbench's batches, checkpoints and watch over the loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers.integrations import get_reporting_integration_callbacks
from trl import SFTConfig, SFTTrainer

from ..errors import StageError
from ..harness.models.load import resolve_dtype
from ..harness.progress import Tick
from ..harness.ranks import sharded
from . import alarms, checkpoint
from .batches import EndToEnd, Padded
from .dataset import Ids
from .layout import Fit
from .recipe import Recipe
from .sharding import averaged


@dataclass(frozen=True)
class Work:
    """What a trainer needs beside the model: rows, how they are laid out, and who hears of it.

    ``folder`` gets the checkpoints; ``name`` is what experiment trackers call the tuning.
    """

    recipe: Recipe
    train: list[Ids]
    validation: list[Ids]
    fit: Fit
    device: str
    folder: Path
    name: str
    tick: Tick


class Trainer(SFTTrainer):  # type: ignore[misc]
    """trl's trainer, whose checkpoints are medbench's and whose validation loss is exact."""

    control: Any

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Nats a token over all validation rows.

        transformers takes the mean of micro-batches' means, which differs by how rows are laid out
        and by how many processes share them.
        """
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # nats, tokens
        for rows, counts in self._validation_batches():
            batch = self._prepare_inputs(self.data_collator([self.eval_dataset[n] for n in rows]))
            tokens = (batch["labels"][:, 1:] != -100).sum()
            with torch.no_grad():
                loss = self.model(**batch, use_cache=False).loss
            if counts:
                total += torch.stack([loss.double() * tokens, tokens.double()])
        nats, count = self.accelerator.reduce(total).tolist()
        found = {"eval_loss": nats / count}
        self.log(found)
        # Without it transformers would validate once more at the end of each epoch.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _validation_batches(self) -> Iterator[tuple[Sequence[int], bool]]:
        """(rows of this process's share, whether they count), as many in each process.

        A sharded base comes together for each batch, which takes all processes: one that has no
        rows left goes through a batch that does not count.
        """
        size, processes = self.args.per_device_eval_batch_size, self.args.world_size
        rows = len(self.eval_dataset)
        mine = [*_batched(range(self.args.process_index, rows, processes), size)]
        for at in range(math.ceil(math.ceil(rows / processes) / size)):
            yield (mine[at], True) if at < len(mine) else ([0], False)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not sharded():  # a share is where it belongs, and DTensors cannot be moved
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if not (training and sharded()):
            return super()._wrap_model(model, training, dataloader)
        # accelerate puts autocast around it here; that it takes no part in the gradients is meant.
        return averaged(self.accelerator.prepare_model(model, evaluation_mode=True))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:
            checkpoint.save(self, Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint_path: str | None) -> None:
        if checkpoint_path is not None:
            checkpoint.restore(self, Path(checkpoint_path))

    def _load_rng_state(self, checkpoint_path: str | None) -> None:
        if checkpoint_path is not None:
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
            # In this order: trackers hear what the watcher adds.
            callbacks=[Watcher(work.tick), *get_reporting_integration_callbacks(recipe.watch)],
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
    settings = SFTConfig(
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
        report_to="none",  # make_trainer adds the trackers
        run_name=work.name,
        project="medbench",
        disable_tqdm=True,
        dataloader_pin_memory=work.device != "cpu",
        ddp_find_unused_parameters=False,
    )
    # One process is one GPU. Where transformers sees more, it splits batches with nn.DataParallel:
    # more rows a step than the recipe says, a loss that is the sum over GPUs, and no speed-up.
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


class Watcher(transformers.TrainerCallback):  # type: ignore[misc]
    """Passes steps and losses on, times them, and stops a run that has gone wrong."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._note = ""
        self._since: tuple[float, int] | None = None
        self._tokens = 0
        self._alarms, self._heard = alarms.Watch(), 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._since is None:
            self._since = (time.perf_counter(), state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tick(state.global_step, state.max_steps, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        line = state.log_history[-1]  # transformers' own copy of what it logs
        if args.fp16 and not math.isfinite(line.get("grad_norm", 0.0)):
            # The scaler of float16 gradients skips such a step and takes a smaller scale.
            del line["grad_norm"], logs["grad_norm"]
        pace = self._pace(state.global_step, logs)
        line |= pace
        logs |= pace
        self._note = f"loss {float(logs['loss']):.3f}"
        for heard in state.log_history[self._heard :]:
            self._alarms.hear(heard)
        self._heard = len(state.log_history)
        for alarm in self._alarms.raised():
            if alarm.stop:
                raise StageError(f"{alarm.sentence} (step {state.global_step}){_kept(args)}")

    def _pace(self, step: int, logs: dict[str, Any]) -> dict[str, float]:
        """Time, tokens and memory of the steps since the last line; padding is no token."""
        if self._since is None:
            return {}
        started, before = self._since
        seconds = time.perf_counter() - started
        found = {"seconds_per_step": seconds / max(1, step - before)}
        if "num_tokens" in logs:
            found["tokens_per_second"] = (logs["num_tokens"] - self._tokens) / seconds
            self._tokens = logs["num_tokens"]
        if torch.cuda.is_available():
            found["peak_bytes"] = torch.cuda.max_memory_allocated()
        self._since = None
        return found


def _batched(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Slices of *numbers*, *size* long but the last (itertools has it from Python 3.12 on)."""
    return (numbers[at : at + size] for at in range(0, len(numbers), size))


def _kept(args: Any) -> str:
    good, _ = checkpoint.newest(Path(args.output_dir))
    return f". The adapter as it was before is kept in {good}" if good else ""
