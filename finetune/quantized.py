"""How bitsandbytes holds a frozen base: bytes of its weights, and what its products keep and need.

Stand-ins for its layers that can be traced over fake tensors, which its own kernels cannot. Each
line of a product has its counterpart in bitsandbytes 0.50 (autograd/_functions.py and
backends/default/ops.py); a test runs both and compares what they keep.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd import Function


class _Nf4(nn.Linear):  # type: ignore[misc]
    """A 4-bit layer: its weight becomes whole for each product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Nf4Product.apply(_autocast(x), self.weight)
        return found if self.bias is None else found + self.bias


class _Nf4Product(Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        return x @ weight.to(x.dtype, copy=True).t()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0]
        return gradient @ ctx.weight.to(gradient.dtype, copy=True), None


class _Int8(nn.Linear):  # type: ignore[misc]
    """An 8-bit layer, *outliers* of whose input columns hold a value beyond the threshold."""

    outliers = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Int8Product.apply(_autocast(x), self.weight, self.outliers)
        return found if self.bias is None else found + self.bias


class Int8Product(Function):  # type: ignore[misc]
    """LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) as ``MatMul8bitLt`` computes it.

    It keeps its input, and a copy of the columns with outliers, as attributes of the graph's node.
    Activation checkpointing drops only what is saved through autograd, so these stay for every
    layer until the backward pass is done.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, outliers: int) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.x, ctx.weight, ctx.columns = rows, weight, rows[:, :outliers].clone()
        codes = _codes(rows)
        again = _dequantized(weight[:, :outliers]).to(x.dtype)
        product = torch.empty((len(codes), len(weight)), dtype=torch.int32, device=x.device)
        found = product.to(torch.float16).to(x.dtype)
        del product
        if outliers:
            found = found.addmm(ctx.columns, again.t())
        return found.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradients[0]
        return gradient @ ctx.weight.to(gradient.dtype, copy=True), None, None


def _codes(rows: torch.Tensor) -> torch.Tensor:
    """Input in int8, with the temporaries of finding its outliers in float16."""
    half = rows.to(torch.float16)
    large = half.abs() >= 6  # noqa: F841  (its bytes are there until the codes are)
    return half.to(torch.int8)


def _dequantized(columns: torch.Tensor) -> torch.Tensor:
    """Columns of the weight in float32, by way of an int8 copy and one product for each factor."""
    return columns.to(torch.int8) * 1.0 * 1.0


def _autocast(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def hold(base: Any, quantization: str) -> set[int]:
    """Let linear layers but the last be held quantised; ids of their weights.

    In int8 every column into the second projection of an MLP is taken to hold an outlier, and none
    elsewhere. Its input is a product of two activations, with heavy tails: over the thousands of
    tokens of a step nearly every column has a value of 6 or more, at 8B shapes with random weights
    all of them (docs/reference/plan.md). What comes out of a norm stays below.
    """
    if quantization == "none":
        return set()
    layers = [
        module
        for module in base.modules()
        if type(module) is nn.Linear and module is not base.get_output_embeddings()
    ]
    inner = getattr(base.config.get_text_config(decoder=True), "intermediate_size", None)
    for layer in layers:
        layer.__class__ = _Int8 if quantization == "int8" else _Nf4
        if quantization == "int8" and layer.in_features == inner:
            layer.outliers = inner
    return {id(layer.weight) for layer in layers}


def stored(weight: torch.Tensor, quantization: str) -> int:
    """Bytes of a weight that is held quantised.

    nf4 has 4 bits, a scale of 8 a block of 64 and a float32 for 256 scales: 4.127 bits with double
    quantisation (QLoRA, arXiv:2305.14314, section 3). int8 has a float32 for each row.
    """
    count = int(weight.numel())
    if quantization == "int8":
        return int(count + 4 * weight.shape[0])
    return -(-count // 2) + -(-count // 64) + 4 * -(-count // (64 * 256))
