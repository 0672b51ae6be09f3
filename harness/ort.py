"""A Model Builder export run by plain ONNX Runtime, on the CPU or on CUDA.

The export (see :mod:`.export`) fuses attention and its cache into GroupQueryAttention nodes, so the
keys and values can grow **in place**: one buffer per layer is allocated once and bound both as the
graph's ``past_key_values.N.*`` and as its ``present.N.*``; a step then copies nothing.

Such a graph has no ``position_ids``: a token's position is its place among the unmasked ones, so
left-padding would be silently wrong. No method here takes a mask; it is always all ones.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, StageError

if TYPE_CHECKING:
    import torch

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# ONNX Runtime's name of a tensor type → torch's name and the number IOBinding takes
# (onnx.TensorProto.DataType; numpy has no bfloat16, so its types would not do).
_TYPES = {
    "tensor(float)": ("float32", 1),
    "tensor(float16)": ("float16", 10),
    "tensor(bfloat16)": ("bfloat16", 16),
}
_INT64 = 7
_SILENT = 4  # FATAL: below it, loading logs warnings about normal placements of shape operators


def require_device(device: str) -> None:
    """Check that ONNX Runtime and torch can both use *device*, without starting a session.

    ``get_available_providers()`` lists what was compiled in, not what this machine can run, and a
    session asked for CUDA without a driver falls back to the CPU; hence the probe of the driver.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: The device is unknown, or this machine or installation lacks what it needs.
    """
    kind = device.partition(":")[0]
    if kind not in _PROVIDERS:
        raise InputError(f"device {device!r}: unknown; use one of {', '.join(_PROVIDERS)}")
    if kind == "cpu":
        return
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        raise InputError(
            f"device {device!r}: this machine has no NVIDIA driver ({driver} cannot be loaded); "
            "use device cpu, or install the driver"
        ) from None
    import onnxruntime
    import torch

    if _PROVIDERS[kind] not in onnxruntime.get_available_providers():
        raise InputError(
            f"device {device!r}: the installed onnxruntime {onnxruntime.__version__} has no CUDA; "
            "install onnxruntime-gpu in its place"
        )
    if not torch.cuda.is_available():
        raise InputError(
            f"device {device!r}: the installed torch {torch.__version__} cannot use the GPU; "
            "install a CUDA build of torch that this driver supports"
        )


class OrtModel:
    """A decoder with its key-value cache, fed with token ids.

    Args:
        folder: A Model Builder export: ``model.onnx`` and ``genai_config.json``.
        device: ``cpu``, ``cuda`` or ``cuda:N``. Never replaced by another one.
        threads: Threads of a CPU operator. They never spin while idle, so a neighbour on the same
            cores (torch, in a comparison) is not slowed down by them.
        max_len: Positions of the cache, prompt and output together; by default, and at most, the
            context length that was exported.

    Attributes:
        provider: Name of the execution provider in use.
        length: Tokens in the cache.
        max_len: Positions of the cache.
        vocab: Width of the logits.

    Raises:
        InputError: *folder* is no such export, *device* cannot be used, *max_len* is too large.
        StageError: ONNX Runtime cannot load the graph, or only on another device.
    """

    def __init__(
        self, folder: Path, *, device: str = "cpu", threads: int = 1, max_len: int | None = None
    ) -> None:
        require_device(device)
        import torch  # before the session: it loads the CUDA libraries that ONNX Runtime needs

        config = _read_config(folder)
        decoder, context = config["decoder"], int(config["context_length"])
        self.max_len = context if max_len is None else max_len
        if not 2 <= self.max_len <= context:
            raise InputError(
                f"{folder}: a cache of {self.max_len} tokens was asked for, the export holds 2 to "
                f"{context}; shorten prompt_tokens or output_tokens"
            )
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", 0)
        self._session = _open(folder / decoder["filename"], self._device, threads)
        self.provider: str = self._session.get_providers()[0]
        self.length = 0

        inputs = {node.name: node for node in self._session.get_inputs()}
        layers = range(int(decoder["num_hidden_layers"]))
        # Bound as past and as present: the layer's one buffer has two names.
        self._cache_names = [
            (f"past_key_values.{layer}.{part}", f"present.{layer}.{part}")
            for layer in layers
            for part in ("key", "value")
        ]
        fed = {"input_ids", "attention_mask", *(past for past, _ in self._cache_names)}
        if fed != set(inputs):
            raise StageError(
                f"{folder}: the graph's inputs are not those of a text decoder with a plain cache; "
                f"unexpected or missing: {', '.join(sorted(fed ^ set(inputs)))}"
            )
        first = inputs[self._cache_names[0][0]]
        logits = next(node for node in self._session.get_outputs() if node.name == "logits")
        self._kv_dtype, self._kv_type = self._element(first.type)
        self._dtype, self._logits_type = self._element(logits.type)
        self._kv_shape = (int(first.shape[1]), self.max_len, int(decoder["head_size"]))
        self.vocab = int(logits.shape[2])
        self._binding = self._session.io_binding()
        self._batch = 0
        self._cache: list[Any] = []

    def reset(self) -> None:
        """Forget the sequence; the buffers stay."""
        self.length = 0

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Append *ids* to the cache and return the logits at every one of their positions.

        Args:
            ids: Token ids [B, T], on any device; rows of equal length, no padding.

        Returns:
            Logits [B, T, vocab] on the model's device, in the graph's element type.

        Raises:
            ValueError: The cache has no room, or holds tokens while B > 1 or B differs
                (the fused attention appends several tokens at batch 1 only); call reset() first.
        """
        import torch

        batch, new = ids.shape
        if self.length and new > 1 and batch > 1:
            raise ValueError("several tokens can be appended to a filled cache at batch 1 only")
        self._fit(batch, new)
        logits = torch.empty((batch, new, self.vocab), dtype=self._dtype, device=self._device)
        return self._run(ids, logits)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Append one token a row.

        Args:
            ids: Token ids [B, 1], on any device.

        Returns:
            Logits [B, 1, vocab]; **the next step overwrites them**.

        Raises:
            ValueError: The cache has no room, or another number of rows.
        """
        self._fit(ids.shape[0], 1)
        return self._run(ids, self._step_logits)

    def _fit(self, batch: int, new: int) -> None:
        if self.length + new > self.max_len:
            raise ValueError(f"{self.length} + {new} tokens exceed the cache of {self.max_len}")
        if batch == self._batch:
            return
        if self.length:
            raise ValueError(f"the cache holds {self._batch} rows, got {batch}; call reset() first")
        self._allocate(batch)

    def _allocate(self, batch: int) -> None:
        """Buffers for *batch* rows; the cache is bound once, the rest at every run."""
        import torch

        on = {"device": self._device}
        shape = (batch, *self._kv_shape)
        self._cache = []  # before the new one is made: both together may not fit
        for past, present in self._cache_names:
            # Zeros, as masked garbage could be NaN and 0 × NaN is NaN.
            buffer = torch.zeros(shape, dtype=self._kv_dtype, **on)
            self._cache.append(buffer)
            self._bind(self._binding.bind_input, past, self._kv_type, shape, buffer)
            self._bind(self._binding.bind_output, present, self._kv_type, shape, buffer)
        self._ones = torch.ones(batch * self.max_len, dtype=torch.int64, **on)
        self._step_logits = torch.empty((batch, 1, self.vocab), dtype=self._dtype, **on)
        self._batch = batch

    def _run(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        import torch

        ids = ids.to(self._device, torch.int64).contiguous()
        batch, new = ids.shape
        total, binding = self.length + new, self._binding
        self._bind(binding.bind_input, "input_ids", _INT64, (batch, new), ids)
        self._bind(binding.bind_input, "attention_mask", _INT64, (batch, total), self._ones)
        self._bind(binding.bind_output, "logits", self._logits_type, tuple(logits.shape), logits)
        if self._device.type == "cuda":
            # ONNX Runtime computes on a stream of its own: what torch still writes must be there.
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        self.length = total
        return logits

    def _bind(
        self, bind: Any, name: str, element: int, shape: tuple[int, ...], buffer: Any
    ) -> None:
        bind(name, self._device.type, self._device.index or 0, element, shape, buffer.data_ptr())

    @staticmethod
    def _element(name: str) -> tuple[Any, int]:
        import torch

        dtype, number = _TYPES[name]
        return getattr(torch, dtype), number


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "genai_config.json"
    try:
        model: dict[str, Any] = json.loads(path.read_text("utf-8"))["model"]
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing, so {folder} is no Model Builder export; export the model again"
        ) from None
    return model


def _open(path: Path, device: torch.device, threads: int) -> Any:
    """An InferenceSession on *device*, or an error; never on another device."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_SILENT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = _PROVIDERS[device.type]
    choice = (wanted, {"device_id": str(device.index)}) if device.type == "cuda" else wanted
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[choice])
    except Exception as error:  # the runtime's own exceptions share no narrower base
        raise StageError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it; export the model "
            f"again. It said: {str(error).splitlines()[0]}"
        ) from error
    if session.get_providers()[0] != wanted:
        raise StageError(f"{path}: ONNX Runtime fell back from CUDA to the CPU: {_why_no_cuda()}")
    return session


def _why_no_cuda() -> str:
    """The loader's own words on the library that ONNX Runtime's CUDA provider misses."""
    import onnxruntime

    libraries = Path(onnxruntime.__file__).parent / "capi"
    try:
        for path in sorted(libraries.glob("*onnxruntime_providers_cuda*")):
            ctypes.CDLL(str(path))
    except OSError as error:
        return f"{error}; install the CUDA and cuDNN libraries that match this onnxruntime-gpu"
    return "its CUDA provider loads by itself; see whether the GPU has free memory"
