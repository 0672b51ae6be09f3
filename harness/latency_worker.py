"""The process that measures: reads a job, tells its progress, writes the timings table.

Run by :func:`medbench.harness.latency.measure` as ``python -m medbench.harness.latency_worker
FOLDER``. FOLDER holds ``job.json``; ``timings.parquet`` is added. Every line on stdout is one
progress report, a JSON list [done, total, note]; whatever libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MedbenchError
from .latency import COLUMNS, LatencyJob
from .ort import OrtModel
from .progress import Tick

if TYPE_CHECKING:
    import torch

_FORMATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class Engine(Protocol):
    """A decoder with its cache: what :class:`OrtModel` and :class:`TorchModel` have in common."""

    def reset(self) -> None: ...
    def prefill(self, ids: torch.Tensor) -> torch.Tensor: ...
    def step(self, ids: torch.Tensor) -> torch.Tensor: ...


class TorchModel:
    """A checkpoint run by transformers, eagerly, with its growing cache.

    Args:
        folder: The checkpoint.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: torch's name of the element type, or ``auto`` for the checkpoint's own.

    Attributes:
        format: Short name of the element type in use, such as fp32.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", dtype: str = "auto") -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        name = str(self._model.dtype).removeprefix("torch.")
        self.format = _FORMATS.get(name, name)
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [B, T] and return their logits [B, T, vocab], on the model's device."""
        import torch

        with torch.inference_mode():
            done = self._model(
                input_ids=ids.to(self._model.device), past_key_values=self._cache, use_cache=True
            )
        logits: torch.Tensor = done.logits
        return logits

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [B, 1] and return their logits [B, 1, vocab]."""
        return self.prefill(ids)


def greedy(engine: Engine, ids: torch.Tensor, tokens: int) -> Iterator[list[int]]:
    """Continue the prompts *ids* [B, T] greedily for exactly *tokens* tokens; end tokens count.

    Yields:
        The next token of each of the B rows, as soon as it is on the host.
    """
    engine.reset()
    logits = engine.prefill(ids)
    for left in reversed(range(tokens)):
        chosen = logits[:, -1:].argmax(-1)
        yield chosen[:, 0].tolist()
        if left:
            logits = engine.step(chosen)


def fill(prompts: list[list[int]], start: int, length: int) -> list[int]:
    """Exactly *length* token ids: whole prompts one after another from *start* on, the last cut."""
    ids: list[int] = []
    while len(ids) < length:
        ids += prompts[start % len(prompts)]
        start += 1
    return ids[:length]


def requests(job: LatencyJob, tick: Tick) -> Iterator[dict[str, Any]]:
    """Run every request of *job*, engines in turn; yield one row of the timings table each."""
    import torch

    settings = job.settings
    torch.set_num_threads(settings.threads)
    prompts = _token_ids(job)
    engines = _engines(job)
    gc.collect()
    gc.freeze()  # a collection over everything the imports made would land inside some request
    shapes = [(batch, length) for batch in settings.batch for length in settings.prompt_tokens]
    rounds = settings.warmup + settings.iterations
    done, total = 0, len(shapes) * rounds * len(engines)
    for batch, length in shapes:
        for iteration in range(rounds):
            first = iteration * batch
            ids = torch.tensor([fill(prompts, first + row, length) for row in range(batch)])
            turn = iteration % len(engines)
            for labels, engine in engines[turn:] + engines[:turn]:
                load = _load_average()
                yield {
                    "model": job.model,
                    **labels,
                    "batch": batch,
                    "prompt_tokens": length,
                    "output_tokens": settings.output_tokens,
                    "iteration": iteration,
                    "warmup": iteration < settings.warmup,
                    **_times(engine, ids, settings.output_tokens),
                    "threads": settings.threads,
                    "load_1m": load,
                }
                done += 1
                tick(done, total, f"{labels['engine']} {labels['format']}")


def _times(engine: Engine, ids: torch.Tensor, tokens: int) -> dict[str, Any]:
    start = time.perf_counter()
    stamps = [time.perf_counter() for _ in greedy(engine, ids, tokens)]
    return {
        "ttft_s": stamps[0] - start,
        "token_s": [after - before for before, after in itertools.pairwise(stamps)],
        "e2e_s": stamps[-1] - start,
    }


def _token_ids(job: LatencyJob) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model_dir)
    return [tokenizer(p)["input_ids"] if isinstance(p, str) else p for p in job.prompts]


def _engines(job: LatencyJob) -> list[tuple[dict[str, str], Engine]]:
    """All engines, loaded, each with its labels in the table."""
    provider = job.device.partition(":")[0]
    # CPUs compute in fp32, as the CPU exports do; bf16 would be emulated on most of them.
    torch_model = TorchModel(
        job.model_dir, device=job.device, dtype="float32" if provider == "cpu" else "auto"
    )
    engines: list[tuple[dict[str, str], Engine]] = [
        ({"engine": "torch", "format": torch_model.format, "provider": provider}, torch_model)
    ]
    longest = max(job.settings.prompt_tokens) + job.settings.output_tokens
    for label, folder in job.onnx.items():
        labels = {"engine": "onnxruntime", "format": label, "provider": provider}
        model = OrtModel(folder, device=job.device, threads=job.settings.threads, max_len=longest)
        engines.append((labels, model))
    return engines


def _load_average() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def main(folder: Path) -> int:
    """Body of the process. Returns its exit code."""
    import pandas as pd

    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = LatencyJob.model_validate_json((folder / "job.json").read_text("utf-8"))

    def tick(done: int, total: int, note: str) -> None:
        reports.write(json.dumps([done, total, note]) + "\n")

    try:
        rows = list(requests(job, tick))
    except MedbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(folder / "timings.parquet", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
