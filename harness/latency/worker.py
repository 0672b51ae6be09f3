"""The process that measures: reads a job, tells its progress, writes what it found.

Run by :func:`.measure.measure` as ``python -m medbench.harness.latency.worker FOLDER``. FOLDER
holds ``job.json``; ``timings.parquet`` and ``found.json`` are added. With an engine and a format as
further arguments, only the peak memory of that one is measured and written to ``peak.json``. Every
line on stdout is one progress report, a JSON list [done, total, note]; whatever libraries print
goes to stderr.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MedbenchError
from ..orphans import end_with_parent
from ..progress import Tick
from . import machine
from .engines import Engine, load, missing
from .roofline import Peaks
from .settings import COLUMNS, LatencyJob

if TYPE_CHECKING:
    import pandas as pd
    import torch

Shape = tuple[int, int, int]
"""Batch, prompt tokens, output tokens."""


def fill(prompts: list[list[int]], start: int, length: int) -> list[int]:
    """Exactly *length* token ids: whole prompts one after another from *start* on, the last cut."""
    ids: list[int] = []
    while len(ids) < length:
        ids += prompts[start % len(prompts)]
        start += 1
    return ids[:length]


class Session:
    """All engines of one job, loaded, and what they are asked."""

    def __init__(self, job: LatencyJob) -> None:
        self.job = job
        self.skipped = missing(job)
        self.peaks = Peaks(job.device)
        self._prompts = _token_ids(job)
        self._hardware = machine.hardware(job.device)
        wanted = [one for one in job.wanted if one[0] not in self.skipped]
        self.engines = [engine for engine in load(job, wanted) if self._runs(engine)]

    def _runs(self, engine: Engine) -> bool:
        """Whether *engine* answers; torch.compile fails on its first request or never."""
        if engine.name != "torch-compiled":
            return True
        shape = self.job.settings.shapes[0]
        try:
            list(engine.stream(self.request(shape, 0), shape[2]))
        except Exception as error:  # dynamo's, inductor's and the compiler's share no narrower base
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.skipped[engine.name] = f"torch.compile failed: {said}"
            return False
        return True

    def request(self, shape: Shape, iteration: int) -> torch.Tensor:
        """Token ids [batch, prompt tokens]; each row starts at another prompt."""
        import torch

        batch, length, _ = shape
        first = iteration * batch
        return torch.tensor([fill(self._prompts, first + row, length) for row in range(batch)])

    def rows(self, tick: Tick) -> Iterator[dict[str, Any]]:
        """Run every request, engines in turn; yield one row of the timings table each."""
        settings = self.job.settings
        gc.collect()
        gc.freeze()  # a collection over all that the imports made would land inside some request
        least = settings.warmup + settings.iterations
        done, total = 0, len(settings.shapes) * least * len(self.engines)
        for shape in settings.shapes:
            self.floors(shape)  # measures this machine's peaks before the requests
            spent = dict.fromkeys(range(len(self.engines)), 0.0)
            iteration = 0
            while iteration < least or min(spent.values()) < settings.min_seconds:
                ids = self.request(shape, iteration)
                warmup = iteration < settings.warmup
                about = {
                    "batch": shape[0],
                    "prompt_tokens": shape[1],
                    "output_tokens": shape[2],
                    "iteration": iteration,
                    "warmup": warmup,
                    "threads": settings.threads,
                    "clock_mhz": machine.clock_mhz(self.job.device),
                    "hardware": self._hardware,
                }
                for place in _turn(len(self.engines), iteration):
                    engine = self.engines[place]
                    load_1m = machine.load_average()
                    found = times(engine.stream, ids, shape[2])
                    spent[place] += 0.0 if warmup else found["e2e_s"]
                    yield {
                        "model": self.job.model,
                        "engine": engine.name,
                        "format": engine.format,
                        "provider": self.job.provider,
                        **about,
                        **found,
                        "load_1m": load_1m,
                    }
                    done += 1
                    tick(done, max(total, done), f"{engine.name} {engine.format}")
                iteration += 1

    def floors(self, shape: Shape) -> dict[tuple[str, str], tuple[float, float]]:
        """By engine and format, the least seconds to the first token of *shape* and between two.

        NaN where nothing is known.
        """
        batch, prompt, output = shape
        found = {}
        for engine in self.engines:
            first = step = math.nan
            if engine.work:
                first = self.peaks.prefill(engine.work, batch, prompt)
                step = self.peaks.step(engine.work, batch, prompt + output / 2)
            found[engine.name, engine.format] = (first, step)
        return found


def times(
    stream: Callable[[torch.Tensor, int], Iterator[list[int]]], ids: torch.Tensor, tokens: int
) -> dict[str, Any]:
    """Seconds of one request: to the first token, between tokens, to the last."""
    start = time.perf_counter()
    stamps = [time.perf_counter() for _ in stream(ids, tokens)]
    return {
        "ttft_s": stamps[0] - start,
        "token_s": [after - before for before, after in itertools.pairwise(stamps)],
        "e2e_s": stamps[-1] - start,
    }


def peak(job: LatencyJob, wanted: tuple[str, str]) -> int | None:
    """Bytes that one engine takes for the largest request, beyond the libraries loaded for it."""
    import onnxruntime  # noqa: F401  (its own memory is not the model's)
    import torch
    import transformers  # noqa: F401

    settings = job.settings
    if job.provider == "cuda":
        torch.ones(1, device=job.device)  # the CUDA context
    largest = max(settings.shapes, key=lambda shape: shape[0] * (shape[1] + shape[2]))
    prompts = _token_ids(job)
    ids = torch.tensor([fill(prompts, row, largest[1]) for row in range(largest[0])])
    memory = machine.Peak(job.device)
    (engine,) = load(job, [wanted])
    for _ in engine.stream(ids, largest[2]):
        pass
    return memory.bytes()


def _add_floors(session: Session, table: pd.DataFrame) -> None:
    """Fill the columns *ttft_floor_s* and *token_floor_s*."""
    for shape in session.job.settings.shapes:
        asked = (table[["batch", "prompt_tokens", "output_tokens"]] == shape).all(axis=1)
        for (name, kind), floors in session.floors(shape).items():
            rows = asked & (table["engine"] == name) & (table["format"] == kind)
            table.loc[rows, ["ttft_floor_s", "token_floor_s"]] = floors


def _turn(count: int, iteration: int) -> list[int]:
    """Which engine comes first, second, …: the order rotates."""
    return [(iteration + place) % count for place in range(count)]


def _token_ids(job: LatencyJob) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        job.model_dir, trust_remote_code=job.trust_remote_code
    )
    return [tokenizer(p)["input_ids"] if isinstance(p, str) else p for p in job.prompts]


def main(folder: Path, *wanted: str) -> int:
    """Body of the process. Returns its exit code."""
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = LatencyJob.model_validate_json((folder / "job.json").read_text("utf-8"))
    if job.settings.cores:
        os.sched_setaffinity(0, job.settings.cores)
    import torch

    torch.set_num_threads(job.settings.threads)

    def tick(done: int, total: int, note: str) -> None:
        reports.write(json.dumps([done, total, note]) + "\n")

    try:
        if wanted:
            engine, kind = wanted
            (folder / "peak.json").write_text(json.dumps(peak(job, (engine, kind))))
            return 0
        _measure(job, folder, tick)
    except MedbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _measure(job: LatencyJob, folder: Path, tick: Tick) -> None:
    import pandas as pd

    session = Session(job)
    table = pd.DataFrame(session.rows(tick), columns=list(COLUMNS))
    session.peaks.again()
    _add_floors(session, table)
    table.to_parquet(folder / "timings.parquet", index=False)
    found = {"skipped": session.skipped, "peaks": session.peaks.as_dict()}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
