"""Will it fit? Bytes on the GPU while tuning, predicted from a config without loading weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from .layout import divisors
from .recipe import Recipe
from .skeleton import Layout, Skeleton, dtype_of

__all__ = [
    "CONTEXT",
    "Layout",
    "Memory",
    "largest",
    "of",
    "precision_of",
    "precisions",
    "predict",
    "rows_that_fit",
]

CONTEXT = 700_000_000
"""Bytes that CUDA's context and its libraries' workspaces take beside PyTorch's allocator."""

SIMULATED = 4000
"""So many micro-batches are drawn to find a run's largest."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the GPU at the worst moment of an optimizer step.

    Attributes:
        weights: Of the frozen base, with what its quantisation stores beside them.
        adapter, gradients: Of the trained parameters, float32 both.
        optimizer: Its state.
        activations: What forward and backward keep, temporaries and logits included.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def peak(self) -> int:
        """What ``torch.cuda.max_memory_allocated`` should say."""
        return self.weights + self.adapter + self.gradients + self.optimizer + self.activations

    @property
    def needed(self) -> int:
        """What the GPU must have: the peak and CUDA's own."""
        return self.peak + CONTEXT

    def parts(self) -> dict[str, int]:
        """All of it as JSON values."""
        return asdict(self) | {"peak": self.peak, "needed": self.needed}


def predict(config: Any, recipe: Recipe, layout: Layout, *, remote: bool = False) -> Memory:
    """Memory of tuning a base of transformers' *config* by *recipe*, micro-batches as in *layout*.

    Args:
        remote: Run model code that the checkpoint ships.

    Raises:
        InputError: The architecture cannot be built or traced, or the adapter does not fit it.
    """
    return of(Skeleton(config, recipe, trust_remote_code=remote), recipe, layout)


def of(skeleton: Skeleton, recipe: Recipe, layout: Layout, shards: int = 1) -> Memory:
    """The same over a skeleton that was built for *recipe*, to ask for several layouts.

    With *shards* it is the memory of each of so many GPUs, which hold the base between them.
    """
    trained = 4 * sum(skeleton.adapter)
    whole = skeleton.weights
    return Memory(
        weights=whole if shards == 1 else min(whole, whole // shards + skeleton.gathered),
        adapter=trained,
        gradients=trained,
        optimizer=sum(_state(recipe.optimizer, count) for count in skeleton.adapter),
        activations=skeleton.step_bytes(layout),
    )


def rows_that_fit(
    config: Any, recipe: Recipe, free_bytes: int, longest: int, shards: int = 1
) -> int:
    """The largest divisor of the recipe's batch whose rows fit into *free_bytes* at once.

    Args:
        config: transformers' config of the base.
        free_bytes: What the GPU has for weights, adapter and everything else.
        longest: Tokens of the longest row; every row is taken to be as long.
        shards: So many GPUs hold the base between them.

    Returns:
        At least 1, even where nothing fits; the whole batch where it cannot be predicted. Trying is
        what tells then.
    """
    batch = recipe.batch_size
    try:
        skeleton = Skeleton(config, recipe)
        for rows in reversed(divisors(batch)[1:]):
            layout = Layout(rows, rows * longest, end_to_end=True)
            if of(skeleton, recipe, layout, shards).peak <= free_bytes:
                return rows
    except InputError:
        return batch
    return 1


def precisions(recipe: Recipe) -> dict[str, Recipe]:
    """*recipe* with its base held in each precision, by the names people use."""
    half = "bfloat16" if recipe.precision in ("auto", "float32") else recipe.precision
    kinds = {
        "fp32": ("none", "float32"),
        _dtype_name(half): ("none", half),
        "int8": ("int8", half),
        "nf4": ("nf4", half),
    }
    return {
        name: recipe.model_copy(update={"quantization": held, "precision": dtype})
        for name, (held, dtype) in kinds.items()
    }


def precision_of(recipe: Recipe) -> str:
    """The name of the precision in which *recipe* holds its base on a GPU."""
    if recipe.quantization != "none":
        return recipe.quantization
    return _dtype_name(str(dtype_of(recipe)).removeprefix("torch."))


def _dtype_name(dtype: str) -> str:
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype]


def largest(lengths: Sequence[int], rows: int, recipe: Recipe, *, end_to_end: bool) -> Layout:
    """The largest micro-batch of a run over rows of these *lengths* in tokens.

    Batches are drawn with the recipe's seed as the trainer draws them, by shuffling all rows once
    an epoch, though not by its generator: it is the size of a run's largest batch, not that batch.
    """
    draw = random.Random(recipe.seed)
    steps = recipe.steps or max(1, round((recipe.epochs or 1) * len(lengths) / recipe.batch_size))
    left = min(steps * recipe.batch_size // rows, SIMULATED)
    found, order = 0, list(lengths)
    while left > 0:
        draw.shuffle(order)
        for start in range(0, min(len(order), left * rows), rows):
            batch = order[start : start + rows]
            found = max(found, sum(batch) if end_to_end else max(batch))
        left -= max(1, len(order) // rows)
    return Layout(rows, found, end_to_end)


def _state(optimizer: str, count: int) -> int:
    """Bytes of an optimizer's state for a tensor of *count* float32 parameters.

    bitsandbytes' 8-bit optimizers keep two bytes and a float32 a block of 256 for each of two
    moments, and tensors below 4,096 in float32; those called paged may move it to the host. Others
    are taken to have AdamW's two float32 moments.
    """
    if "8bit" in optimizer and count >= 4096:
        return 2 * (count + 4 * -(-count // 256))
    return 0 if optimizer == "sgd" else 8 * count
