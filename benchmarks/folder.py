"""What a very large run folder costs: bytes on disk; time and memory to derive, report and compare.

    python benchmarks/folder.py --rows 10000000 --folder BIG --out folder.json

A run of ten models (a base and nine tuned) is made up in the run folder's own parts, streamed, so
that it may be larger than memory: questions as long as MedQA's by letter (770 characters, four
options, the prompt around them) in invented words, every question another text. Then the tables
are derived as at the end of a run, and `medbench report` and `medbench compare` run on them, each
in a process of its own whose high-water mark of resident memory is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from medbench.harness.folder.store import FORMAT, RunFolder
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.results import derive, samples_part
from medbench.harness.suite import load_suite

CHUNK = 20_000
WORDS, OPTION_WORDS = 110, 4
TUNED = [f"tuned{number}" for number in range(1, 10)]
TASK = "clinic_letters"
SUBJECTS = np.array([f"subject {number}" for number in range(20)])

MEASURED = """
import atexit, re, sys
def said():
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    sys.stderr.write("\\n" + peak[1])
atexit.register(said)
"""
"""The program, saying its own peak memory: what the parent reads starts at the parent's own."""

COMMAND = "from medbench.cli import main\nmain()"
DERIVE = """
import runpy
folder = runpy.run_path({file!r})
folder["derived"]({path!r})
"""


def suite(path: Path) -> Plan:
    """The plan of the made-up run; its suite is written to *path*."""
    models: dict[str, Any] = {"base": {"pretrained": "embedded:clinic"}}
    models |= {name: {"base": "base", "adapter": {"recipe": "clinic"}} for name in TUNED}
    named = {"name": "made-up", "models": models, "tasks": [TASK], "report": {"samples": 8}}
    path.write_text(yaml.safe_dump(named), "utf-8")
    loaded = load_suite(str(path), [])
    return make_plan(loaded, models=None, tasks=None, device="cpu", command="medbench run")


def made(path: Path, rows: int) -> None:
    """Write manifest and parts of *rows* samples to *path*."""
    run, models = RunFolder(path), ["base", *TUNED]
    plan = suite(path / "suite.yaml")
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    words = np.full((40, 7), ord(" "), np.uint8)
    words[:, :6] = rng.choice(letters, (40, 6))
    with contextlib.ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        for start in range(0, rows // len(models), CHUNK):
            size = min(CHUNK, rows // len(models) - start)
            shared = _questions(rng, words, start, size)
            for place, model in enumerate(models):
                table = _answers(rng, shared, model, 0.4 + 0.02 * place)
                if model not in writers:
                    part = run / samples_part(model, TASK)
                    part.parent.mkdir(parents=True, exist_ok=True)
                    writers[model] = stack.enter_context(pq.ParquetWriter(part, table.schema))
                writers[model].write_table(table)
    run.write_json("manifest.json", {
        "format": FORMAT, "status": "done", "command": "medbench run", "models": models,
        "created": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "notes": [], "stages": {},
        "environment": {}, "suite": plan.suite.model_dump(mode="json"),
    })  # fmt: skip


def _questions(rng: np.random.Generator, words: Any, start: int, size: int) -> dict[str, Any]:
    digests = [_texts(np.frombuffer(rng.bytes(32 * size).hex().encode(), np.uint8), 64)
               for _ in range(3)]  # fmt: skip
    question = _texts(words[rng.integers(len(words), size=(size, WORDS))], 7 * WORDS)
    flat = _texts(words[rng.integers(len(words), size=(4 * size, OPTION_WORDS))], 7 * OPTION_WORDS)
    options = np.asarray(flat, object).reshape(size, 4)
    prompts = ["Question: {}\nA. {}\nB. {}\nC. {}\nD. {}\nAnswer:".format(q, *four)
               for q, four in zip(question, options, strict=True)]  # fmt: skip
    return {
        "task": [TASK] * size, "doc_id": np.arange(start, start + size), "cluster": digests[0],
        "order": np.zeros(size, np.int64), "doc_hash": digests[0], "prompt_hash": digests[1],
        "target_hash": digests[2], "protocol": ["letters, log-likelihood, 0-shot"] * size,
        "metric": ["acc"] * size, "weight": np.ones(size), "prompt": prompts,
        "subject": SUBJECTS[rng.integers(len(SUBJECTS), size=size)], "question": question,
        "options": options, "target": options[np.arange(size), rng.integers(4, size=size)],
    }  # fmt: skip


def _texts(data: Any, width: int) -> list[str]:
    whole = data.tobytes().decode("ascii")
    return [whole[at : at + width] for at in range(0, len(whole), width)]


def _answers(
    rng: np.random.Generator, shared: dict[str, Any], model: str, share: float
) -> pa.Table:  # fmt: skip
    options, size = shared["options"], len(shared["task"])
    right = rng.random(size) < share
    prediction = np.where(right, shared["target"], options[:, 0])
    right = prediction == shared["target"]
    texts = [*options.tolist()]
    columns = {
        "model": pa.array([model] * size), **shared, "options": pa.array(texts),
        "score": right.astype(float), "prediction": prediction,
        "option_scores": pa.array(rng.uniform(-9, 0, (size, 4)).tolist()),
        "confidence": rng.random(size), "output": pa.nulls(size), "output_tokens": pa.nulls(size),
        "truncated": np.zeros(size, bool), "unparsed": np.zeros(size, bool),
        "problem": pa.nulls(size), "cut": np.zeros(size, bool),
    }  # fmt: skip
    return pa.table(columns)


def derived(path: str) -> None:
    """The tables and results of the made-up run, as at the end of a run."""
    parts = {samples_part(model, TASK) for model in ("base", *TUNED)}
    derive(suite(Path(path, "suite.yaml")), RunFolder(path), parts)


def cost(program: str, *arguments: str) -> dict[str, float]:
    """Wall seconds and peak resident MB (10⁶ bytes) of *program*, start included."""
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURED + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    peak = 1.024e-3 * int(done.stderr.split()[-1])
    return {"seconds": round(seconds, 1), "peak_megabytes": round(peak)}


@contextlib.contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """*given*, or one that goes away."""
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="medbench-folder-") as name:
        yield Path(name)


def main() -> None:
    """Make the folder, unless it is there; print what it costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of samples.parquet")
    parser.add_argument("--folder", type=Path, help="kept, and taken as it is if it is there")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with folder(asked.folder) as path:
        found: dict[str, Any] = {"rows": asked.rows}
        if not (path / "manifest.json").is_file():
            start = time.perf_counter()
            made(path, asked.rows)
            found["make_seconds"] = round(time.perf_counter() - start, 1)
        if not (path / "results.json").is_file():
            found["derive"] = cost(DERIVE.format(file=__file__, path=str(path)))
        found["bytes_a_row"] = round((path / "samples.parquet").stat().st_size / asked.rows, 1)
        found["report"] = cost(COMMAND, "report", str(path))
        found["html_megabytes"] = round((path / "report.html").stat().st_size / 1e6, 2)
        sides = (f"{path}:base", f"{path}:{TUNED[0]}")
        found["compare, one pair"] = cost(COMMAND, "compare", *sides)
        found["compare, nine pairs"] = cost(COMMAND, "compare", str(path))
    text = json.dumps(found, indent=2) + "\n"
    sys.stdout.write(text)
    if asked.out:
        asked.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
