"""How the rows of an optimizer step are laid out: so many at once, so often, in so many processes.

The recipe's ``batch_size`` is the contract: whatever is chosen here, a step has just its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..harness.ranks import sharded
from .recipe import Recipe

PADDED_TOKENS = 2048
"""At most so many tokens go through a CPU at once: more only adds padding to compute."""


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


def most_rows(recipe: Recipe, processes: int) -> int:
    """The most rows that may go through at once in each of *processes*.

    Raises:
        InputError: The recipe's batch cannot be shared out evenly.
    """
    share, rest = divmod(recipe.batch_size, processes)
    if rest:
        raise InputError(
            f"recipe {recipe.name!r}: batch_size {recipe.batch_size} cannot be shared evenly by "
            f"{processes} processes; start as many as divide it"
        )
    if recipe.micro_batch_size == "auto":
        return share
    if share % recipe.micro_batch_size:
        raise InputError(
            f"recipe {recipe.name!r}: {share} rows a process and step are no multiple of "
            f"micro_batch_size {recipe.micro_batch_size}"
        )
    return recipe.micro_batch_size


def rows_at_once(recipe: Recipe, model: Any, longest: int, most: int, processes: int) -> int:
    """How many rows go through at once: a divisor of *most*, so that a step keeps its rows.

    On a GPU as many rows of *longest* tokens as are predicted to fit; on a CPU, where rows are
    padded, as many as keep the padding small.
    """
    if recipe.micro_batch_size != "auto":
        return most
    if model.device.type == "cpu":
        fitting = PADDED_TOKENS // longest
    else:
        fitting = _fitting(recipe, model, longest, processes)
    return max(size for size in divisors(most) if size <= max(1, fitting))


def fewer(rows: int) -> int:
    """The next smaller number of rows that divides *rows*, which is more than 1."""
    return divisors(rows)[-2]


def _fitting(recipe: Recipe, model: Any, longest: int, processes: int) -> int:
    import torch

    from .memory import rows_that_fit

    free, total = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_allocated(model.device)
    # Processes must decide alike, and what is free is not alike on all GPUs.
    budget = round(0.9 * total) if processes > 1 else free
    shards = processes if sharded() else 1
    return rows_that_fit(model.config, recipe, budget, longest, shards)


def divisors(number: int) -> list[int]:
    """The numbers of rows at once that leave a step of *number* rows whole, smallest first."""
    return [size for size in range(1, number + 1) if number % size == 0]
