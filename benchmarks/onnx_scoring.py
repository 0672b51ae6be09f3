"""medbench's scorer of ONNX exports beside lm-eval's ``onnxruntime``: same graph, same questions.

    python benchmarks/onnx_scoring.py            # a table
    python benchmarks/onnx_scoring.py --json     # the same as JSON on stdout

The shapes of request are those of scoring.py, over real MedQA questions (``--data``) or the
embedded fictional ones. Both sides get the same strings, tokenize them, and run the same file, on a
CPU with the same number of threads. They take turns, and each turn gives a ratio of wall times
and one of processor times, which a busy machine disturbs less; a first call of each over a few
questions is not counted. lm-eval's side is its class as it is, its session opened again with these
threads, for which it has no setting. Shapes longer than the graph's context are left out: both
sides would cut them, at different places.

The graph is an export of the embedded model in fp32, made here; ``--model`` takes 48m, 1b or 8b
(random weights) or a checkpoint, ``--format`` another precision, ``--device cuda`` a GPU; or
``--export`` names one that is there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from lm_eval.models.onnxruntime_ort import ONNXRuntimeLM
from machine import SIZES, load, processor  # type: ignore[import-not-found]
from scoring import DATA, SHAPES, build, read_questions  # type: ignore[import-not-found]

from medbench.harness.export import export_onnx
from medbench.harness.models import backends
from medbench.harness.ort.lm import OnnxLM
from medbench.harness.scorer.trie import Trie
from medbench.harness.suite import EMBEDDED


def main() -> None:
    options = _arguments()
    questions = read_questions(options.data)
    with tempfile.TemporaryDirectory(prefix="medbench-onnx-") as name:
        folder = _export(options, questions, Path(name))
        ours = OnnxLM(folder, device=options.device, threads=options.threads)
        theirs = _lm_eval(folder, options)
        measured = {
            name: measure(name, ours, theirs, questions, options) for name in options.shapes
        }
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/onnx_scoring.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else processor(),
        "threads": options.threads,
        "onnxruntime": onnxruntime.__version__,
        "model": options.model,
        "format": options.format,
        "data": "MedQA" if options.data.is_file() else "embedded",
        "shapes": [found for found in measured.values() if found],
        "left_out": [name for name, found in measured.items() if not found],
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else _table(report)) + "\n")


def measure(
    name: str, ours: Any, theirs: Any, questions: list[Any], options: argparse.Namespace
) -> dict[str, Any] | None:
    """One shape: both sides in turn over the same requests, and how far their answers differ."""
    examples = questions[-5:] if name.endswith("5shot") else []
    kind = name.split("-")[0]
    requests = build(questions[: options.questions], examples, kind)
    warm = build(questions[options.questions :][:2] or questions[:2], examples, kind)
    pairs = ours._encode_pairs([request.args for request in requests])
    longest = max(len(context) + len(rest) for _, context, rest in pairs)
    if longest > ours.max_length:
        return None
    for scorer in (ours, theirs):
        scorer.loglikelihood(warm, disable_tqdm=True)
    turns = [[_time(scorer, requests) for scorer in (ours, theirs)] for _ in range(options.repeat)]
    ratios, cpu_ratios = (
        [slow[clock] / quick[clock] for (quick, _), (slow, _) in turns] for clock in (0, 1)
    )
    (_, found), (_, expected) = turns[-1]
    count = len(requests) // 4
    return {
        "name": name,
        "questions": count,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(cpu_ratios),
        "cpu_ratios": cpu_ratios,
        "questions_per_s": count / statistics.median(quick[0] for (quick, _), _ in turns),
        "lm_eval_questions_per_s": count / statistics.median(slow[0] for _, (slow, _) in turns),
        "distinct_tokens": len(Trie([(context + rest, len(rest)) for _, context, rest in pairs])),
        "lm_eval_tokens": sum(len(context) + len(rest) for _, context, rest in pairs),
        "longest": longest,
        "max_difference": max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True)),
        "greedy_differs": sum(a != b for (_, a), (_, b) in zip(found, expected, strict=True)),
    }


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
        "| request | lm-eval onnxruntime | medbench | ratio (lowest–highest) | processor time | "
        "tokens, theirs/ours | largest difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one['name']} | {one['lm_eval_questions_per_s']:.4g} q/s | "
        f"{one['questions_per_s']:.4g} q/s | {one['ratio']:.2f} ({min(one['ratios']):.2f}–"
        f"{max(one['ratios']):.2f}) | {one['cpu_ratio']:.2f} ({min(one['cpu_ratios']):.2f}–"
        f"{max(one['cpu_ratios']):.2f}) | {one['lm_eval_tokens'] / one['distinct_tokens']:.2f} | "
        f"{one['max_difference']:.2g} nats |"
        for one in report["shapes"]
    ]
    return "\n".join(lines)


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
    options = parser.parse_args()
    options.format = options.format or ("fp32" if options.device == "cpu" else "fp16")
    torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    main()
