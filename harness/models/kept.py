"""What a decoder keeps of a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def kept(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values [1, heads, 1, width] of one token in every layer of *model*.

    Asked of the model itself, as configs name the number of heads and their width in many ways.

    Args:
        model: A causal model of transformers.

    Raises:
        ValueError: It keeps something else, or nothing.
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    ids = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
    layers = getattr(cache, "layers", None) or []
    if not layers:
        raise ValueError("it keeps no keys and values")
    for layer in layers:  # a sliding layer is a dynamic one
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.keys.dim() != 4:
            kind = type(layer).__name__
            raise ValueError(f"its cache is no list of keys and values ({kind})")
    return [(layer.keys, layer.values) for layer in layers]
