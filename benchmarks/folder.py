"""What a large samples table costs: bytes on disk, time and memory to write, read and report.

    python benchmarks/folder.py --rows 100000 --out folder.json

The rows are as long as those of MedQA by letter (a question of 700 characters, four options, the
prompt around them): invented words, every row another text, so that nothing compresses that would
not. Base and tuned have half of the rows each. Peak memory is the process's own high-water mark.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from medbench.harness.evaluate import COLUMNS
from medbench.harness.folder.store import RunFolder
from medbench.harness.results import task_score

WORDS = [f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ne", "ru") for b in "bdgt" for c in ("an", "os")]


def rows(count: int, seed: int = 0) -> pd.DataFrame:
    """A samples table of *count* rows of models ``base`` and ``tuned``."""
    rng = random.Random(seed)
    found: list[dict[str, Any]] = []
    for number in range(count // 2):
        question = " ".join(rng.choices(WORDS, k=110))
        options = [" ".join(rng.choices(WORDS, k=4)) for _ in "ABCD"]
        digest = f"{rng.getrandbits(256):064x}"
        shared = dict.fromkeys(COLUMNS) | {
            "task": "made", "doc_id": number, "cluster": digest, "order": 0, "doc_hash": digest,
            "prompt_hash": digest, "target_hash": digest, "protocol": "letters", "metric": "acc",
            "weight": 1.0, "question": question, "options": options, "target": options[0],
            "prompt": f"Question: {question}\n" + "\n".join(options) + "\nAnswer:",
            "truncated": False, "unparsed": False, "confidence": 0.5,
        }  # fmt: skip
        for model in ("base", "tuned"):
            picked = rng.randrange(4)
            found.append(
                shared
                | {
                    "model": model,
                    "score": float(picked == 0),
                    "prediction": options[picked],
                    "option_scores": [rng.uniform(-9, 0) for _ in "ABCD"],
                }
            )
    return pd.DataFrame(found, columns=COLUMNS)


def peak() -> float:
    """High-water mark of this process's memory, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(work: Any) -> tuple[float, Any]:
    """(seconds, outcome) of *work*."""
    started = time.perf_counter()
    outcome = work()
    return time.perf_counter() - started, outcome


def main() -> None:
    """Write a table in one process, read and score it in another; print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--read", type=Path, help="Read the folder that an earlier call wrote.")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {"rows": asked.rows}
    if asked.read:
        run, before = RunFolder(asked.read), peak()
        seconds, table = timed(lambda: run.samples(leave_out=["prompt"]))
        found |= {"read_seconds": seconds, "read_mib": peak() - before}
        seconds, _ = timed(lambda: [task_score(one) for _, one in table.groupby("model")])
        found |= {"score_seconds": seconds, "peak_mib": peak()}
    else:
        import subprocess

        with tempfile.TemporaryDirectory(prefix="medbench-folder-") as name:
            run = RunFolder(name)
            table = rows(asked.rows)
            seconds, path = timed(lambda: run.write_table("samples.parquet", table))
            found |= {"write_seconds": seconds, "bytes_a_row": path.stat().st_size / len(table)}
            command = [sys.executable, __file__, "--rows", str(asked.rows), "--read", name]
            found |= json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    text = json.dumps(found, indent=2) + "\n"
    sys.stdout.write(text)
    if asked.out:
        asked.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
