"""The process in which Unsloth trains: reads a job, tells its progress, saves the adapter.

Run by :func:`medbench.finetune.backends.tune_with_unsloth` as ``python -m
medbench.finetune.unsloth_child FOLDER``, where FOLDER holds ``job.json``. Every line on stdout is
JSON: a list [done, total, note] is progress, an object is the outcome; whatever libraries print
goes to stderr. Nothing that imports transformers may be imported here before Unsloth is.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MedbenchError, StageError
from ..harness.orphans import end_with_parent

if TYPE_CHECKING:
    from .train import Job


def main(folder: Path) -> int:
    """Body of the process. Returns its exit code."""
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    end_with_parent()

    def say(what: Any) -> None:
        reports.write(json.dumps(what) + "\n")

    try:
        import unsloth  # noqa: F401  (first of all: it replaces parts of what comes next)

        from .train import Stack, tune_here

        stack = Stack(prepared, end_to_end=False, reentrant=True)
        job = _read(folder / "job.json")
        say({"detail": tune_here(job, lambda *progress: say(list(progress)), stack)})
    except MedbenchError as error:
        say({"error": type(error).__name__, "message": str(error)})
        return error.exit_code
    return 0


def prepared(job: Job) -> tuple[Any, Any]:
    """(the base as Unsloth loads it, with a fresh adapter on it; its tokenizer).

    Raises:
        StageError: Unsloth cannot load the base, or the adapter does not fit it.
    """
    from unsloth import FastLanguageModel

    from ..harness.models.load import resolve_dtype

    recipe, spec = job.recipe, job.base
    lora = recipe.adapter
    assert lora.kind == "lora"  # noqa: S101  (backends.choose sends nothing else here)
    # "unsloth" recomputes activations too, and keeps them in host memory meanwhile.
    recompute = "unsloth" if recipe.gradient_checkpointing else False
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=spec.source,
            max_seq_length=recipe.max_length,
            dtype=resolve_dtype(recipe.precision, job.device),
            load_in_4bit=recipe.quantization == "nf4",
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            use_gradient_checkpointing=recompute,
            random_state=recipe.seed,
            use_exact_model_name=True,  # else it takes weights of its own that go by a like name
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = FastLanguageModel.get_peft_model(
            model,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias=lora.bias,
            use_rslora=lora.rslora,
            target_modules=lora.target_modules,
            use_gradient_checkpointing=recompute,
            random_state=recipe.seed,
        )
    except (OSError, ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise StageError(
            f"recipe {recipe.name!r}: Unsloth does not take model {spec.pretrained!r} "
            f"({type(error).__name__}: {error}); backend: trl does without it"
        ) from error
    return model, tokenizer


def _read(path: Path) -> Job:
    from ..harness.suite import ModelSpec
    from .recipe import Recipe
    from .train import Job

    said = json.loads(path.read_text("utf-8"))
    return Job(
        base=ModelSpec.model_validate(said["base"]),
        recipe=Recipe.model_validate(said["recipe"]),
        out=Path(said["out"]),
        scratch=Path(said["scratch"]),
        device=said["device"],
        dropped=frozenset(said["dropped"]),
        watch=Path(said["watch"]) if said["watch"] else None,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
