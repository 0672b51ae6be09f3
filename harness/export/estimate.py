"""What an export will take: disk, memory and time, known before it is begun.

Memory was measured as the peak resident memory of the builder (onnxruntime-genai 0.18), over models
of 1 M to 550 M parameters, in which it is about linear; the factors here are a little above it.
``export.json`` keeps what an export was expected to take and what it took.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, StageError

_FLOAT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0}
# Blocks of 32 weights share a scale: 4 bytes on a CPU, 2 on a GPU; int8 and int4 may have a zero.
_QUANTISED = {"int8": 1.0, "int4": 0.5}
_SCALE = {"cpu": 5 / 32, "cuda": 3 / 32}
_MEMORY = {
    ("fp32", "cpu"): 6.0, ("int8", "cpu"): 11.0, ("int4", "cpu"): 11.0,
    ("fp16", "cuda"): 3.2, ("bf16", "cuda"): 3.2, ("int4", "cuda"): 6.2,
}  # fmt: skip
"""Bytes of the builder's peak for each parameter, beside what its libraries take."""
_TRACED_MEMORY = {
    ("fp32", "cpu"): 9.5, ("int8", "cpu"): 9.5, ("int4", "cpu"): 9.5, ("fp16", "cuda"): 9.0,
}  # fmt: skip
"""The same for torch.onnx: the model, its graph, and the graph once more in ONNX Runtime."""
_LIBRARIES = 0.65e9
_TRACED_LIBRARIES = 0.8e9
_START = 8.0  # seconds: imports, loading, the first steps
_RATE = {"fp32": 2e-9, "fp16": 3e-9, "bf16": 3e-9, "int8": 15e-9, "int4": 15e-9}
_TRACED_START = 15.0
_TRACED_WEIGHT = 0.2  # seconds: a trace takes its time by layers, whatever their size
_MARGIN = 1.05
_EMBEDDING = re.compile(r"embed_tokens|wte|embed_in|word_embeddings")
_HEAD = re.compile(r"lm_head|embed_out|output_projection")


@dataclass(frozen=True)
class Estimate:
    """What is expected: bytes on disk and of memory at the peak, seconds (within about 2×)."""

    disk: float
    memory: float
    seconds: float


def shapes(model_dir: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, from the headers of the safetensors files; none is loaded.

    The header's layout: https://huggingface.co/docs/safetensors#format

    Raises:
        InputError: There are no weights, or a file is cut off.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [one["data_offsets"][1] for one in header.values()]
            if path.stat().st_size != 8 + length + max(ends, default=0):
                raise ValueError("its size is not what its header says")
        except (OSError, ValueError, struct.error, KeyError, MemoryError) as error:
            raise InputError(f"{path}: cut off or damaged ({error}); save it again") from None
        found |= {name: tuple(one["shape"]) for name, one in header.items()}
    if not found:
        raise InputError(
            f"{model_dir}: no *.safetensors there; expected a checkpoint saved by transformers "
            "(model.save_pretrained writes them)"
        )
    return found


def estimate(model_dir: Path, precision: str, provider: str, *, traced: bool = False) -> Estimate:
    """What exporting *model_dir* will take, by the Model Builder or *traced* by torch.onnx.

    Raises:
        InputError: Its weights cannot be read.
    """
    weights = shapes(model_dir)
    total = sum(math.prod(shape) for shape in weights.values())
    embedding = max(
        (math.prod(shape) for name, shape in weights.items() if _EMBEDDING.search(name)), default=0
    )
    tied = not any(_HEAD.search(name) for name in weights)
    if precision in _FLOAT:
        disk = total * _FLOAT[precision]
    else:
        # Embeddings stay in the float type; a tied head is written a second time, quantised.
        matrices = total - embedding + (embedding if tied else 0)
        disk = matrices * (_QUANTISED[precision] + _SCALE[provider])
        disk += embedding * (4 if provider == "cpu" else 2)
    if traced:
        if precision in _QUANTISED:
            disk = max(disk, total * _FLOAT["fp32"])  # what is traced first, and then replaced
        memory = _TRACED_LIBRARIES + total * _TRACED_MEMORY[precision, provider]
        return Estimate(disk + 20e6, memory, _TRACED_START + len(weights) * _TRACED_WEIGHT)
    memory = _LIBRARIES + total * _MEMORY[precision, provider]
    return Estimate(disk + 20e6, memory, _START + total * _RATE[precision])


def check(expected: Estimate, out: Path) -> None:
    """Raise where the disk of *out* or the memory has no room for what is expected.

    Raises:
        StageError: One of them has not.
    """
    import psutil

    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < _MARGIN * expected.disk:
        raise StageError(
            f"{out}: the export needs {_MARGIN * expected.disk / 1e6:,.0f} MB of disk and "
            f"{free / 1e6:,.0f} MB are free there; make room, or choose another folder"
        )
    available = psutil.virtual_memory().available
    if available < expected.memory:
        raise StageError(
            f"{out}: the export needs about {expected.memory / 1e6:,.0f} MB of memory and "
            f"{available / 1e6:,.0f} MB are available; close other programs, or export on a larger "
            "machine"
        )
