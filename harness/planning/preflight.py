"""What would fail in a later stage, found before the first one starts and anything is written.

A plan is checked when it is made (plan.py); what is here loads more, and is for a plan that is
about to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from string import Formatter

from ...errors import InputError
from ...finetune.recipe import Recipe
from ..ranks import world
from .hub import check_hub
from .plan import Plan

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "lm_eval": "lm-eval",
    "onnx": "onnx",
    "onnx_ir": "onnx-ir",
    "onnxruntime": "onnxruntime-gpu",
    "onnxruntime_genai": "onnxruntime-genai-cuda",
    "onnxscript": "onnxscript",
    "peft": "peft",
    "trl": "trl",
}
"""What stages import, and the name by which pip knows it (on Linux, x86-64)."""


def preflight(plan: Plan) -> list[str]:
    """Check that *plan* can be carried out.

    Returns:
        What a user must know of where models and data come from.

    Raises:
        InputError: A package, model or data set is missing, or a recipe cannot be followed.
    """
    _check_packages(plan)
    _check_executor(plan)
    for recipe in plan.recipes.values():
        _check_templates(recipe)
        _check_names(recipe)
        _check_rows(recipe)
    return check_hub(plan)


def _check_packages(plan: Plan) -> None:
    for stage, needed in _needed(plan):
        missing = [name for name in needed if find_spec(name) is None]
        if missing:
            pip = " ".join(PACKAGES[name] for name in missing)
            raise InputError(
                f"stage {stage} needs {', '.join(missing)}, which is not installed; "
                f"pip install -c constraints.txt {pip}"
            )


def _needed(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """The stages of *plan* and what each imports besides torch and transformers."""
    for name, recipe in plan.recipes.items():
        more = ["bitsandbytes"] if recipe.quantization != "none" else []
        yield f"tune/{name}", ["trl", "peft", *more]
    for name in plan.models:
        spec = plan.spec(plan.base_of(name))
        more = ["peft"] if plan.spec(name).base else []
        more += ["bitsandbytes"] if spec.quantization != "none" else []
        yield f"score/{name}", ["lm_eval", *more]
    for name in plan.exports():
        more = ["onnxruntime", "onnxruntime_genai", "onnxscript"]
        yield f"export/{name}", ["onnx", "onnx_ir", *more]


def _check_executor(plan: Plan) -> None:
    if plan.suite.executor == "local":
        return
    if find_spec("ray") is None:
        raise InputError(
            "executor: ray needs ray, which is not installed; pip install -c constraints.txt ray, "
            "or --executor local"
        )
    if world() > 1:
        raise InputError(
            "executor: ray starts its own workers; start medbench without accelerate or torchrun, "
            "or use --executor local"
        )
    for name in plan.models:
        if int(plan.spec(plan.base_of(name)).args.get("data_parallel_size", 1)) > 1:
            raise InputError(
                f"models.{name}: data_parallel_size starts workers of its own through Ray; leave "
                "it out and name several models, or use --executor local"
            )


def _check_templates(recipe: Recipe) -> None:
    for key, template in (("prompt", recipe.prompt), ("completion", recipe.completion)):
        try:
            fields = [field for _, field, _, _ in Formatter().parse(template or "")]
        except ValueError as error:
            raise InputError(
                f"recipe {recipe.name!r}, {key}: {error}; expected columns as {{Column}}, and a "
                "brace of the text itself doubled"
            ) from None
        if "" in fields:
            raise InputError(
                f"recipe {recipe.name!r}, {key}: {{}} names no column; expected {{Column}}, and a "
                "brace of the text itself doubled"
            )


def _check_names(recipe: Recipe) -> None:
    """Check what only transformers knows."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    for key, given, kind in (
        ("schedule", recipe.schedule, SchedulerType),
        ("optimizer", recipe.optimizer, OptimizerNames),
    ):
        known = [one.value for one in kind]
        if given not in known:
            near = ", ".join(get_close_matches(given, known, n=5) or known[:5])
            raise InputError(
                f"recipe {recipe.name!r}, {key}: {given!r} is unknown; expected a name of "
                f"transformers' {kind.__name__}, such as {near}"
            )


def _check_rows(recipe: Recipe) -> None:
    """Read a local file as tuning will; what is on the Hub is read when it is tuned on."""
    from ...finetune.dataset import examples
    from ...finetune.rows import eligible

    if not Path(recipe.data.source).is_file():
        return
    if recipe.format == "text":
        examples(recipe, recipe.seed)
    else:  # only the model's tokenizer knows the template
        eligible(recipe.data, recipe.seed)
