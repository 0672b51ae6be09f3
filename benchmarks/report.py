"""How long `medbench report` takes on a large run, how large its page is, how fast that answers.

    python benchmarks/report.py --samples 100000 --json
    python benchmarks/report.py --samples 20000 --browser --json

A run folder of a base and a tuned model is made up: invented words in questions of the length of
MedQA's, asked in two ways by log-likelihood and once by generation. The command is a process of
its own, start included; the quickest of several counts. With --browser, Chromium opens the page
from the disk: time to the first paint, to the first question, and from a key or a choice to
the filtered list.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medbench.harness.folder.store import FORMAT, RunFolder

TASKS = {
    "made_text": "option text, log-likelihood, 0-shot",
    "made_letters": "letters, log-likelihood, 0-shot",
    "made_cot": "generated reasoning and answer, greedy, 0-shot",
}
RIGHT = {"base": 0.4, "tuned": 0.6}
PAINT = """() => performance.getEntriesByType('paint')
  .find((one) => one.name === 'first-contentful-paint')?.startTime ?? null"""
FILTER = """([id, value]) => {
  const box = document.getElementById(id);
  const before = box.value;
  box.value = value;
  const start = performance.now();
  box.dispatchEvent(new Event(id === 'find' ? 'input' : 'change'));
  document.getElementById('list').getBoundingClientRect();
  const took = performance.now() - start;
  if (id !== 'find') {
    box.value = before;
    box.dispatchEvent(new Event('change'));
  }
  return took;
}"""
CHOICES = "(id) => [...document.getElementById(id).options].map((one) => [one.label, one.value])"
FILTERS = ("task", "subject", "order", "result", "answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of text")
    parser.add_argument("--samples", type=int, default=100_000, help="rows of samples.parquet")
    parser.add_argument("--repeat", type=int, default=3, help="runs; the quickest counts")
    parser.add_argument("--browser", action="store_true", help="open the page in Chromium too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make(Path(folder) / "run", options.samples)
        found: dict[str, Any] = {"samples": len(run.samples())}
        found |= timed(run, options.repeat)
        found["html_megabytes"] = round((run / "report.html").stat().st_size / 1e6, 2)
        if options.browser:
            found["browser"] = opened(run / "report.html")
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:<16} {value}\n")


MEASURED = """
import atexit, re, sys
def said():
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    sys.stderr.write(peak[1])
atexit.register(said)
from medbench.cli import main
main()
"""
"""The program, saying its own peak memory: what the parent reads starts at the parent's own."""


def timed(run: RunFolder, repeat: int) -> dict[str, Any]:
    """Seconds (wall and CPU) and peak memory of the command."""
    best: dict[str, Any] = {}
    for _ in range(repeat):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "report", str(run.path)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if not best or wall < best["seconds"]:
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
        best["peak_megabytes"] = round(1.024e-3 * int(done.stderr.split()[-1]))
    return best


def opened(page: Path) -> dict[str, Any]:
    """Milliseconds in Chromium, from the start of the navigation or from the key."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri(), wait_until="commit")
        tab.wait_for_selector("#list li", timeout=60_000)
        ready = tab.evaluate("performance.now()")
        paint = tab.evaluate(PAINT)
        words = ["m", "mo", "morte", "mortel vix", "zan lup", "no such word", ""]
        filtered = {f"search {word!r}": tab.evaluate(FILTER, ["find", word]) for word in words}
        for name in FILTERS:
            chosen = tab.evaluate(CHOICES, name)
            took = {label: tab.evaluate(FILTER, [name, value]) for label, value in chosen}
            slowest = max(took, key=lambda label: took[label])
            filtered[f"{name}, the slowest of {len(took)}: {slowest}"] = took[slowest]
        chromium.close()
    return {
        "first_paint_ms": paint and round(paint),
        "questions_ms": round(ready),
        "filter_ms": {name: round(took, 1) for name, took in filtered.items()},
    }


def make(path: Path, samples: int) -> RunFolder:
    """The run folder: *samples* rows over two models and three tasks."""
    rng, n = np.random.default_rng(0), samples // (len(RIGHT) * len(TASKS))
    sounds = ["mor", "tel", "vix", "dan", "quo", "fer", "lup", "zan", "hel", "bri"]
    ends = ("", "in", "ol", "ate")
    words = np.array([a + b + end for a in sounds for b in sounds for end in ends])
    questions = [" ".join(row) for row in rng.choice(words, (n, 100))]
    options = [[" ".join(row) for row in four] for four in rng.choice(words, (n, 4, 3))]
    targets = rng.integers(4, size=n)
    rows = []
    for task in TASKS:
        for model, share in RIGHT.items():
            right = rng.random(n) < share
            chosen = np.where(right, targets, (targets + rng.integers(1, 4, size=n)) % 4)
            thoughts = rng.choice(words, (n, 80)) if task == "made_cot" else None
            scores = rng.normal(-20, 3, (n, 4))
            for i in range(n):
                rows.append(row(task, model, i, questions[i], options[i], int(targets[i])))
                rows[-1] |= answer(options[i], int(chosen[i]), int(targets[i]), scores[i])
                if thoughts is not None:
                    said = f"<think>{' '.join(thoughts[i])}</think>\n{options[i][chosen[i]]}"
                    rows[-1] |= {"options": [], "option_scores": [], "output": said,
                                 "output_tokens": 200, "confidence": None}  # fmt: skip
    run = RunFolder(path)
    run.write_table("samples.parquet", pd.DataFrame(rows))
    run.write_json("manifest.json", manifest())
    run.write_json("results.json", results(run.samples()))
    return run


def row(
    task: str, model: str, i: int, question: str, options: list[str], target: int
) -> dict[str, Any]:
    digest = hashlib.sha256(f"{task} {i}".encode()).hexdigest()
    return {
        "model": model, "task": task, "doc_id": i, "cluster": str(i), "order": 0,
        "doc_hash": digest, "prompt_hash": digest, "target_hash": digest, "protocol": TASKS[task],
        "metric": "acc", "weight": 1.0, "prompt": f"Question: {question}\nAnswer:",
        "question": question, "options": options, "target": options[target], "output": None,
        "output_tokens": None, "truncated": False, "unparsed": False,
        "subject": f"Subject {i % 20}", "problem": None,
    }  # fmt: skip


def answer(options: list[str], chosen: int, target: int, scores: Any) -> dict[str, Any]:
    scores[chosen] = scores.max() + 0.5
    shares = np.exp(scores - scores.max())
    return {
        "score": float(chosen == target), "prediction": options[chosen],
        "option_scores": scores.tolist(), "confidence": float(shares.max() / shares.sum()),
    }  # fmt: skip


def manifest() -> dict[str, Any]:
    specs = {"base": {"pretrained": "made-up/model"}, "tuned": {"base": "base"}}
    return {
        "format": FORMAT, "status": "done", "command": "medbench run", "models": list(specs),
        "created": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "notes": [], "stages": {},
        "environment": {}, "suite": {"name": "made-up", "models": specs, "report": {"samples": 8}},
    }  # fmt: skip


def results(samples: pd.DataFrame) -> dict[str, Any]:
    """As a run derives it, with the harness's own functions."""
    from medbench.harness.comparing.join import join
    from medbench.harness.results import adjusted, task_score
    from medbench.harness.statistics.groups import comparison

    tasks, compared = {}, []
    for task, protocol in TASKS.items():
        table = samples[samples["task"] == task]
        sides = {model: table[table["model"] == model] for model in RIGHT}
        tasks[task] = {
            "protocol": protocol, "metric": "acc", "higher_is_better": True, "chance": 0.25,
            "source": "invented", "licence": "Apache-2.0",
            "scores": {model: task_score(side) for model, side in sides.items()},
        }  # fmt: skip
        names = {"task": task, "metric": "acc", "base": "base", "tuned": "tuned"}
        compared.append(names | comparison(join(sides["base"], sides["tuned"]).pairs))
    if not all(math.isfinite(one["difference"]) for one in compared):
        raise SystemExit("the made-up run compares nothing")
    return {
        "format": FORMAT, "suite": "made-up", "models": list(RIGHT), "notes": [], "tasks": tasks,
        "groups": {}, "comparisons": adjusted(compared), "latency": [],
    }  # fmt: skip


if __name__ == "__main__":
    main()
