"""Micro-batches: how rows lie beside each other on the device, and attention that keeps them apart.

Padded rows waste what the longest does not fill; here, on a GPU, rows are laid end to end in one
sequence instead, and attention runs within each (variable-length FlashAttention, which torch ships:
``torch.nn.attention.varlen``). The loss is a sum over tokens divided by their number in the whole
optimizer step, so neither the layout nor the size of a micro-batch changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.nn import functional

ENDLESS = "medbench_rows"
"""Name under which transformers knows the attention of rows laid end to end."""

Rows = list[dict[str, list[int]]]
Batch = dict[str, Any]


@dataclass(frozen=True)
class Padded:
    """Collates rows to one rectangle, padded on the right."""

    pad: int

    def __call__(self, rows: Rows) -> Batch:
        longest = max(len(row["input_ids"]) for row in rows)

        def filled(key: str, value: int) -> torch.Tensor:
            return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        return {
            "input_ids": filled("input_ids", self.pad),
            "labels": filled("labels", -100),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        }


@dataclass(frozen=True)
class EndToEnd:
    """Collates rows to one sequence [1, total]; positions start at 0 in each row.

    The first token of a row is not predicted: what stands before it is another row.
    """

    def __call__(self, rows: Rows) -> Batch:
        lengths = [len(row["input_ids"]) for row in rows]
        ends = torch.tensor([0, *lengths]).cumsum(0).int()
        return {
            "input_ids": torch.tensor([[*chain.from_iterable(row["input_ids"] for row in rows)]]),
            "labels": torch.tensor(
                [[*chain.from_iterable([-100, *row["labels"][1:]] for row in rows)]]
            ),
            "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        }


def lay_end_to_end(model: Any) -> bool:
    """Give *model* attention for rows laid end to end; False where it cannot take it.

    It can on a CUDA GPU from Ampere on, where every layer attends to all that stands before it.
    """
    config = model.config.get_text_config(decoder=True)
    if not _has_kernel(model.device) or getattr(config, "sliding_window", None):
        return False
    if not getattr(model, "_supports_flash_attn", False):
        return False
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ENDLESS, _attend)
    AttentionMaskInterface.register(ENDLESS, _no_mask)
    model.set_attn_implementation(ENDLESS)
    return True


def _has_kernel(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return True


def _no_mask(*_: Any, **__: Any) -> None:
    """The rows' ends say everything."""


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **where: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row; *query* is [1, heads, tokens, size], the result transposed.

    Without the rows' ends (when the model generates or is asked one text) it is plain attention.
    """
    groups = query.shape[1] // key.shape[1]
    ends = where.get("cu_seq_lens_q")
    if ends is None:
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None,
            is_causal=query.shape[2] > 1,
            scale=scaling,
            enable_gqa=groups > 1,
        )
        return attended.transpose(1, 2), None
    from torch.nn.attention.varlen import varlen_attn

    flat = [each[0].transpose(0, 1) for each in (query, key, value)]
    if groups > 1:
        flat[1:] = [each.repeat_interleave(groups, dim=1) for each in flat[1:]]
    longest = where["max_length_q"]
    attended = varlen_attn(*flat, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0))
    return attended[None], None
