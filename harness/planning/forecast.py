"""What tuning will need: memory by precision and time, before weights are loaded.

A forecast is a JSON value: `medbench plan` prints it, and a run keeps it beside what it measured.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ...errors import InputError

if TYPE_CHECKING:
    from ...finetune.recipe import Recipe
    from ..suite import ModelSpec
    from .plan import Plan

SIZES = (24, 80, 141)
"""Memory of GPUs (GB) that a forecast says something of, beside the one that is named."""
SCORING = 1_600_000_000
"""Bytes over the weights while scoring: 1.05 to 1.55 GB at 8B (docs/measurements.md)."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows to tune on; ``rows`` is None and all are ``max_length`` when not known."""

    tokens: list[int]
    rows: int | None
    source: str


def of_plan(plan: Plan, gpu: str | None, shards: int = 1) -> list[dict[str, Any]]:
    """A forecast for each model that *plan* tunes, its base held by *shards* GPUs between them.

    Raises:
        InputError: A base's config cannot be read, the GPU is not known, or a batch cannot be
            shared by so many.
    """
    found = []
    for name, recipe in plan.recipes.items():
        spec = plan.spec(plan.base_of(name))
        one = of_tuning(spec, recipe, gpu=gpu, shards=shards) | {"model": name}
        if plan.timed():
            one["later"] |= _of_latency(one["parameters"], len(plan.formats()))
        found.append(one)
    return found


def of_tuning(
    spec: ModelSpec,
    recipe: Recipe,
    *,
    gpu: str | None = None,
    ran: dict[str, Any] | None = None,
    dropped: Collection[int] = (),
    shards: int = 1,
) -> dict[str, Any]:
    """The forecast of tuning base *spec* by *recipe* (docs/reference/plan.md has its keys).

    Args:
        gpu: A name of finetune/gpus.py; without one no time is predicted.
        ran: What a tuning that has run says of itself: its rows at once, layout and processes
            are taken.
        dropped: Places in the source of rows that are left out.
        shards: So many GPUs hold the base between them; memory is that of each. Of a tuning that
            has run, what it says is taken.

    Raises:
        InputError: The base's config cannot be read, its architecture or *gpu* is not known.
    """
    from ...finetune import gpus, memory
    from ...finetune.layout import most_rows
    from ...finetune.skeleton import Skeleton

    card = gpus.find(gpu) if gpu else None
    config = base_config(spec)
    lengths = row_lengths(spec, recipe, dropped)
    if ran:
        shards = ran["processes"] if ran.get("sharded") else 1
    rows = (ran or {}).get("rows_at_once") or most_rows(recipe, shards)
    end_to_end = _end_to_end(config, recipe) and (card is None or card.end_to_end)
    end_to_end = (ran or {}).get("end_to_end", end_to_end)
    layout = memory.largest(lengths.tokens, rows, recipe, end_to_end=end_to_end)
    steps = recipe.steps
    if steps is None and lengths.rows and recipe.epochs:
        steps = max(1, round(recipe.epochs * lengths.rows / recipe.batch_size))
    sizes = sorted({*SIZES, *([round(card.memory / 1e9)] if card else [])})
    table, parameters = {}, 0
    for name, variant in memory.precisions(recipe).items():
        if shards > 1 and variant.quantization == "int8":
            continue  # cannot be sharded
        skeleton = Skeleton(config, variant, trust_remote_code=spec.trust_remote_code)
        parameters = skeleton.parameters
        line: dict[str, Any] = memory.of(skeleton, variant, layout, shards).parts()
        line["fits"] = {
            str(size): _most_rows(skeleton, variant, layout, size * 10**9, shards) for size in sizes
        }
        if card:
            there = rows if ran else line["fits"][str(round(card.memory / 1e9))]
            second = None
            if there:
                whole = gpus.step_seconds(skeleton, config, variant, lengths.tokens, there, card)
                second = whole / (ran or {}).get("processes", shards)
            line |= {
                "step_seconds": second,
                "seconds": second * steps if second and steps else None,
            }
        table[name] = line
    return {
        "recipe": recipe.name,
        "precision": memory.precision_of(recipe),
        "parameters": parameters,
        "shards": shards,
        "rows_at_once": rows,
        "end_to_end": end_to_end,
        "tokens_at_once": layout.tokens,
        "batch_size": recipe.batch_size,
        "steps": steps,
        "lengths": {
            "rows": lengths.rows,
            "mean": fmean(lengths.tokens),
            "median": median(lengths.tokens),
            "longest": max(lengths.tokens),
            "source": lengths.source,
        },
        "gpu": {"name": card.name, "memory": card.memory, "source": card.source} if card else None,
        "efficiency": dict(gpus.EFFICIENCY) if card else None,
        "precisions": table,
        "later": {"scoring_bytes": _scoring(spec, parameters)},
    }


def beside(
    detail: dict[str, Any], spec: ModelSpec, recipe: Recipe, dropped: Collection[int]
) -> dict[str, Any]:
    """What a tuning says of itself, with what would have been predicted as ``predicted``.

    Where nothing can be, ``predicted`` is null, ``not_predicted`` says why, and the run goes on.
    """
    if detail.get("backend") == "unsloth":
        return detail | {
            "predicted": None,
            "not_predicted": "Unsloth manages memory in its own way",
        }
    try:
        found = of_tuning(spec, recipe, gpu=_this_gpu(), ran=detail, dropped=dropped)
    except Exception as error:  # no fault of a forecast may cost a tuning that is done
        reason = str(error) if isinstance(error, InputError) else repr(error)
        return detail | {"predicted": None, "not_predicted": reason}
    return detail | {"predicted": found}


def _this_gpu() -> str | None:
    """Its name where its rates are known."""
    import torch

    from ...finetune import gpus

    if not torch.cuda.is_available():
        return None
    try:
        return gpus.find(torch.cuda.get_device_name()).name
    except InputError:
        return None


def base_config(spec: ModelSpec) -> Any:
    """The config of a base model.

    Raises:
        InputError: It is not there, or the Hub cannot be reached.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        here = spec.source.startswith((".", "/", "~")) and not Path(spec.source).is_dir()
        reason = "no such folder" if here else str(error).splitlines()[0]
        raise InputError(
            f"model {spec.pretrained}: its config.json cannot be read ({reason}). Connect to the "
            "Hub, or give a local folder that holds config.json: "
            "--set models.<base>.pretrained=./FOLDER"
        ) from error


def row_lengths(spec: ModelSpec, recipe: Recipe, dropped: Collection[int] = ()) -> Lengths:
    """Tokens of the recipe's rows, or ``max_length`` where data or tokenizer are not there."""
    from transformers import AutoTokenizer

    from ...finetune.dataset import encode, examples, keep_apart

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError):
        return _longest(recipe, f"no tokenizer could be read from {spec.pretrained}")
    try:
        rows = encode(examples(recipe, recipe.seed, tokenizer, dropped), tokenizer, recipe).rows
    except InputError as error:
        return _longest(recipe, str(error).splitlines()[0])
    train, _ = keep_apart(rows, recipe.data.validation_rows)
    tokens = [len(row["input_ids"]) for row in train]
    if not tokens:
        return _longest(recipe, "every row is longer")
    return Lengths(tokens, len(tokens), "rows of the recipe, by the model's tokenizer")


def _longest(recipe: Recipe, why: str) -> Lengths:
    tokens = [recipe.max_length] * recipe.batch_size
    return Lengths(tokens, recipe.data.rows, f"max_length for every row: {why}")


def _end_to_end(config: Any, recipe: Recipe) -> bool:
    """Whether a GPU that can lays the rows end to end: as train.py and batches.py choose."""
    sliding = getattr(config.get_text_config(decoder=True), "sliding_window", None)
    return recipe.micro_batch_size == "auto" and recipe.adapter.kind != "prefix" and not sliding


def _most_rows(skeleton: Any, recipe: Recipe, layout: Any, size: int, shards: int = 1) -> int:
    """Of how many rows the micro-batch may be on a GPU of *size* bytes; 0 where not one fits.

    Rows are taken to be as long as those of *layout* are on average.
    """
    from ...finetune import memory
    from ...finetune.layout import divisors

    share = layout.longest // layout.rows if layout.end_to_end else layout.longest
    for rows in reversed(divisors(layout.rows)):
        longest = share * rows if layout.end_to_end else share
        smaller = memory.Layout(rows, longest, layout.end_to_end)
        if memory.of(skeleton, recipe, smaller, shards).needed <= size:
            return rows
        if recipe.micro_batch_size != "auto":
            break
    return 0


def _scoring(spec: ModelSpec, parameters: int) -> int:
    """Roughly: weights as the suite holds them for scoring, and what was measured over them."""
    size = {"none": 4.0 if spec.dtype == "float32" else 2.0, "int8": 1.1, "nf4": 0.7}
    return int(parameters * size[spec.quantization]) + SCORING


def _of_latency(parameters: int, formats: int) -> dict[str, int]:
    """Roughly: the merged checkpoint and one graph a format on disk, two engines in memory."""
    half = 2 * parameters
    return {"export_disk_bytes": half * (1 + formats), "latency_bytes": 2 * half}
