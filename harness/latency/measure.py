"""Latency of one model in several engines, measured in processes of their own.

So thread counts and the OpenMP wait policy can be set before torch is loaded, and nothing else runs
beside the engines. Raw values are kept, one row a request; :mod:`.statistics` derives the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, StageError
from ..orphans import lifeline
from ..ort.session import require_device
from ..progress import Tick, silent
from . import machine
from .settings import LatencyJob

if TYPE_CHECKING:
    import pandas as pd

_ERROR_LINES = 15


def measure(job: LatencyJob, tick: Tick = silent) -> pd.DataFrame:
    """Run all requests of *job* and return their raw times.

    All engines are loaded together and take turns request by request, the order rotating, so that
    a change of the machine's speed meets all alike. All compute the logits of all prompt positions
    (but vLLM, which needs the last alone) and choose greedily; the next request starts when the
    last has ended. Then each engine is loaded once more by itself, to see how much memory it takes.

    Args:
        job: The model, its exports, the prompts and the settings.
        tick: Called after every request.

    Returns:
        One row per request, warm-ups included, with :data:`.settings.COLUMNS`: *engine* of
        :data:`.settings.ENGINES`; *format* of the weights; *provider* ``cpu`` or ``cuda``;
        *iteration* from 0; *ttft_s* seconds from the request to its first token on the host;
        *token_s* the ``output_tokens - 1`` gaps between tokens, in seconds; *e2e_s* seconds to the
        last token, the sum of both; *load_1m* the machine's load average as the request began and
        *clock_mhz* its clock as the round began, NaN where there is none; *hardware* what it ran
        on; *peak_bytes* the most memory that the engine took for the largest request, NaN where
        that was not measured; *ttft_floor_s* and *token_floor_s* the least that this machine's
        measured peaks allow (roofline.py), NaN where they say nothing.

        ``attrs`` of the table: *skipped*, why an engine did not run, by name; *peaks*, FLOP/s and
        bytes/s that were measured.

    Raises:
        InputError: A folder, the device or a core is missing, or there are no prompts.
        StageError: A measuring process failed; the message holds the end of its stderr.
    """
    import pandas as pd

    _check(job)
    with tempfile.TemporaryDirectory(prefix="medbench-latency-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(job.model_dump_json(), "utf-8")
        _work(job, folder, [], tick)
        timings = pd.read_parquet(folder / "timings.parquet")
        found = json.loads((folder / "found.json").read_text("utf-8"))
        timings["peak_bytes"] = float("nan")
        if job.settings.memory:
            _add_memory(job, folder, timings, tick)
    timings["token_s"] = timings["token_s"].map(lambda gaps: gaps.tolist())
    timings.attrs = found
    return timings


def _add_memory(job: LatencyJob, folder: Path, timings: pd.DataFrame, tick: Tick) -> None:
    """Fill the column *peak_bytes*; one process an engine."""
    done = len(timings)
    for engine, kind in job.wanted:
        rows = timings["engine"] == engine
        if engine == "onnxruntime":
            rows &= timings["format"] == kind
        if not rows.any():
            continue  # skipped
        tick(done, done, f"memory of {engine} {kind}".strip())
        _work(job, folder, [engine, kind], silent)
        timings.loc[rows, "peak_bytes"] = json.loads((folder / "peak.json").read_text())


def _work(job: LatencyJob, folder: Path, wanted: list[str], tick: Tick) -> None:
    """Run the measuring process over *folder*; its progress reaches *tick*."""
    threads = str(job.settings.threads)
    environment = {
        **os.environ,
        # Idle OpenMP threads spin by default; beside a busy neighbour that made torch 70 times
        # slower (2.3 → 160 ms a token on two cores).
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", f"{__package__}.worker", str(folder), *wanted]
    with (
        (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr,
        lifeline() as stdin,
        subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as worker,
    ):
        try:
            for line in worker.stdout or ():
                tick(*json.loads(line))
        except BaseException:  # Ctrl-C, or a tick that raises: do not wait for the rest
            worker.kill()
            raise
    if worker.returncode:
        said = (folder / "stderr").read_text("utf-8", "replace").strip().splitlines()
        what = f"memory of {' '.join(wanted)}, model" if wanted else "latency of"
        raise StageError(
            f"{what} {job.model}: the measuring process failed (exit code "
            f"{worker.returncode}); the end of its output:\n" + "\n".join(said[-_ERROR_LINES:])
        )


def _check(job: LatencyJob) -> None:
    if not job.prompts or not all(job.prompts):
        raise InputError(f"latency of {job.model}: no prompts, or an empty one; give at least one")
    if set(job.settings.engines) == {"onnxruntime"} and not job.onnx:
        raise InputError(f"latency of {job.model}: no export, and no other engine is asked for")
    torch = set(job.settings.engines) - {"onnxruntime"}
    needed = [job.model_dir / "config.json"] if torch else []
    if "onnxruntime" in job.settings.engines:
        needed += [path / "model.onnx" for path in job.onnx.values()]
    for path in needed:
        if not path.is_file():
            raise InputError(f"latency of {job.model}: {path} is missing; run the export first")
    if not (job.model_dir / "tokenizer_config.json").is_file():
        raise InputError(
            f"latency of {job.model}: {job.model_dir}/tokenizer_config.json: missing; prompts are "
            "cut to tokens by it (tokenizer.save_pretrained on the same folder adds it)"
        )
    machine.check_settings(job.settings, job.device)
    require_device(job.device)
