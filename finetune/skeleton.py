"""A model without data: its shapes, its adapter, and what a training step keeps of it.

Built from a config on PyTorch's meta device, so an 8B model costs no memory and half a second. The
bytes that a step keeps are not estimated by formula: two layers go forward and backward over fake
tensors (no data, but real operators, transformers' and peft's own code, autocast and gradient
checkpointing), while every storage that comes and goes is counted.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import InputError
from .quantized import hold, stored
from .recipe import Recipe

TRACED = "medbench_traced"
CHUNK = 256
"""Tokens whose logits are there at once: trl's chunked loss (trl/trainer/sft_trainer.py)."""


@dataclass(frozen=True)
class Layout:
    """A micro-batch: *rows* padded to *longest* tokens, or all in one sequence of *longest*."""

    rows: int
    longest: int
    end_to_end: bool

    @property
    def tokens(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.longest if self.end_to_end else self.rows * self.longest


class Skeleton:
    """A base of *config* with the adapter of *recipe*, in the recipe's precision.

    Raises:
        InputError: The architecture is no causal language model of transformers, or the recipe's
            adapter does not fit it.
    """

    def __init__(self, config: Any, recipe: Recipe, *, trust_remote_code: bool = False) -> None:
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM

        self._recipe = recipe
        self._dtype = dtype_of(recipe)
        config = copy.deepcopy(config)
        config.use_cache = False
        try:
            with torch.device("meta"):
                base = AutoModelForCausalLM.from_config(
                    config, dtype=self._dtype, trust_remote_code=trust_remote_code
                )
                base.requires_grad_(requires_grad=False)
                held = hold(base, recipe.quantization)
                # Embeddings, norms, biases and the head keep the computation's precision.
                sizes = {
                    p: stored(p, recipe.quantization)
                    if id(p) in held
                    else p.numel() * self._dtype.itemsize
                    for p in base.parameters()
                }
                self.weights = sum(sizes.values())
                self.gathered = _gathered(base, sizes)
                self.parameters = sum(p.numel() for p in base.parameters())
                self.multiplied = _multiplied(base)
                self._base = base
                self._peft = get_peft_model(base, recipe.adapter.config())
        except (ValueError, AttributeError, KeyError) as error:
            raise InputError(
                f"recipe {recipe.name!r}: memory cannot be predicted for model type "
                f"{getattr(config, 'model_type', '?')!r}: {str(error).splitlines()[0]}"
            ) from error
        self.adapter = [p.numel() for p in self._peft.parameters() if p.requires_grad]
        self._found: dict[Layout, int] = {}
        self._decoder: Any = None
        self._layers: Any = None
        self._mode: Any = None

    def step_bytes(self, layout: Layout) -> int:
        """The most that is alive at once in a step beside weights, gradients and optimizer state.

        Raises:
            InputError: Its operators need data (a mixture of experts routes by it).
        """
        if layout not in self._found:
            self._found[layout] = self._measured(layout)
        return self._found[layout]

    def _measured(self, layout: Layout) -> int:
        if self._mode is None:
            self._fake()
        (kept1, peak1), (kept2, peak2) = self._trace(layout, 1), self._trace(layout, 2)
        more = len(self._layers) - 2
        kept, peak = kept2 + more * (kept2 - kept1), peak2 + more * (peak2 - peak1)
        return int(max(peak, kept + self._loss_bytes(layout)))

    def _loss_bytes(self, layout: Layout) -> int:
        """Of trl's chunked loss: tokens with a loss moved to the front, and one chunk of logits.

        A chunk holds its logits as computed, and float32 copies of them, of their
        log-probabilities, of the probabilities and of the entropy's product.
        """
        size = self._dtype.itemsize
        config = self._base.config.get_text_config(decoder=True)
        moved = 3 * layout.tokens * config.hidden_size * size
        return int(moved + CHUNK * config.vocab_size * (size + 4 * 4))

    def _fake(self) -> None:
        """Keep two layers, and give them fake tensors on the CPU, which autocast knows."""
        from torch._subclasses.fake_tensor import FakeTensorMode
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(TRACED, _attend)
        AttentionMaskInterface.register(TRACED, _no_mask)
        self._base.set_attn_implementation(TRACED)
        if self._recipe.gradient_checkpointing:
            # The states of random generators hold data, which fake tensors have not.
            self._base.gradient_checkpointing_enable(
                {"use_reentrant": False, "preserve_rng_state": False}
            )
        self._decoder = self._base.get_decoder()
        self._layers = self._decoder.layers
        self._decoder.layers = self._layers[:2]
        self._mode = FakeTensorMode()
        with self._mode:
            for module in self._decoder.modules():
                if self._recipe.quantization != "none" and hasattr(module, "base_layer"):
                    module.cast_input_dtype_enabled = False  # as peft's own layers over these
                for name, old in module._parameters.items():
                    if old is not None:
                        module._parameters[name] = _like(old)
                for name, old in module._buffers.items():
                    if old is not None:
                        module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)
        self._decoder.train()

    def _trace(self, layout: Layout, layers: int) -> tuple[int, int]:
        """(bytes kept when the forward pass is done, bytes alive at the worst moment)."""
        whole, self._decoder.layers = self._decoder.layers, self._decoder.layers[:layers]
        rows = 1 if layout.end_to_end else layout.rows
        live = _Live([*self._decoder.parameters(), *self._decoder.buffers()])
        try:
            with self._mode, live:
                inputs = torch.empty(
                    (rows, layout.longest, self._base.config.get_text_config().hidden_size),
                    dtype=self._dtype,
                    # Checkpointing and learned prefixes make the embeddings part of the graph.
                    requires_grad=self._recipe.gradient_checkpointing
                    or self._recipe.adapter.kind == "prefix",
                )
                places = torch.arange(layout.longest)[None].expand(rows, -1)
                with torch.autocast(
                    "cpu", torch.bfloat16, enabled=self._dtype is not torch.float32
                ):
                    hidden = self._decoder(
                        inputs_embeds=inputs, position_ids=places, use_cache=False
                    ).last_hidden_state
                kept = live.now
                torch.autograd.backward(hidden, torch.empty_like(hidden))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(
                f"recipe {self._recipe.name!r}: what a step keeps cannot be predicted for model "
                f"type {self._base.config.model_type!r}: {str(error).splitlines()[0]}"
            ) from error
        finally:
            self._decoder.layers = whole
        return kept, live.peak


def _gathered(base: Any, sizes: dict[torch.nn.Parameter, int]) -> int:
    """Bytes of a sharded base that are whole at once (sharding.py).

    That is the last unit (norm and head) throughout, and beside it its own copy while it arrives,
    or a layer that computes and one that arrives, by way of a buffer of its size.
    """
    layers = [sum(sizes[p] for p in layer.parameters()) for layer in base.get_decoder().layers]
    words = base.get_input_embeddings().weight
    apart = sizes[words] if words is not base.get_output_embeddings().weight else 0
    last = sum(sizes.values()) - sum(layers) - apart
    return last + max(last, 3 * max(layers))


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Of the computation on a GPU; ``auto`` is bfloat16."""
    dtype: torch.dtype = getattr(torch, recipe.precision.replace("auto", "bfloat16"))
    return dtype


class _Live(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of storages while they are alive; those that were there before are not."""

    def __init__(self, before: list[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in before:
            self._known.add(tensor.untyped_storage())
            if tensor.grad is not None:
                self._known.add(tensor.grad.untyped_storage())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    size = storage.nbytes()
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, size)
        return out

    def _freed(self, size: int) -> None:
        self.now -= size


def _multiplied(base: Any) -> int:
    """Parameters that every token is multiplied with, the last layer's apart."""
    head = base.get_output_embeddings()
    layers = (module for module in base.modules() if isinstance(module, torch.nn.Linear))
    return sum(module.weight.numel() for module in layers if module is not head)


def _like(old: torch.nn.Parameter) -> torch.nn.Parameter:
    """A fake parameter of the same shape; trained ones are float32, and their gradient is there."""
    trained = old.requires_grad
    dtype = torch.float32 if trained else old.dtype
    new = torch.nn.Parameter(torch.empty(old.shape, dtype=dtype), requires_grad=trained)
    if trained:
        new.grad = torch.empty_like(new)
    return new


def _no_mask(*_: Any, **__: Any) -> None:
    """Attention here is causal and no more."""


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """As tuning attends on a GPU: keys and values repeated for their groups, no score matrix."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return attended.transpose(1, 2), None
