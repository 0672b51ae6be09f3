"""Recipe + base model → adapter folder: setup, fit, save."""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import torch
import transformers
from peft import LoraConfig, prepare_model_for_kbit_training
from trl import SFTConfig, SFTTrainer

from ..errors import StageError
from ..harness.models import load_base, resolve_dtype
from ..harness.progress import Tick
from ..harness.store import atomic_path
from ..harness.suite import ModelSpec
from .dataset import examples, fingerprint
from .recipe import Recipe


def tune(base: ModelSpec, recipe: Recipe, out: Path, *, device: str, tick: Tick) -> dict[str, Any]:
    """Train an adapter for *base* by *recipe* and save it as the folder *out*.

    The folder gets adapter_config.json and adapter_model.safetensors, recipe.yaml (resolved),
    losses.csv (step, loss, learning_rate, grad_norm, epoch) and data.json.

    Returns:
        What the run folder's manifest keeps of it (docs/reference/run-folder.md, ``tune``).

    Raises:
        InputError: The recipe's data does not fit its templates.
        StageError: The loss stopped being a number, or the adapter is not trainable.
    """
    started = time.perf_counter()
    rows = examples(recipe, recipe.seed)
    transformers.set_seed(recipe.seed)
    spec = base.model_copy(update={"quantization": recipe.quantization, "dtype": recipe.precision})
    model, tokenizer = load_base(spec, device)
    if recipe.quantization != "none":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(model, tokenizer, rows, recipe, device, Path(scratch), tick)
        trainer.train()
        losses = _losses(trainer.state.log_history)
        trainable, total = trainer.model.get_nb_trainable_parameters()
        data = {
            "source": recipe.data.source,
            "rows": len(rows),
            "sha256": fingerprint(rows),
        }
        with atomic_path(out) as draft:
            trainer.model.save_pretrained(draft, safe_serialization=True)
            (draft / "recipe.yaml").write_text(recipe.yaml(), "utf-8")
            losses.to_csv(draft / "losses.csv", index=False)
            (draft / "data.json").write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    return {
        "rows": data["rows"],
        "data_sha256": data["sha256"],
        "steps": trainer.state.global_step,
        "seconds": time.perf_counter() - started,
        "loss_first": float(losses["loss"].iloc[0]),
        "loss_last": float(losses["loss"].iloc[-1]),
        "trainable_parameters": trainable,
        "parameters": total,
        "quantization": recipe.quantization,
    }


def _trainer(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, str]],
    recipe: Recipe,
    device: str,
    scratch: Path,
    tick: Tick,
) -> Any:
    dtype = resolve_dtype(recipe.precision, device)
    config = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=recipe.batch_size // recipe.micro_batch_size,
        max_steps=recipe.steps or -1,
        num_train_epochs=recipe.epochs or 1.0,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        optim=recipe.optimizer,
        gradient_checkpointing=recipe.gradient_checkpointing,
        max_length=recipe.max_length,
        completion_only_loss=True,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=device == "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,  # the default shows a NaN loss as 0
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device != "cpu",
    )
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        bias=recipe.lora.bias,
        target_modules=recipe.lora.target_modules,
    )
    try:
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[_Progress(tick)],
        )
    except ValueError as error:
        raise StageError(
            f"recipe {recipe.name!r} does not fit the model: {error}. "
            "Check lora.target_modules, optimizer and schedule"
        ) from error
    # trl leaves the adapter of a quantized base in bfloat16; its steps are too coarse for AdamW.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


class _Progress(transformers.TrainerCallback):  # type: ignore[misc]
    """Passes steps and losses on, and stops a run whose loss is no number any more."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._note = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tick(state.global_step, state.max_steps, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise StageError(
                f"loss is {loss} at step {state.global_step}; lower the recipe's learning_rate "
                "or check the rows around it"
            )
        self._note = f"loss {float(loss):.3f}"


def _losses(history: list[dict[str, Any]]) -> pd.DataFrame:
    """The training log as a table, without the closing summary."""
    columns = ["step", "loss", "learning_rate", "grad_norm", "epoch"]
    table = pd.DataFrame([entry for entry in history if "loss" in entry], columns=columns)
    if table.empty:
        raise StageError("no loss was logged; set the recipe's logging_steps below its steps")
    return table.astype(dict.fromkeys(columns[1:], float))
