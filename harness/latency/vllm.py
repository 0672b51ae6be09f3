"""vLLM's engine, stepped by hand in this process, so that it takes turns with the others."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..export.estimate import shapes
from .settings import LatencyJob

if TYPE_CHECKING:
    import torch

_ROOM = 6e9
"""Bytes of the GPU beside weights and cache: vLLM's activations and CUDA graphs."""


class VllmModel:
    """A checkpoint served by vLLM; its prefix cache is off, as prompts come again.

    Args:
        job: What is to be measured; its checkpoint is loaded.

    Attributes:
        format: Of the weights: bf16, or fp16 where the checkpoint says so.
    """

    def __init__(self, job: LatencyJob) -> None:
        # The engine's own process could not take turns with the engines of this one.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import torch
        from transformers import AutoConfig

        self._vllm: Any = importlib.import_module("vllm")
        config = AutoConfig.from_pretrained(job.model_dir, trust_remote_code=job.trust_remote_code)
        half = getattr(config, "dtype", None) == torch.float16
        self.format = "fp16" if half else "bf16"
        settings = job.settings
        total = torch.cuda.mem_get_info(job.device)[1]
        self._engine = self._vllm.LLMEngine.from_engine_args(
            self._vllm.EngineArgs(
                model=str(job.model_dir),
                dtype="float16" if half else "bfloat16",
                max_model_len=settings.longest,
                max_num_seqs=max(settings.batch),
                enable_prefix_caching=False,
                gpu_memory_utilization=min(0.9, (2.2 * _parameters(job) + _ROOM) / total),
                trust_remote_code=job.trust_remote_code,
                disable_log_stats=True,
                seed=0,
            )
        )
        self._asked = 0

    def stream(self, ids: torch.Tensor, tokens: int) -> Iterator[list[int]]:
        """The next token of each row of *ids* [B, T], once all rows have it; *tokens* times."""
        chosen = self._vllm.SamplingParams(
            temperature=0.0, ignore_eos=True, min_tokens=tokens, max_tokens=tokens
        )
        names = []
        for row in ids.tolist():
            names.append(str(self._asked))
            self._asked += 1
            self._engine.add_request(names[-1], {"prompt_token_ids": row}, chosen)
        rows: dict[str, list[int]] = {name: [] for name in names}
        given = 0
        while given < tokens:
            for output in self._engine.step():
                rows[output.request_id] = list(output.outputs[0].token_ids)
            while given < min(map(len, rows.values())):
                yield [rows[name][given] for name in names]
                given += 1


def _parameters(job: LatencyJob) -> int:
    return sum(math.prod(shape) for shape in shapes(job.model_dir).values())
