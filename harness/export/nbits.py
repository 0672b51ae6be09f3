"""The process that turns a traced graph's weights into blocks of 8 or 4 bits, as the builder's are.

Its arguments are those of the process that traced: SOURCE OUT PRECISION PROVIDER TRUST_REMOTE_CODE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..latency.machine import status
from ..orphans import end_with_parent
from .process import PEAK

BITS = {"int8": 8, "int4": 4}
_BLOCK = 32
_MULTIPLY_INTEGERS = 4
"""``accuracy_level`` of MatMulNBits: on a CPU activations are rounded to 8 bits as well."""


def main(source: str, out: str, precision: str, *_: str) -> int:
    """Replace the graph in *out*, and the peak memory beside it. Returns the exit code."""
    quantise(Path(out) / "model.onnx", BITS[precision])
    (Path(out).parent / PEAK).write_text(json.dumps(status("VmHWM")))
    return 0


def quantise(path: Path, bits: int) -> None:
    """Replace the weight matrices of the graph at *path* by blocks of 32 with a scale each.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load(path))
    model.replace_gemm_with_matmul()
    _turn_weights(model.model.graph)
    quantizer = MatMulNBitsQuantizer(
        model.model,
        bits=bits,
        block_size=_BLOCK,
        is_symmetric=True,
        accuracy_level=_MULTIPLY_INTEGERS,
    )
    quantizer.process()
    for old in (path, path.with_name(f"{path.name}.data")):
        old.unlink(missing_ok=True)
    onnx.save_model(
        quantizer.model.model,
        path,
        save_as_external_data=True,
        location=f"{path.name}.data",
    )


def _turn_weights(graph: Any) -> None:
    """Store a matrix transposed where a node would transpose it: a tied head's, chiefly."""
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose"]:
        weight = weights.get(node.input[0])
        if weight is not None and len(weight.dims) == 2:
            turned = numpy_helper.to_array(weight).T.copy()
            graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
            graph.node.remove(node)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:]))
