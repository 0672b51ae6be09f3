"""The roofline: work counted by hand on the embedded model, peaks that are plausible."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from medbench.harness.export import export_onnx
from medbench.harness.latency.roofline import Peaks, Work, bandwidth, matmul_peak, of_onnx, of_torch
from medbench.harness.suite import EMBEDDED

CHECKPOINT = EMBEDDED["embedded:clinic"]
# Five layers of width 128 and 384, as many heads for keys as for queries, and the tied head.
MATRICES = 5 * (4 * 128 * 128 + 3 * 128 * 384) + 1024 * 128
NORMS = 11 * 128
CACHE = 2 * 5 * 4 * 32


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("roofline")
    return {
        kind: export_onnx(CHECKPOINT, root / kind, precision=kind).path for kind in ("fp32", "int4")
    }


def test_work_of_torch() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    assert of_torch(model) == Work(4 * MATRICES, MATRICES, 4 * CACHE, 4 * 5 * 4 * 32, "float32")


def test_work_of_an_export(exports: dict[str, Path]) -> None:
    found = of_onnx(exports["fp32"], "cpu")
    assert found == Work(4 * (MATRICES + NORMS), MATRICES, 4 * CACHE, 4 * 5 * 4 * 32, "float32")


def test_work_of_a_quantised_export(exports: dict[str, Path]) -> None:
    found = of_onnx(exports["int4"], "cpu")
    # Half a byte a weight, and a scale of four bytes for each block of 32.
    assert found.weight_bytes == MATRICES / 2 + 4 * MATRICES / 32 + 4 * NORMS
    assert found.parameters == MATRICES
    assert found.compute is None


def test_costs_by_hand() -> None:
    work = Work(weight_bytes=100, parameters=10, kv_bytes=2, attention=4, compute="float32")
    assert work.step(batch=3, context=5) == (100 + 3 * 5 * 2, 3 * (20 + 4 * 5))
    # Token k of three attends to k tokens: 1 + 2 + 3.
    assert work.prefill(batch=2, tokens=3) == (100 + 2 * 3 * 2, 2 * (60 + 4 * 6))


def test_floor_is_the_slower_of_bytes_and_arithmetic() -> None:
    peaks = Peaks("cpu", {"float32": 1e6}, {1 << 20: 1e3})
    bytes_bound = Work(5e3, 1, 0, 0, "float32")
    flops_bound = Work(1, 5e6, 0, 0, "float32")
    integers = Work(5e3, 1, 0, 0, None)
    assert peaks.step(bytes_bound, 1, 1) == pytest.approx(5)
    assert peaks.step(flops_bound, 1, 1) == pytest.approx(10)
    assert peaks.prefill(flops_bound, 1, 3) == pytest.approx(30)
    assert peaks.step(integers, 1, 1) == pytest.approx(5)
    assert math.isnan(peaks.prefill(integers, 1, 3))


def test_peaks_measured_again_keep_the_better() -> None:
    peaks = Peaks("cpu", {"float32": 1e18}, {1 << 20: 1.0})
    peaks.again()
    assert peaks.as_dict()["matmul"] == {"float32": 1e18}
    assert peaks.as_dict()["bandwidth"][str(1 << 20)] > 1e8


def test_peaks_of_this_machine_are_plausible() -> None:
    assert 1e9 < matmul_peak("cpu", "float32") < 1e14
    # A cache is not slower than memory, up to noise.
    assert bandwidth("cpu", 1 << 20) > 0.5 * bandwidth("cpu", 1 << 27) > 1e8
