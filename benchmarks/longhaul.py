"""Many short stages in one run: what a stage costs beside its work, and whether anything grows.

    python benchmarks/longhaul.py --tasks 200 --models 5 --limit 1 --out longhaul.json

The embedded model under several names is asked the first questions of the embedded clinic under
many names, each a file of questions of its own. Of the first tenth of the stages and of the last,
medians: processor time of a whole stage (`cpu_ms`, which busy neighbours hardly touch), wall time
of its own work and of what the run adds to it (`work_ms`, `overhead_ms`), resident memory and open
file handles.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import Tick, silent
from medbench.harness.quiet import quiet
from medbench.harness.run import execute, open_folder
from medbench.harness.suite import load_suite
from medbench.tasks.clinic.rows import choice_docs


class Meter:
    """A watcher that takes time, memory and file handles at the end of each stage."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.started = time.perf_counter()
        self.rows: list[dict[str, float]] = []

    def begin(self, stage: str) -> Tick:
        return silent

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        self.rows.append(
            {
                "at": time.perf_counter() - self.started,
                "cpu": time.process_time(),
                "work": seconds or 0.0,
                "rss_mib": self.process.memory_info().rss / 2**20,
                "handles": self.process.num_fds(),
            }
        )


def make_suite(folder: Path, tasks: int, models: int, limit: int) -> Path:
    """A suite of so many models and tasks, with the files that it names."""
    rows = [
        {"question": one["question"], "options": one["options"], "answer": one["answer"]}
        for one in choice_docs("test")[:limit]
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    files = {}
    for number in range(tasks):
        path = folder / f"q{number}.jsonl"
        path.write_text(text, "utf-8")
        files[f"q{number}"] = {"file": str(path), "options": "options", "answer": "answer"} | {
            "answer_kind": "text"
        }
    suite = {
        "name": "longhaul",
        "models": {f"m{n}": {"pretrained": "embedded:clinic"} for n in range(models)},
        "tasks": [f"{name}_letters" for name in files],
        "question_files": files,
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), "utf-8")
    return path


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run *plan* in *folder*, and again when all is done; what both cost."""
    meter, again = Meter(), Meter()
    execute(plan, open_folder(folder, plan, fresh=False), meter)
    whole = time.perf_counter() - meter.started
    again.started = time.perf_counter()
    execute(plan, open_folder(folder, plan, fresh=False), again)
    resumed = time.perf_counter() - again.started
    rows = meter.rows[1:]  # the first loads torch and lm-eval
    tenth = max(len(rows) // 10, 1)
    cpu = [1e3 * (b["cpu"] - a["cpu"]) for a, b in pairwise(rows)]
    gaps = [b["at"] - a["at"] - b["work"] for a, b in pairwise(rows)]

    def ends(values: list[float]) -> dict[str, float]:
        return {"first_tenth": median(values[:tenth]), "last_tenth": median(values[-tenth:])}

    return {
        "stages": len(meter.rows),
        "seconds": whole,
        "cpu_ms": {"median": median(cpu)} | ends(cpu),
        "work_ms": ends([1e3 * row["work"] for row in rows]),
        "overhead_ms": {"median": 1e3 * median(gaps)} | ends([1e3 * gap for gap in gaps]),
        "rss_mib": ends([row["rss_mib"] for row in rows]) | {"last": rows[-1]["rss_mib"]},
        "handles": ends([row["handles"] for row in rows]),
        "resumed_seconds": resumed,
        "manifest_bytes": (folder / "manifest.json").stat().st_size,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medbench-longhaul-") as name:
        folder = Path(name)
        with quiet(folder / "log"):
            started = time.perf_counter()
            suite = load_suite(str(make_suite(folder, asked.tasks, asked.models, asked.limit)))
            plan = make_plan(suite, models=None, tasks=None, device="cpu", command="longhaul")
            planned = time.perf_counter() - started
            found = {"tasks": asked.tasks, "models": asked.models, "limit": asked.limit}
            found |= {"plan_seconds": planned} | measure(plan, folder / "R")
    text = json.dumps(found, indent=2) + "\n"
    sys.stdout.write(text)
    if asked.out:
        asked.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
