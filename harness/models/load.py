"""ModelSpec → a model that lm-eval can ask. One base in memory, adapters on and off over it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ...errors import StageError
from ..ranks import place, sharded
from ..scorer.sentinel import check_adapter, sentinel
from ..suite import ModelSpec
from . import backends, endpoint


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """``auto`` → float32 on a CPU, bfloat16 on a GPU that has it, float16 on one that has not."""
    if name != "auto":
        return getattr(torch, name)
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_base(spec: ModelSpec, device: str, *, spread: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) of a base model, from safetensors, on *device*.

    Args:
        spread: Its layers lie on all GPUs that this process sees, one after the other.

    Raises:
        StageError: The weights or the tokenizer cannot be loaded.
    """
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    dtype = resolve_dtype(spec.dtype, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            spec.source,
            dtype=dtype,
            device_map="auto" if spread and device == "cuda" else {"": place(device)},
            quantization_config=_quantization(spec.quantization, dtype),
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise StageError(
            f"model {spec.pretrained!r} cannot be loaded: {error}. Expected a Hub id or a folder "
            "with config.json, a tokenizer and *.safetensors"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if spec.quantization == "nf4" and device == "cpu":
        keep_weights_trainable(model)
    model.eval()
    return model, tokenizer


class ScoringPool:
    """Models for scoring: a base is loaded when first asked for, and adapters ride on it.

    Base scores come from the very weights that tuned models use, with adapters off; so a
    difference between the two is the adapter and nothing else. Engines with weights of their own
    (vLLM, ONNX Runtime) are built for one model at a time, and kept until another is asked for.

    Attributes:
        changes: For each adapter in use so far, the largest difference that it makes to a
            log-probability (nats) over a few fixed prompts; never 0, which is an error. Only of
            models that transformers loads.
    """

    def __init__(
        self,
        specs: dict[str, ModelSpec],
        adapters: dict[str, Path],
        device: str,
        exports: dict[str, Path] | None = None,
    ) -> None:
        self._specs = specs
        self._adapters = adapters
        self._exports = exports or {}
        self._device = device
        self._loaded: str | None = None
        self.changes: dict[str, float] = {}
        self._model: Any = None
        self._tokenizer: Any = None
        self._engine: Any = None
        self._built: dict[str, tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def use(self, name: str, batch_size: int = 16) -> Iterator[Any]:
        """Yield an lm-eval model that answers as model *name* until the block ends.

        Args:
            name: A model of the suite.
            batch_size: Prompts per forward pass while generating, where transformers runs it.

        Raises:
            StageError: It cannot be loaded or reached, or its adapter does not fit.
        """
        whole = self._specs[name].of or name
        spec = self._specs[self._specs[whole].base or whole]
        backend = backends.find(spec.backend)
        if whole != name:
            self._load(name, lambda: self._export(name, spec, batch_size))
            yield self._engine
        elif backend.torch:
            with self._weights(name) as (model, tokenizer):
                yield self._asked(name, lambda: _over(spec, model, tokenizer, batch_size), model)
        elif backend.remote:
            with endpoint.connected(f"models.{name}", spec) as lm:
                yield lm
        else:
            self._load(name, lambda: backends.build(spec, self._adapters.get(name)))
            yield self._engine

    def _asked(self, name: str, build: Callable[[], Any], model: Any) -> Any:
        """lm-eval's model *name* over *model*; kept, so that it is probed once and for all."""
        if name not in self._built or self._built[name][0] is not model:
            self._built[name] = (model, build())
        return self._built[name][1]

    def _load(self, name: str, build: Callable[[], Any]) -> None:
        """Have the engine of model *name*, with weights of its own, and nothing else in memory."""
        if name != self._loaded:
            self.close()
            self._engine = build()
            self._loaded = name

    def _export(self, name: str, spec: ModelSpec, batch_size: int) -> Any:
        """lm-eval's model over the ONNX export *name* of a model that stands on *spec*."""
        from ..ort.lm import OnnxLM

        if name not in self._exports:
            raise StageError(f"{name}: not exported here; expected a run that exports it")
        options = spec.args | {"batch_size": batch_size}
        return OnnxLM(self._exports[name], device=self._device, **options)

    @contextlib.contextmanager
    def _weights(self, name: str) -> Iterator[tuple[Any, Any]]:
        base = self._specs[name].base or name
        if base != self._loaded:
            self.close()
            # Where one GPU does not hold a base for tuning, it need not hold it for scoring.
            self._model, self._tokenizer = load_base(
                self._specs[base], self._device, spread=sharded()
            )
            self._loaded = base
        if name in self._adapters:
            self._attach(name)
            yield self._model, self._tokenizer
        elif hasattr(self._model, "disable_adapter"):
            with self._model.disable_adapter():
                yield self._model, self._tokenizer
        else:
            yield self._model, self._tokenizer

    def _attach(self, name: str) -> None:
        from peft import PeftModel

        path = self._adapters[name]
        if name not in getattr(self._model, "peft_config", {}):
            check_adapter(self._model, path)
        try:
            if not isinstance(self._model, PeftModel):
                self._model = PeftModel.from_pretrained(self._model, path, adapter_name=name)
            elif name not in self._model.peft_config:
                self._model.load_adapter(path, adapter_name=name)
        except (OSError, ValueError, RuntimeError) as error:
            raise StageError(
                f"adapter {path} does not fit base {self._loaded!r}: {error}. Expected a PEFT "
                "folder (adapter_config.json, adapter_model.safetensors) made for this base"
            ) from error
        self._model.set_adapter(name)
        self._model.eval()
        if name not in self.changes:
            self.changes |= sentinel(self._model, self._tokenizer, [name])

    def close(self) -> None:
        """Let go of the weights."""
        self._built.clear()
        self._model = self._tokenizer = self._engine = self._loaded = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _over(spec: ModelSpec, model: Any, tokenizer: Any, batch_size: int) -> Any:
    """lm-eval's model over weights that are loaded: medbench's own scorer, or plain ``hf``."""
    from ..scorer.lm import PackedLM

    kind = PackedLM if spec.backend == "medbench" else backends.lm_class("hf")
    options = {"batch_size": batch_size} | spec.args
    return kind(pretrained=model, tokenizer=tokenizer, **options)


def _quantization(kind: str, dtype: torch.dtype) -> Any:
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if kind == "int8" else None


def keep_weights_trainable(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in eval mode on AVX512-BF16 processors.

    After such a forward pass it returns wrong gradients without an error (measured: mean cosine to
    the right gradient 0.17 over 56 LoRA matrices; with the flag off, 1.0).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
