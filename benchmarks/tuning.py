"""The tutorials' recipe on several stacks: tokens a second, memory and loss at equal rows a step.

    python benchmarks/tuning.py --data demo_data.json --json

Each stack runs in a process of its own on the same base (random weights in the shape of an 8B:
honest for speed and memory), the same rows in the same order, 8 rows an optimizer step, LoRA r=16
on seven projections over NF4 weights, gradient checkpointing:

plain      trl as the tutorials call it: micro-batches of 2 padded rows, 4 accumulated
packing    trl's packing into rows of 2,048 tokens; its steps hold other rows, about as many tokens
medbench   the recipe through medbench's own choice of micro-batch
padded     the recipe through medbench in micro-batches of 2 padded rows
unsloth    the recipe through medbench with Unsloth, where it is installed

The first ``--warm`` steps are not timed. Tokens are those of the rows, never padding.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

STACKS = ("plain", "packing", "padded", "medbench", "unsloth")


def main() -> None:
    options = _arguments()
    if options.one:
        sys.stdout.write(json.dumps(run(options)) + "\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(options.base or Path(scratch) / "base")
        if not base.is_dir():
            _make_base(options, base)
        found = []
        for stack in options.stacks:
            command = [
                sys.executable, __file__, "--one", stack, "--base", str(base),
                "--data", str(options.data), "--steps", str(options.steps),
                "--warm", str(options.warm), "--quantization", options.quantization,
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                found.append({"stack": stack, "error": done.stderr.strip().splitlines()[-1]})
            else:
                found.append(json.loads(done.stdout.splitlines()[-1]))
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/tuning.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "quantization": options.quantization,
        "stacks": found,
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else _table(report)) + "\n")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One stack, in this process."""
    recipe = _recipe(options)
    ours = options.one in ("medbench", "padded", "unsloth")
    losses, seconds, tokens, peak = (_medbench if ours else _trl)(recipe, options)
    timed = seconds[options.warm :]
    rate = sum(tokens[options.warm :]) / sum(timed)
    return {
        "stack": options.one,
        "seconds_per_step": statistics.mean(timed),
        "tokens_per_s": rate,
        "tokens_per_step": statistics.mean(tokens),
        "peak_bytes": peak,
        "losses": losses,
    }


def _recipe(options: argparse.Namespace) -> Any:
    from medbench.finetune.recipe import load_recipe

    recipe = load_recipe("medical-o1-qlora")
    data = recipe.data.model_copy(update={"source": str(options.data), "hold_out": False})
    return recipe.model_copy(
        update={
            "data": data,
            "steps": options.steps,
            "logging_steps": 1,
            "checkpoint_steps": None,
            "quantization": options.quantization,
            "backend": "unsloth" if options.one == "unsloth" else "trl",
            "micro_batch_size": 2 if options.one == "padded" else "auto",
        }
    )


def _medbench(recipe: Any, options: argparse.Namespace) -> tuple[Any, ...]:
    import pandas as pd

    from medbench.finetune.train import Job, tune
    from medbench.harness.progress import silent
    from medbench.harness.suite import ModelSpec

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "adapter"
        job = Job(ModelSpec(pretrained=options.base), recipe, out, Path(scratch) / "steps", device)
        detail = tune(job, silent)
        log = pd.read_csv(out / "losses.csv")
    seconds = log["seconds_per_step"]
    tokens = (seconds * log["tokens_per_second"]).round().tolist()
    return log["loss"].tolist(), seconds.tolist(), tokens, detail["peak_bytes"]


def _trl(recipe: Any, options: argparse.Namespace) -> tuple[Any, ...]:
    """Plain trl, as a tutorial calls it: its own defaults for all that the recipe leaves open."""
    import datasets
    import transformers
    from trl import SFTConfig, SFTTrainer

    from medbench.finetune.dataset import examples
    from medbench.harness.models.load import load_base
    from medbench.harness.suite import ModelSpec

    spec = ModelSpec(pretrained=options.base, quantization=recipe.quantization)
    model, tokenizer = load_base(spec, "cuda" if torch.cuda.is_available() else "cpu")
    rows = [{"prompt": e.prompt, "completion": e.completion} for e in examples(recipe, recipe.seed)]
    packing = options.one == "packing"
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=1 if packing else 2,
            gradient_accumulation_steps=3 if packing else 4,
            packing=packing,
            max_length=recipe.max_length,
            max_steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            optim=recipe.optimizer,
            gradient_checkpointing=True,
            bf16=torch.cuda.is_available(),
            seed=recipe.seed,
            data_seed=recipe.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        clock = _clock(transformers)
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=recipe.adapter.config(),
            callbacks=[clock],
        )
        trainer.train()
    log = [line for line in trainer.state.log_history if "loss" in line]
    counts = [0, *(int(line["num_tokens"]) for line in log)]
    tokens = [b - a for a, b in itertools.pairwise(counts)]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return [line["loss"] for line in log], clock.seconds, tokens, peak


def _clock(transformers: Any) -> Any:
    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self._started)

    return Clock()


def _make_base(options: argparse.Namespace, out: Path) -> None:
    from machine import load  # type: ignore[import-not-found]

    rows = json.loads(options.data.read_text("utf-8"))
    texts = [f"{row['Question']} {row['Complex_CoT']} {row['Response']}" for row in rows]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load(options.model, device, texts)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['device']}, torch {report['torch']}, {report['quantization']}; {report['date']}",
        "",
        "| stack | s/step | tokens/s | peak memory | loss, first and last step |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in report["stacks"]:
        if "error" in one:
            lines.append(f"| {one['stack']} | {one['error']} | | | |")
            continue
        peak = f"{one['peak_bytes'] / 1e9:.1f} GB" if one["peak_bytes"] else "—"
        first, last = one["losses"][0], one["losses"][-1]
        lines.append(
            f"| {one['stack']} | {one['seconds_per_step']:.2f} | {one['tokens_per_s']:,.0f} | "
            f"{peak} | {first:.3f}, {last:.3f} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--data", type=Path, required=True, help="medical-o1 rows, a JSON list")
    parser.add_argument("--model", default="8b" if torch.cuda.is_available() else "48m")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--warm", type=int, default=4, help="steps that are not timed")
    parser.add_argument("--stacks", nargs="+", default=STACKS[:-1], choices=STACKS)
    parser.add_argument("--quantization", default="nf4", choices=["nf4", "int8", "none"])
    parser.add_argument("--one", choices=STACKS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help="folder of the base; made when it is not there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
