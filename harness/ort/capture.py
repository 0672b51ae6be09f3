"""CUDA graphs of ONNX Runtime: which runs are captured, and when anew."""

from __future__ import annotations

from typing import Any


class Graphs:
    """Which runs ONNX Runtime captures as a CUDA graph: the steps, under one number a cache.

    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview
    """

    def __init__(self) -> None:
        self._number = 0

    def renew(self) -> None:
        """Capture anew: the buffers have moved."""
        self._number += 1

    def options(self, *, step: bool) -> tuple[Any, bool]:
        """(run options, whether the run is captured or replayed)."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(self._number) if step else "-1")
        return options, step
