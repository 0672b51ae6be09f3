"""What a model can do faster while it only scores; undone when the block ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional

PLAIN_LORA = ("Linear", "Linear4bit", "Linear8bitLt")
"""peft's LoRA layers that are a product beside another product."""


@contextlib.contextmanager
def lean_lora(model: Any) -> Iterator[bool]:
    """LoRA without its detours; yields whether *model* has any switched on.

    peft adds an adapter's share in steps that each write a matrix as large as the layer's output:
    the product, its scaling, the sum, in float32 where the adapter is. Here one product adds itself
    to the output in the model's dtype, and is rounded once, as the model rounds its own. Over plain
    weights the share is written first and the layer's own product added to it, which hides one
    reading of the output behind that product. Layers that are merged, or hold anything but one
    ordinary LoRA, are left to peft.

    Autograd cannot follow: use it under ``torch.inference_mode``.
    """
    layers = [layer for layer in model.modules() if _is_plain(layer)]
    for layer in layers:
        name = layer.active_adapters[0]
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        layer.forward = partial(_add_share, layer.base_layer, down, up, layer.scaling[name])
    try:
        yield bool(layers)
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Any) -> bool:
    kind = type(layer)
    if kind.__name__ not in PLAIN_LORA or not kind.__module__.startswith("peft.tuners.lora."):
        return False
    names = layer.active_adapters
    return (
        len(names) == 1
        and names[0] in layer.lora_A
        and names[0] not in layer.lora_variant
        and layer.lora_B[names[0]].bias is None
        and not (layer.merged or layer.disable_adapters or layer.training)
        and "forward" not in vars(layer)
    )


def _add_share(base: Any, down: Any, up: Any, scale: float, x: torch.Tensor) -> torch.Tensor:
    """*base* of *x* [..., in] plus its product with *down* [r, in] and *up* [out, r], scaled."""
    if _is_bare(base, x):
        share = functional.linear(x, down.to(x.dtype))
        result = functional.linear(share, (up * scale).to(x.dtype), base.bias)
        flat = result.view(-1, result.shape[-1])
        flat.addmm_(x.reshape(-1, x.shape[-1]), base.weight.t())
        return result
    result = base(x)
    share = functional.linear(x.to(result.dtype), down.to(result.dtype))
    flat = result.view(-1, result.shape[-1])
    flat.addmm_(share.view(-1, share.shape[-1]), up.to(result.dtype).t(), alpha=scale)
    return result


def _is_bare(base: Any, x: torch.Tensor) -> bool:
    """Whether *base* of *x* is a product with its weight and nothing beside it."""
    return (
        type(base) is torch.nn.Linear
        and base.weight.dtype == x.dtype
        and not torch.is_autocast_enabled(x.device.type)
        and not (base._forward_hooks or base._forward_pre_hooks or "forward" in vars(base))
    )


@contextlib.contextmanager
def compiled_parts(model: Any, names: tuple[str, ...]) -> Iterator[None]:
    """Modules whose class is named so, compiled: their elementwise steps, fused, save a tenth."""
    parts = [
        part
        for part in model.modules()
        if type(part).__name__.endswith(names) and part._compiled_call_impl is None
    ]
    for part in parts:
        part.compile(dynamic=True)
    try:
        # A part that cannot be compiled runs as it is.
        with torch._dynamo.config.patch(suppress_errors=True):
            yield
    finally:
        for part in parts:
            part._compiled_call_impl = None
