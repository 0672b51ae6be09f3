"""How long `medbench compare` and `medbench gate` take on two large runs, start included.

    python benchmarks/compare.py --json

Two run folders are made up: 100,000 samples over five tasks each, with prompts, options and answers
of the length of MedQA's. Each command is a process of its own; the quickest of three counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from medbench.harness.folder.store import FORMAT, RunFolder

SOUNDS = ["mor", "tel", "vix", "dan", "quo", "fer", "lup", "zan", "hel", "bri"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of text")
    parser.add_argument("--samples", type=int, default=100_000, help="of each run")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3, help="runs; the quickest counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = [str(make(Path(folder) / name, seed, options)) for seed, name in enumerate("ab")]
        commands = {
            f"compare, {form}": ["compare", *sides, "--format", form]
            for form in ("json", "terminal")
        }
        commands["compare, html"] = ["compare", *sides, "--format", "html"]
        commands["gate"] = ["gate", sides[1], "--baseline", sides[0], "--format", "json"]
        found = {
            "samples": options.samples,
            "tasks": options.tasks,
            "seconds": {k: seconds(v, options.repeat) for k, v in commands.items()},
            "peak_megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000,
        }
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for name, value in found["seconds"].items():
        sys.stdout.write(f"{name:<20} {value['wall']:6.2f} s, CPU {value['cpu']:6.2f} s\n")


def make(path: Path, seed: int, options: argparse.Namespace) -> Path:
    """A run folder with one model, right on about half of the questions."""
    rng, n = np.random.default_rng(seed), options.samples
    ids = np.arange(n)
    questions = [
        f"A patient, {' '.join(SOUNDS[(i + k) % 10] for k in range(150))}, {i}?" for i in ids
    ]
    choices = [[f"{SOUNDS[(i + k) % 10]}ine {k}" for k in range(4)] for i in ids]
    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in ids]
    right = np.where(rng.random(n) < 0.8, np.random.default_rng(9).random(n), rng.random(n)) < 0.5
    table = pd.DataFrame(
        {
            "model": f"model{seed}", "task": [f"task{i % options.tasks}" for i in ids],
            "doc_id": ids, "cluster": hashes, "order": 0, "doc_hash": hashes,
            "prompt_hash": hashes, "target_hash": hashes, "protocol": "letters", "metric": "acc",
            "score": right.astype(float), "weight": 1.0,
            "prompt": [f"{question}\nAnswer:" for question in questions], "question": questions,
            "options": choices, "target": [four[0] for four in choices],
            "prediction": [four[0 if ok else 1] for four, ok in zip(choices, right, strict=True)],
            "option_scores": [[-0.1, -2.0, -3.0, -4.0]] * n, "confidence": 0.8, "output": None,
            "output_tokens": np.nan, "truncated": False, "unparsed": False, "subject": None,
            "problem": None,
        }
    )  # fmt: skip
    run = RunFolder(path)
    run.write_table("samples.parquet", table)
    run.write_json("results.json", {"format": FORMAT, "latency": []})
    model = f"model{seed}"
    suite = {"name": "made-up", "models": {model: {"pretrained": "made-up"}}}
    run.write_json(
        "manifest.json",
        {"format": FORMAT, "suite": suite, "models": [model], "stages": {}, "environment": {}},
    )
    return path


def seconds(command: list[str], repeat: int) -> dict[str, float]:
    """The quickest of *repeat* runs of ``medbench`` *command*, the interpreter's start included.

    Beside the time on the wall the processor's, which busy neighbours hardly change.
    """
    times = []
    for _ in range(repeat):
        started, used = time.perf_counter(), processor()
        done = subprocess.run(
            [sys.executable, "-m", "medbench", *command], stdout=subprocess.DEVNULL, check=False
        )
        times.append((time.perf_counter() - started, processor() - used))
        if done.returncode not in (0, 1, 3):
            raise SystemExit(f"medbench {' '.join(command)} ended with {done.returncode}")
    wall, cpu = min(times)
    return {"wall": round(wall, 2), "cpu": round(cpu, 2)}


def processor() -> float:
    """Processor seconds of all processes that this one waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
