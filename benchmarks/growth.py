"""How the scorer's time grows with the number of requests.

    python benchmarks/growth.py --json

Requests of random tokens shaped as multiple choice: a stem of 160 tokens, four options of one to
eleven. Building the trie is timed apart from the whole. With random weights (scoring.py).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any

import torch
from machine import load, processor, wait  # type: ignore[import-not-found]

from medbench.harness.scorer.lm import PackedLM
from medbench.harness.scorer.trie import Trie

STEM = 160


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="1b" if cuda else "48m", help="8b, 1b, 48m or a folder")
    parser.add_argument("--requests", type=int, nargs="+", default=[1_000, 3_000, 10_000])
    options = parser.parse_args()
    model, tokenizer = load(options.model, options.device, ["fever and cough"])
    scorer = PackedLM(pretrained=model, tokenizer=tokenizer)
    scorer._loglikelihood_tokens(requests(40), disable_tqdm=True)
    points = [point(scorer, count) for count in options.requests]
    report = {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "model": options.model,
        "points": points,
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else table(report)) + "\n")


def requests(count: int) -> list[tuple[None, list[int], list[int]]]:
    """(None, context, continuation), four to a stem."""
    draw = random.Random(count)

    def words(number: int) -> list[int]:
        return [draw.randrange(2, 250) for _ in range(number)]

    stems = (words(STEM) for _ in range(-(-count // 4)))
    return [(None, stem, words(draw.randrange(1, 12))) for stem in stems for _ in range(4)][:count]


def point(scorer: PackedLM, count: int) -> dict[str, float]:
    """Seconds of the trie and of everything, for *count* requests."""
    asked = requests(count)
    started = time.perf_counter()
    tokens = len(Trie([(context + rest, len(rest)) for _, context, rest in asked]))
    building = time.perf_counter() - started
    wait()
    started = time.perf_counter()
    scorer._loglikelihood_tokens(asked, disable_tqdm=True)
    wait()
    seconds = time.perf_counter() - started
    return {
        "requests": count,
        "distinct_tokens": tokens,
        "trie_seconds": building,
        "seconds": seconds,
        "microseconds_per_token": 1e6 * seconds / tokens,
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"{report['device']}, {report['model']}",
        "",
        "| requests | distinct tokens | trie, s | all, s | µs a token |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {p['requests']:,} | {p['distinct_tokens']:,} | {p['trie_seconds']:.3f} | "
        f"{p['seconds']:.2f} | {p['microseconds_per_token']:.2f} |"
        for p in report["points"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
