"""What it costs that a task can be gone on with: the same task with and without its journal.

    python benchmarks/resuming.py --json

The embedded model answers whole embedded tasks three ways, in turns: plainly; with a journal as a
run has it (units of about a minute, so one here, and a part every 30 seconds, so none); and in
units of ``--seconds`` with a part after each, which is a worst case. Processor time counts, since
busy neighbours hardly change it; of each way the quickest turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medbench.harness.evaluate import Asking, score
from medbench.harness.folder import journal
from medbench.harness.models import answered as units
from medbench.harness.models.load import ScoringPool
from medbench.harness.quiet import quiet
from medbench.harness.suite import ModelSpec
from medbench.tasks.catalog import task

TASKS = ("clinic_text", "clinic_letters", "clinic_response", "clinic_open")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of text")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--model", default="embedded:clinic")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1, help="of a unit in the worst case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet(folder / "log"):
            found = {each: measure(each, folder, options) for each in options.tasks}
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for each, row in found.items():
        sys.stdout.write(f"{each:<18}" + "".join(f" {k} {v:g}" for k, v in row.items()) + "\n")


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way, and what the journal adds, in per cent."""
    pool = ScoringPool({"m": ModelSpec(pretrained=options.model)}, {}, options.device)
    asking = Asking(orders=options.orders)
    turn, counted, parts = iter(range(10**6)), 0, 0
    with pool.use("m") as lm:

        def plain() -> None:
            score("m", lm, task(name), asking)

        def kept() -> None:
            nonlocal parts
            place = folder / str(next(turn))
            with units.answered(lm, journal.Journal(place)) as known:
                score("m", lm, task(name), asking, known.tick)
            parts = len(list(place.glob("*.json")))

        def small() -> None:
            before = units.MINUTE, journal.EVERY
            part = options.seconds / 60
            units.MINUTE = {key: value * part for key, value in units.MINUTE.items()}
            journal.EVERY = 0
            try:
                kept()
            finally:
                units.MINUTE, journal.EVERY = before

        ways: dict[str, Callable[[], None]] = {"plain": plain, "kept": kept, "small": small}
        times: dict[str, list[float]] = {way: [] for way in ways}
        plain()  # the scorer is probed once
        for _ in range(options.repeat):
            for way, work in ways.items():
                started = time.process_time()
                work()
                times[way].append(time.process_time() - started)
                counted = parts if way == "small" else counted
    best = {way: min(values) for way, values in times.items()}
    return {
        "seconds": round(best["plain"], 3),
        "kept_percent": round(100 * (best["kept"] / best["plain"] - 1), 2),
        "small_percent": round(100 * (best["small"] / best["plain"] - 1), 2),
        "small_parts": counted,
    }


if __name__ == "__main__":
    main()
