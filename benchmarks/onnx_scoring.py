"""medbench's scorer of ONNX exports beside lm-eval's ``onnxruntime``: same graph, same questions.

    python benchmarks/onnx_scoring.py            # a table
    python benchmarks/onnx_scoring.py --json     # the same as JSON on stdout

The shapes of request are those of scoring.py, over real MedQA questions (``--data``) or the
embedded fictional ones, and ``answer-0shot``: each question once, with its right answer's text.
Both sides get the same strings, tokenize them, and run the same file, on a CPU with the same number
of threads (those of torch wait without spinning, as under ``medbench``). They take turns, and each
turn gives a ratio of wall times and one of processor times, which a busy machine disturbs less, and
which spinning threads make useless where there are several; a first call of each over a few
questions is not counted. lm-eval's side is its class as it is, its session opened again with these
threads, for which it has no setting. Shapes longer than the graph's context are left out: both
sides would cut them, at different places. ``whole`` is medbench over the graph as it was exported,
which computes the language model's head everywhere. The interval of a ratio is a bootstrap of its
median over turns. Memory is the peak of a process that holds one side only, less what it held
before it loaded the graph.

The graph is an export of the embedded model in fp32, made here; ``--model`` takes 48m, 1b or 8b
(random weights) or a checkpoint, ``--format`` another precision, ``--device cuda`` a GPU; or
``--export`` names one that is there.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read once, as torch is loaded

import contextlib
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import psutil
import torch
from lm_eval.models.onnxruntime_ort import ONNXRuntimeLM
from machine import SIZES, load, processor  # type: ignore[import-not-found]
from scoring import DATA, build, read_questions  # type: ignore[import-not-found]
from scoring import SHAPES as CHOICES

from medbench.harness.export import export_onnx
from medbench.harness.models import backends
from medbench.harness.ort.lm import OnnxLM
from medbench.harness.scorer.trie import Trie
from medbench.harness.suite import EMBEDDED

SIDES = ("medbench", "whole", "lm-eval")
SHAPES = (*CHOICES, "answer-0shot")


def main() -> None:
    options = _arguments()
    if options.side:
        sys.stdout.write(f"{_peak(options)}\n")
        return
    questions = read_questions(options.data)
    with tempfile.TemporaryDirectory(prefix="medbench-onnx-") as name:
        folder = _export(options, questions, Path(name))
        sides = {side: _open(side, folder, options) for side in SIDES}
        measured = {name: measure(name, sides, questions, options) for name in options.shapes}
        taken = [name for name, found in measured.items() if found]
        memory = {side: _in_a_process(side, folder, taken, options) for side in SIDES}
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/onnx_scoring.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else processor(),
        "threads": options.threads,
        "load": os.getloadavg()[0],
        "onnxruntime": onnxruntime.__version__,
        "model": options.model,
        "format": options.format,
        "data": "MedQA" if options.data.is_file() else "embedded",
        "shapes": [found for found in measured.values() if found],
        "left_out": [name for name, found in measured.items() if not found],
        "peak_bytes": memory,
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else _table(report)) + "\n")


def measure(
    name: str, sides: dict[str, Any], questions: list[Any], options: argparse.Namespace
) -> dict[str, Any] | None:
    """One shape: all sides in turn over the same requests, and how far their answers differ."""
    requests, warm = _requests(name, questions, options)
    ours = sides["medbench"]
    pairs = ours._encode_pairs([request.args for request in requests])
    longest = max(len(context) + len(rest) for _, context, rest in pairs)
    if longest > ours.max_length:
        return None
    for scorer in sides.values():
        scorer.loglikelihood(warm, disable_tqdm=True)
    turns = [
        {side: _time(scorer, requests) for side, scorer in sides.items()}
        for _ in range(options.repeat)
    ]
    expected = [value for value, _ in turns[-1]["lm-eval"][1]]
    greedy = [flag for _, flag in turns[-1]["lm-eval"][1]]
    count = len({request.doc_id for request in requests})
    found: dict[str, Any] = {
        "name": name,
        "questions": count,
        "distinct_tokens": len(Trie([(context + rest, len(rest)) for _, context, rest in pairs])),
        "lm_eval_tokens": sum(len(context) + len(rest) for _, context, rest in pairs),
        "longest": longest,
        "lm_eval_questions_per_s": count / statistics.median(t["lm-eval"][0][0] for t in turns),
    }
    for side in SIDES[:2]:
        answers = turns[-1][side][1]
        wall, cpu = (
            [turn["lm-eval"][0][clock] / turn[side][0][clock] for turn in turns] for clock in (0, 1)
        )
        found[side] = {
            "ratio": statistics.median(wall),
            "ratios": wall,
            "cpu_ratio": statistics.median(cpu),
            "cpu_ratios": cpu,
            "cpu_interval": _interval(cpu),
            "questions_per_s": count / statistics.median(turn[side][0][0] for turn in turns),
            "max_difference": max(abs(a - b) for (a, _), b in zip(answers, expected, strict=True)),
            "max_relative_difference": max(
                abs(a - b) / max(1.0, abs(b)) for (a, _), b in zip(answers, expected, strict=True)
            ),
            "greedy_differs": sum(a != b for (_, a), b in zip(answers, greedy, strict=True)),
        }
    return found


def _requests(
    name: str, questions: list[Any], options: argparse.Namespace
) -> tuple[list[Any], list[Any]]:
    """(what is measured, a few others to warm up with)."""
    examples = questions[-5:] if name.endswith("5shot") else []
    kind = name.split("-")[0]
    others = questions[options.questions :][:2] or questions[:2]

    def built(some: list[Any]) -> list[Any]:
        if kind != "answer":
            return list(build(some, examples, kind))
        texts = build(some, examples, "text")
        return [texts[4 * place + right] for place, (_, _, right) in enumerate(some)]

    return built(questions[: options.questions]), built(others)


def _interval(ratios: list[float]) -> tuple[float, float]:
    """95 % of the medians of 2000 samples drawn from *ratios* with replacement."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _open(side: str, folder: Path, options: argparse.Namespace) -> Any:
    if side == "lm-eval":
        return _lm_eval(folder, options)
    with contextlib.ExitStack() as stack:
        for module in ("scoring", "segmented") if side == "whole" else ():
            name = f"medbench.harness.ort.{module}.for_scoring"
            stack.enter_context(mock.patch(name, return_value=None))
        return OnnxLM(folder, device=options.device, threads=options.threads)


def _in_a_process(side: str, folder: Path, shapes: list[str], options: argparse.Namespace) -> int:
    given = [__file__, "--side", side, "--export", str(folder), "--data", str(options.data)]
    for name in ("device", "questions", "threads"):
        given += [f"--{name}", str(getattr(options, name))]
    command = [sys.executable, *given, "--shapes", *shapes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _peak(options: argparse.Namespace) -> int:
    """Bytes of memory that one side takes at most, over the longest of the shapes; Linux only."""
    requests, _ = _requests(options.shapes[-1], read_questions(options.data), options)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak begins anew
    _open(options.side, options.export, options).loglikelihood(requests, disable_tqdm=True)
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines()
    )
    return int(status["VmHWM"].split()[0]) * 1024 - before


def _export(options: argparse.Namespace, questions: list[Any], scratch: Path) -> Path:
    if options.export:
        return Path(options.export)
    source = Path(EMBEDDED.get(options.model, options.model))
    if options.model in SIZES:
        source = scratch / "model"
        texts = [" ".join([stem, *rest]) for stem, rest, _ in questions]
        model, tokenizer = load(options.model, options.device, texts)
        model.save_pretrained(source)
        tokenizer.save_pretrained(source)
        del model
        torch.cuda.empty_cache()
    out = scratch / "onnx"
    return export_onnx(source, out, precision=options.format, provider=options.device).path


def _lm_eval(folder: Path, options: argparse.Namespace) -> Any:
    """lm-eval's model of the graph in *folder*; on a CPU with so many threads."""
    lm = ONNXRuntimeLM(pretrained=str(folder), execution_provider=options.device)
    backends._know_head_size(lm)  # without it, it cannot run the Model Builder's graphs
    if options.device == "cpu":
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        lm.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )
    return lm


def _time(scorer: Any, requests: list[Any]) -> tuple[tuple[float, float], list[tuple[float, bool]]]:
    """((wall, processor) seconds, answers)."""
    before = time.perf_counter(), time.process_time()
    found = scorer.loglikelihood(requests, disable_tqdm=True)
    after = time.perf_counter(), time.process_time()
    return (after[0] - before[0], after[1] - before[1]), found


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['device']}, {report['threads']} thread(s); {report['model']} in "
        f"{report['format']}; {report['data']} questions; {report['date']}",
        "",
        "| request | lm-eval onnxruntime | medbench | ratio | processor time (95 %) | "
        "whole graph | tokens, theirs/ours | largest difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in report["shapes"]:
        ours, (low, high) = one["medbench"], one["medbench"]["cpu_interval"]
        lines.append(
            f"| {one['name']} | {one['lm_eval_questions_per_s']:.4g} q/s | "
            f"{ours['questions_per_s']:.4g} q/s | {ours['ratio']:.2f} | "
            f"{ours['cpu_ratio']:.2f} ({low:.2f}–{high:.2f}) | {one['whole']['cpu_ratio']:.2f} | "
            f"{one['lm_eval_tokens'] / one['distinct_tokens']:.2f} | "
            f"{ours['max_difference']:.2g} nats |"
        )
    peaks = ", ".join(f"{side} {size / 1e6:.0f} MB" for side, size in report["peak_bytes"].items())
    return "\n".join([*lines, "", f"Peak of memory: {peaks}; load {report['load']:.1f}"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--model", default="embedded:clinic", help="or 48m, 1b, 8b, a checkpoint")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--format", help="fp32 (or fp16 on CUDA), int8, int4")
    parser.add_argument("--export", type=Path, help="score this export; none is made")
    parser.add_argument("--data", type=Path, default=DATA, help="MedQA questions, JSON Lines")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5, help="turns of both sides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES)
    parser.add_argument("--side", choices=SIDES, help="print the memory of this side alone")
    options = parser.parse_args()
    options.format = options.format or ("fp32" if options.device == "cpu" else "fp16")
    torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    main()
