"""Time and memory of the overlap check over two large sets of questions.

    python benchmarks/overlap.py --json
    python benchmarks/overlap.py --json --data DIR

Without --data the questions are made: words drawn by Zipf's law, lengths as MedQA's have them.
With it each is put together of sentences of MedQA and MedMCQA questions
(DIR/medqa_us_4options/test.jsonl, DIR/medmcqa_dev/dev.jsonl), so that words keep the company they
keep. One in a hundred training questions is a test question with its sentences in another order.
The check runs in a process of its own; memory is that process's high-water mark.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

PLANTED = 100
"""One training question in so many is a test question, reordered."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a sentence")
    parser.add_argument("--rows", type=int, default=20_000, help="questions a side")
    parser.add_argument("--data", type=Path, metavar="DIR", help="resample these instead")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        report = pool.apply(measure, (options.rows, options.data))
    line = (
        "{rows:,} × {rows:,} questions: {seconds:.1f} s, {cpu_seconds:.1f} s of CPU, "
        "{peak_gb:.2f} GB; {planted_found} of {planted} reordered questions found\n"
    )
    sys.stdout.write(json.dumps(report) + "\n" if options.json else line.format(**report))


def measure(rows: int, data: Path | None) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory (GB, with imports and the questions themselves)."""
    from medbench.tasks.overlap import find

    draw = random.Random(0)
    compose = resampled(draw, data) if data else made(draw)
    test = [compose() for _ in range(rows)]
    train = [compose() for _ in range(rows)]
    planted = range(0, rows, PLANTED)
    for row in planted:
        sentences = test[row].split("\n")
        train[row] = "\n".join(reversed(sentences))
    started, cpu = time.perf_counter(), time.process_time()
    found = find(train, test)
    return {
        "rows": rows,
        "questions": "resampled" if data else "made",
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "words": sum(len(text.split()) for text in train) / rows,
        "planted": len(planted),
        "planted_found": len({(p.train, p.eval) for p in found.pairs} & {(n, n) for n in planted}),
        "other_pairs": sum(p.train != p.eval or p.train % PLANTED > 0 for p in found.pairs),
    }


def made(draw: random.Random) -> Any:
    """A maker of questions of drawn words."""
    words = [f"{draw.choice('bcdfgklmprst')}{number:x}" for number in range(30_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]

    def compose() -> str:
        length = min(int(draw.lognormvariate(4.6, 0.5)), 400)
        text = draw.choices(words, weights, k=length)
        text[:2] = f"{draw.randrange(1, 99)} {draw.randrange(60, 200)}".split()
        return "\n".join(" ".join(text[at : at + 15]) for at in range(0, length, 15))

    return compose


def resampled(draw: random.Random, data: Path) -> Any:
    """A maker of questions of sentences of real ones."""
    files = data / "medqa_us_4options/test.jsonl", data / "medmcqa_dev/dev.jsonl"
    questions = [
        json.loads(line)["question"]
        for path in files
        for line in path.read_text("utf-8").splitlines()
    ]
    split = [re.split(r"(?<=[.?:])\s+", text) for text in questions]
    pool = [sentence for sentences in split for sentence in sentences]
    lengths = [len(sentences) for sentences in split[:1273]]

    def compose() -> str:
        return "\n".join(draw.choices(pool, k=draw.choice(lengths)))

    return compose


if __name__ == "__main__":
    main()
