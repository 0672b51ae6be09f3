"""What can run a decoder token by token: torch as it is, torch compiled, ONNX Runtime, vLLM."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..models.kept import kept
from ..ort.runtime import OrtModel
from . import roofline
from .roofline import Work
from .settings import LatencyJob

if TYPE_CHECKING:
    import torch

_FORMATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

Stream = Callable[["torch.Tensor", int], Iterator[list[int]]]
"""(ids [B, T], number of tokens) → the next token of each row, as soon as all are on the host."""


@dataclass(frozen=True)
class Engine:
    """One engine with the model loaded.

    Attributes:
        name: As in the settings.
        format: Of the weights, such as fp32.
        stream: Answers a request.
        work: What a token costs; None where it is not known.
    """

    name: str
    format: str
    stream: Stream
    work: Work | None


class Stepper(Protocol):
    """A decoder with its cache: what :class:`..ort.runtime.OrtModel` and torch have in common."""

    def reset(self) -> None: ...
    def prefill(self, ids: torch.Tensor) -> torch.Tensor: ...
    def step(self, ids: torch.Tensor) -> torch.Tensor: ...


def greedy(model: Stepper, ids: torch.Tensor, tokens: int) -> Iterator[list[int]]:
    """Continue the prompts *ids* [B, T] greedily for exactly *tokens* tokens; end tokens count.

    Yields:
        The next token of each of the B rows, as soon as it is on the host.
    """
    model.reset()
    logits = model.prefill(ids)
    for left in reversed(range(tokens)):
        chosen = logits[:, -1:].argmax(-1)
        yield chosen[:, 0].tolist()
        if left:
            logits = model.step(chosen)


class TorchModel:
    """A checkpoint run by transformers, eagerly, with its growing cache.

    Args:
        folder: The checkpoint.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: torch's name of the element type, or ``auto`` for the checkpoint's own.
        trust_remote_code: Run model code that the checkpoint ships.

    Attributes:
        model: The transformers model.
        format: Short name of the element type in use, such as fp32.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code
        )
        self.model = loaded.to(device).eval()
        name = str(self.model.dtype).removeprefix("torch.")
        self.format = _FORMATS.get(name, name)
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self.model.config)

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [B, T] and return their logits [B, T, vocab], on the model's device."""
        import torch

        with torch.inference_mode():
            done = self.model(
                input_ids=ids.to(self.model.device), past_key_values=self._cache, use_cache=True
            )
        logits: torch.Tensor = done.logits
        return logits

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [B, 1] and return their logits [B, 1, vocab]."""
        return self.prefill(ids)

    def stream(self, ids: torch.Tensor, tokens: int) -> Iterator[list[int]]:
        return greedy(self, ids, tokens)


class CompiledModel:
    """The same model under ``torch.compile`` with a static cache, prompt and step alike.

    Every shape is compiled for itself, at its first request. On CUDA the steps are CUDA graphs
    (``reduce-overhead``).

    Args:
        eager: The model, whose weights are shared.
    """

    def __init__(self, eager: TorchModel) -> None:
        import torch

        self._model = eager.model
        self._cuda = self._model.device.type == "cuda"
        torch._dynamo.config.recompile_limit = 64  # 8 by default: a few shapes, two lengths each
        self._forward = torch.compile(
            self._model.forward,
            dynamic=False,
            fullgraph=True,
            mode="reduce-overhead" if self._cuda else "default",
        )
        self._shape = (0, 0)
        self._cache: Any = None

    def reserve(self, batch: int, length: int) -> None:
        """Make the cache for *batch* rows of *length* tokens, unless it is there."""
        from transformers import StaticCache

        if self._shape == (batch, length):
            return
        _, heads, _, width = kept(self._model)[0][0].shape
        self._cache = StaticCache(config=self._model.config, max_cache_len=length)
        # Before anything is compiled: inside, the buffers would have no fixed address.
        self._cache.early_initialization(batch, heads, width, self._model.dtype, self._model.device)
        self._shape = (batch, length)

    def reset(self) -> None:
        """Forget the sequences; what the buffers hold is masked."""
        for layer in self._cache.layers:
            layer.cumulative_length.zero_()

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [B, T] and return their logits [B, T, vocab]."""
        import torch

        if self._cuda:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            done = self._forward(
                input_ids=ids.to(self._model.device), past_key_values=self._cache, use_cache=True
            )
        logits: torch.Tensor = done.logits
        return logits

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [B, 1] and return their logits; on CUDA **the next call overwrites them**."""
        return self.prefill(ids)

    def stream(self, ids: torch.Tensor, tokens: int) -> Iterator[list[int]]:
        self.reserve(ids.shape[0], ids.shape[1] + tokens)
        return greedy(self, ids, tokens)


def missing(job: LatencyJob) -> dict[str, str]:
    """Why some of the engines asked for cannot run here, by name."""
    found = {}
    if "torch-compiled" in job.settings.engines and (why := _no_compiler(job.provider)):
        found["torch-compiled"] = why
    if "vllm" in job.settings.engines:
        if importlib.util.find_spec("vllm") is None:
            found["vllm"] = "vllm is not installed"
        elif job.provider != "cuda":
            found["vllm"] = "it is timed on CUDA alone"
    if "onnxruntime" in job.settings.engines and not job.onnx:
        found["onnxruntime"] = "there is no export"
    return found


def _no_compiler(provider: str) -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(map(shutil.which, names)):
        return f"torch.compile needs a C++ compiler ({' or '.join(names)})"
    if provider == "cuda" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton for CUDA, which is not installed"
    return ""


def load(job: LatencyJob, wanted: list[tuple[str, str]]) -> list[Engine]:
    """The engines *wanted*, (name, format) each, with the model loaded.

    Raises:
        MedbenchError: A graph or the device cannot be used.
    """
    settings = job.settings
    engines = []
    torch_model = None
    for name, kind in wanted:
        if name == "onnxruntime":
            export = OrtModel(
                job.onnx[kind],
                device=job.device,
                threads=settings.threads,
                max_len=settings.longest,
                cuda_graph=job.provider == "cuda" and settings.cuda_graph is not False,
                options=settings.session_options,
            )
            work = roofline.of_onnx(job.onnx[kind], job.provider)
            engines.append(Engine(name, kind, _stream(export), work))
            continue
        if name == "vllm":
            from .vllm import VllmModel

            served = VllmModel(job)
            engines.append(Engine(name, served.format, served.stream, None))
            continue
        if torch_model is None:
            # CPUs compute in fp32, as the CPU exports do; bf16 would be emulated on most of them.
            torch_model = TorchModel(
                job.model_dir,
                device=job.device,
                dtype="float32" if job.provider == "cpu" else "auto",
                trust_remote_code=job.trust_remote_code,
            )
        model = torch_model if name == "torch" else CompiledModel(torch_model)
        work = roofline.of_torch(torch_model.model)
        engines.append(Engine(name, torch_model.format, model.stream, work))
    return engines


def _stream(model: Stepper) -> Stream:
    def stream(ids: torch.Tensor, tokens: int) -> Iterator[list[int]]:
        return greedy(model, ids, tokens)

    return stream
