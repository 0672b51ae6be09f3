"""How long a step takes: operations of tuning over a GPU's arithmetic and memory rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .recipe import Recipe
from .skeleton import Skeleton, dtype_of

EFFICIENCY = {"none": 0.42, "nf4": 0.45, "int8": 0.24}
"""Share of the matmul peak that a step reaches, by quantisation: measured with rows laid end to
end on an 8B model and one H200 (docs/measurements.md), and assumed of other models and GPUs.
Micro-batches of two padded rows reached 0.14 there."""


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU, without sparsity.

    Attributes:
        memory: Bytes.
        half, single: Operations a second of matrix products in bfloat16 (float16 on a T4) and in
            float32.
        bandwidth: Bytes a second.
        source: Where the rates come from.
        end_to_end: Whether rows may lie end to end on it (finetune/batches.py): from Ampere on.
    """

    name: str
    memory: float
    half: float
    single: float
    bandwidth: float
    source: str
    end_to_end: bool = True


_SHEET = "NVIDIA data sheet"
GPUS = {
    gpu.name.lower(): gpu
    for gpu in (
        Gpu("H200", 141e9, 790e12, 67e12, 4.8e12, "bfloat16 measured, the rest by data sheet"),
        Gpu("H100", 80e9, 989e12, 67e12, 3.35e12, f"{_SHEET} (SXM)"),
        Gpu("A100", 80e9, 312e12, 19.5e12, 2.04e12, f"{_SHEET} (80 GB SXM)"),
        Gpu("L4", 24e9, 121e12, 30.3e12, 0.3e12, _SHEET),
        Gpu("4090", 24e9, 165.2e12, 82.6e12, 1.008e12, "NVIDIA Ada whitepaper"),
        Gpu("T4", 16e9, 65e12, 8.1e12, 0.32e12, _SHEET, end_to_end=False),
    )
}


def find(name: str) -> Gpu:
    """A GPU by its name, or by a longer one that holds it (``NVIDIA H200``).

    Raises:
        InputError: It is not in the table.
    """
    for key in (name.lower(), *name.lower().split()):
        if key in GPUS:
            return GPUS[key]
    known = ", ".join(gpu.name for gpu in GPUS.values())
    raise InputError(f"--gpu {name}: its rates are not known; expected one of: {known}")


def step_seconds(
    skeleton: Skeleton, config: Any, recipe: Recipe, lengths: Sequence[int], rows: int, gpu: Gpu
) -> float:
    """Seconds of one optimizer step over rows of these *lengths* (tokens), *rows* at once.

    A frozen weight costs two operations a token in the forward pass, two when checkpointing runs it
    again, and two for the gradient of its input; its own gradient is never computed. Quantised
    weights are written out in 16 bits and read again for each of those products.
    """
    text = config.get_text_config(decoder=True)
    mean = sum(lengths) / len(lengths)
    square = sum(length * length for length in lengths) / len(lengths)
    tokens = recipe.batch_size * mean
    passes = 3 if recipe.gradient_checkpointing else 2
    attention = 2 * text.num_hidden_layers * text.hidden_size * square * recipe.batch_size
    head = 3 * 2 * text.vocab_size * text.hidden_size * tokens
    adapter = 2 * (passes + 1) * sum(skeleton.adapter) * tokens
    work = passes * (2 * skeleton.multiplied * tokens + attention) + head + adapter
    rate = gpu.single if dtype_of(recipe).itemsize == 4 else gpu.half
    moved = {"none": 0.0, "nf4": passes * 4.52, "int8": 1 * 5.0}[recipe.quantization]
    unpacked = moved * skeleton.multiplied * recipe.batch_size / rows
    return float(work / (rate * EFFICIENCY[recipe.quantization]) + unpacked / gpu.bandwidth)
