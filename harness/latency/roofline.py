"""How fast this machine could be at best: bytes moved and FLOPs, over its measured peaks.

The roofline model (Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785): a request
takes at least the longer of moving its bytes at the memory's speed and doing its arithmetic at the
processor's. A step of one token moves all weights and the cache, so that bytes bound it; a prompt
multiplies every weight by every token, so that FLOPs bound it.

The embedding table is left out (a step reads one row of it). Logits are computed at every prompt
position, as all engines here do.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.kept import kept

if TYPE_CHECKING:
    import torch

_LOOKED_UP = {"Gather", "GatherBlockQuantized", "Reshape", "Transpose", "GroupQueryAttention"}
"""Operators that read a few rows of a table, or only rearrange it when the graph is loaded."""
_SECONDS = 0.25
"""How long each peak is sought."""


@dataclass(frozen=True)
class Work:
    """What one token costs in one engine.

    Attributes:
        weight_bytes: Bytes of the weights that every step reads, whatever the batch.
        parameters: Elements of the weight matrices: one multiplication and one addition a token.
        kv_bytes: Bytes that one token of one row takes in the cache.
        attention: FLOPs of a token for each token that it attends to.
        compute: torch's name of the element type that is multiplied; None where no peak of it can
            be measured (integer arithmetic).
    """

    weight_bytes: float
    parameters: float
    kv_bytes: float
    attention: float
    compute: str | None

    def prefill(self, batch: int, tokens: int) -> tuple[float, float]:
        """(bytes, FLOPs) of *batch* prompts of so many tokens; attention is causal."""
        flops = 2 * self.parameters * tokens + self.attention * tokens * (tokens + 1) / 2
        return self.weight_bytes + batch * tokens * self.kv_bytes, batch * flops

    def step(self, batch: int, context: float) -> tuple[float, float]:
        """(bytes, FLOPs) of one token a row that attends to *context* tokens."""
        flops = 2 * self.parameters + self.attention * context
        return self.weight_bytes + batch * context * self.kv_bytes, batch * flops


def of_torch(model: Any) -> Work:
    """The work of a transformers decoder."""
    import torch
    from transformers.pytorch_utils import Conv1D  # a linear layer, as GPT-2 has it

    kinds = (torch.nn.Linear, Conv1D)
    linear = [part.weight for part in model.modules() if isinstance(part, kinds)]
    config = model.config.get_text_config(decoder=True)
    layers = kept(model)
    return Work(
        weight_bytes=sum(weight.nbytes for weight in linear),
        parameters=sum(weight.numel() for weight in linear),
        kv_bytes=sum(keys.nbytes + values.nbytes for keys, values in layers),
        attention=2.0
        * config.num_attention_heads
        * sum(keys.shape[3] + values.shape[3] for keys, values in layers),
        compute=str(model.dtype).removeprefix("torch."),
    )


def of_onnx(folder: Path, provider: str) -> Work:
    """The work of an export, read from its graph; the weights are not loaded."""
    import onnx

    model = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
    decoder = model["decoder"]
    graph = onnx.load(folder / decoder["filename"], load_external_data=False).graph
    weights = {one.name: one for one in graph.initializer}
    # Turned when the graph is loaded: the head that a traced model has in common with its table.
    turned = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in weights
    }
    read: set[str] = set()
    parameters = 0
    quantised = False
    for node in graph.node:
        own = [name for one in node.input if (name := turned.get(one, one)) in weights]
        if node.op_type not in _LOOKED_UP:
            read.update(own)
        if node.op_type == "MatMulNBits":
            about = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            parameters += about["K"] * about["N"]
            quantised = True
        elif node.op_type in ("MatMul", "Gemm"):
            matrices = (weights[name].dims for name in own)
            parameters += sum(math.prod(dims) for dims in matrices if len(dims) > 1)
    cached = next(one for one in graph.input if one.name == "past_key_values.0.key")
    element = _numpy_type(cached.type.tensor_type.elem_type)
    heads = cached.type.tensor_type.shape.dim[1].dim_value
    layers, head = decoder["num_hidden_layers"], decoder["head_size"]
    integers = quantised and provider == "cpu"  # on a GPU they are multiplied as fp16
    return Work(
        weight_bytes=float(sum(_size(weights[name]) for name in read)),
        parameters=float(parameters),
        kv_bytes=2.0 * layers * heads * head * element.itemsize,
        attention=4.0 * layers * decoder["num_attention_heads"] * head,
        compute=None if integers else element.name,
    )


def _numpy_type(element: int) -> Any:
    import onnx

    return onnx.helper.tensor_dtype_to_np_dtype(element)


def _size(weight: Any) -> int:
    return int(math.prod(weight.dims) * _numpy_type(weight.data_type).itemsize)


@dataclass
class Peaks:
    """The measured peaks of *device*; each is measured when it is first asked for."""

    device: str
    _matmul: dict[str, float] = field(default_factory=dict)
    _bandwidth: dict[int, float] = field(default_factory=dict)

    def matmul(self, dtype: str) -> float:
        """FLOP/s of a product of two large square matrices of *dtype*."""
        if dtype not in self._matmul:
            self._matmul[dtype] = matmul_peak(self.device, dtype)
        return self._matmul[dtype]

    def bandwidth(self, size: float) -> float:
        """Bytes a second at which a buffer of *size* bytes is read again and again.

        A model that fits into a cache of the processor is read at that cache's speed; therefore the
        buffer is as large as what a step reads, rounded up to a power of two; a gigabyte fits into
        none and stands for all above it.
        """
        rounded = 1 << min(30, max(20, math.ceil(math.log2(max(size, 1)))))
        if rounded not in self._bandwidth:
            self._bandwidth[rounded] = bandwidth(self.device, rounded)
        return self._bandwidth[rounded]

    def prefill(self, work: Work, batch: int, tokens: int) -> float:
        """Seconds that so many prompts take at the least; NaN where no matmul peak applies."""
        if work.compute is None:
            return math.nan
        return self._seconds(work, work.prefill(batch, tokens))

    def step(self, work: Work, batch: int, context: float) -> float:
        """Seconds that one token a row takes at the least."""
        return self._seconds(work, work.step(batch, context))

    def _seconds(self, work: Work, cost: tuple[float, float]) -> float:
        moved, flops = cost
        compute = flops / self.matmul(work.compute) if work.compute else 0.0
        return max(moved / self.bandwidth(moved), compute)

    def again(self) -> None:
        """Measure all that is known once more and keep the better: a neighbour may have been busy.

        Call it when the requests are done, so that their time is enclosed.
        """
        for dtype, known in self._matmul.items():
            self._matmul[dtype] = max(known, matmul_peak(self.device, dtype))
        for size, known in self._bandwidth.items():
            self._bandwidth[size] = max(known, bandwidth(self.device, size))

    def as_dict(self) -> dict[str, Any]:
        """What was measured: FLOP/s by element type, bytes/s by size of buffer."""
        sizes = {str(size): rate for size, rate in sorted(self._bandwidth.items())}
        return {"matmul": dict(self._matmul), "bandwidth": sizes}


def matmul_peak(device: str, dtype: str) -> float:
    """FLOP/s of a product of square matrices of random numbers, the best of several.

    On a CPU by torch and by ONNX Runtime, whichever is faster: torch's library is not at its best
    on every processor (on one AMD EPYC ONNX Runtime's was 2.5 times as fast).
    """
    import torch

    # On a CPU short enough to end before the scheduler takes the core away.
    size = 8192 if device.startswith("cuda") else 512
    kind = getattr(torch, dtype)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    seconds = _best(lambda: torch.mm(a, b, out=out), device)
    if device == "cpu" and kind == torch.float32:
        seconds = min(seconds, _best(_onnx_product(a, b), device))
    return 2 * size**3 / seconds


def _onnx_product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    """The product by ONNX Runtime, *b* being a weight as in a model."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(a.shape))] for name in "ac"
    )
    weight = numpy_helper.from_array(b.numpy(), "b")
    graph = helper.make_graph([node], "product", inputs, outputs, [weight])
    opset = helper.make_opsetid("", 21)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fed = {"a": a.numpy()}
    return lambda: session.run(None, fed)


def bandwidth(device: str, size: int) -> float:
    """Bytes a second of reading *size* bytes, by the better of two ways.

    They are a sum, and a product of a matrix and a vector, which is what a step is.
    """
    import torch

    width = 4096 if size >= 1 << 26 else 256
    matrix = torch.ones((size // 4 // width, width), device=device)
    vector = torch.ones(width, device=device)
    out = torch.empty(matrix.shape[0], device=device)
    product = _best(lambda: torch.mv(matrix, vector, out=out), device)
    flat = matrix.view(-1)
    seconds = min(product, _best(lambda: torch.sum(flat), device))
    return float(matrix.nbytes) / seconds


def _best(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of many calls."""
    seconds = _gpu_seconds if device.startswith("cuda") else _host_seconds
    best, end = math.inf, time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        best = min(best, seconds(work))
    return best


def _host_seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _gpu_seconds(work: Callable[[], object]) -> float:
    """By the GPU's own clock: to the host's, starting and awaiting a kernel would be added."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
