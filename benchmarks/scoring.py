"""medbench's scorer beside lm-eval's ``hf`` on the same requests, in one run.

    python benchmarks/scoring.py            # a table
    python benchmarks/scoring.py --json     # the same as JSON on stdout

Four shapes of request over real MedQA questions (or the embedded fictional ones where the data is
not there): the options' letters or their text, without examples or after five. Both sides get the
same strings and tokenize them; the first call of each is a warm-up on a few questions and is not
counted. lm-eval runs with its defaults, in the better of two batch sizes, over the first
``--baseline`` questions, since it is the slow side. The sizes are 16
and ``auto`` on a GPU, 1 and 16 on a CPU, where ``auto`` would try a batch of 64 full-length rows.

The model has random weights: honest for speed and memory, and no download. On a GPU it has the
shape of Llama-3.1-8B in bfloat16, on a CPU 48 M parameters in float32; ``--model`` takes another.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from machine import load, matmul_peak, processor, wait  # type: ignore[import-not-found]

from medbench.harness.scorer.lm import PackedLM
from medbench.harness.scorer.trie import Trie

DATA = Path(__file__).parents[2] / "shared" / "data" / "medqa_us_4options" / "test.jsonl"
LETTERS = "ABCD"
SHAPES = ("letters-0shot", "text-0shot", "letters-5shot", "text-5shot")
Question = tuple[str, list[str], int]
"""Stem, four options, index of the right one."""


def main() -> None:
    options = _arguments()
    questions = read_questions(options.data)
    model, tokenizer = load(
        options.model, options.device, [" ".join([stem, *rest]) for stem, rest, _ in questions]
    )
    peak = matmul_peak(model)
    with contextlib.redirect_stdout(sys.stderr):  # lm-eval prints what its auto batch finds
        shapes = [
            measure(name, model, tokenizer, questions, peak, options) for name in options.shapes
        ]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/scoring.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights_bytes": weights,
        "matmul_tflops": peak / 1e12,
        "data": "MedQA" if options.data.is_file() else "embedded",
        "shapes": shapes,
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else _table(report)) + "\n")


def measure(
    name: str,
    model: Any,
    tokenizer: Any,
    questions: list[Question],
    peak: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One shape: medbench on all questions, lm-eval on the first few, their rates and ratio."""
    scored = questions[: options.questions]
    examples = questions[-5:] if name.endswith("5shot") else []
    kind = name.split("-")[0]
    requests = build(scored, examples, kind)
    few = build(scored[: options.baseline], examples, kind)
    warm = build(questions[options.questions :][:4] or questions[:4], examples, kind)

    ours = PackedLM(pretrained=model, tokenizer=tokenizer, token_budget=options.token_budget)
    pairs = ours._encode_pairs([request.args for request in requests])
    started = time.perf_counter()
    tokens = len(Trie([(context + rest, len(rest)) for _, context, rest in pairs]))
    building = time.perf_counter() - started
    seconds, found, memory = _time(ours, warm, requests, options.repeat)
    other: dict[str, tuple[float, int]] = {}
    difference = None
    for setting in options.settings:
        theirs = HFLM(
            pretrained=model, tokenizer=tokenizer,
            batch_size=setting if setting == "auto" else int(setting),
        )  # fmt: skip
        spent, expected, used = _time(theirs, warm, few, options.baseline_repeat)
        other[setting] = (min(options.baseline, len(scored)) / spent, used)
        difference = max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=False))
    flops = 2 * tokens / seconds / peak
    embedded = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    whole = sum(p.numel() for p in model.parameters())
    best = max(other, key=lambda setting: other[setting][0], default=None)
    rate = len(scored) / seconds
    return {
        "name": name,
        "ratio": rate / other[best][0] if best else None,
        "questions": len(scored),
        "questions_per_s": rate,
        "seconds": seconds,
        "distinct_tokens": tokens,
        "distinct_tokens_per_s": tokens / seconds,
        "token_budget": ours._budget,
        "matmul_fraction": flops * whole,
        "matmul_fraction_of_layers": flops * (whole - embedded - (head if head is not None else 0)),
        "trie_seconds": building,
        "peak_bytes": memory,
        "lm_eval": {
            setting: {"questions_per_s": value, "peak_bytes": used}
            for setting, (value, used) in other.items()
        },
        "lm_eval_best": best,
        "max_difference": difference,
    }


def build(questions: list[Question], examples: list[Question], kind: str) -> list[Instance]:
    """lm-eval's requests, four to a question; *kind* is ``letters`` or ``text``."""

    def prompt(question: Question) -> str:
        stem, choices, _ = question
        listed = "".join(f"\n{a}. {b}" for a, b in zip(LETTERS, choices, strict=True))
        return f"Question: {stem}{listed if kind == 'letters' else ''}\nAnswer:"

    def answers(question: Question) -> list[str]:
        return [f" {a}" for a in (LETTERS if kind == "letters" else question[1])]

    shown = "".join(f"{prompt(q)}{answers(q)[q[2]]}\n\n" for q in examples)
    return [
        Instance("loglikelihood", {}, (shown + prompt(question), answer), 0, ("bench", index, 1))
        for index, question in enumerate(questions)
        for answer in answers(question)
    ]


def read_questions(path: Path) -> list[Question]:
    """Questions of a MedQA JSON Lines file; the embedded world's where there is none."""
    if not path.is_file():
        from medbench.tasks.clinic.rows import choice_docs

        rows = choice_docs("dev") + choice_docs("test")
    else:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    found = []
    for row in rows:
        choices = [row["options"][letter] for letter in LETTERS]
        found.append((row["question"], choices, LETTERS.index(row["answer_idx"])))
    return found


def _time(
    scorer: Any, warm: list[Instance], requests: list[Instance], repeat: int
) -> tuple[float, list[tuple[float, bool]], int]:
    """(seconds of the quickest run, answers, peak bytes) of *scorer* over *requests*."""
    scorer.loglikelihood(warm, disable_tqdm=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeat):
        wait()
        started = time.perf_counter()
        found = scorer.loglikelihood(requests, disable_tqdm=True)
        wait()
        times.append(time.perf_counter() - started)
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return min(times), found, memory


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['device']}, {report['parameters'] / 1e6:,.0f} M parameters, {report['dtype']}; "
        f"matmul peak {report['matmul_tflops']:.3g} TFLOP/s; weights "
        f"{report['weights_bytes'] / 1e9:.2f} GB; {report['date']}",
        "",
        "| request | lm-eval, better setting | medbench | ratio | distinct tokens/s | of peak | "
        "peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for shape in report["shapes"]:
        best = shape["lm_eval_best"]
        theirs = f"{shape['lm_eval'][best]['questions_per_s']:.4g} q/s ({best})" if best else "—"
        ratio = f"{shape['ratio']:.2f}" if best else "—"
        lines.append(
            f"| {shape['name']} | {theirs} | {shape['questions_per_s']:.4g} q/s | {ratio} | "
            f"{shape['distinct_tokens_per_s']:,.0f} | {shape['matmul_fraction']:.2f} | "
            f"{shape['peak_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="8b" if cuda else "48m", help="8b, 48m or a folder")
    parser.add_argument("--data", type=Path, default=DATA, help="MedQA questions, JSON Lines")
    parser.add_argument("--questions", type=int, default=1268 if cuda else 32)
    parser.add_argument("--baseline", type=int, default=200 if cuda else 16, help="for lm-eval")
    parser.add_argument("--baseline-repeat", type=int, default=1 if cuda else 3)
    parser.add_argument("--repeat", type=int, default=3, help="runs; the quickest counts")
    parser.add_argument("--token-budget", type=int, help="tokens a row; found by default")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES)
    settings = ["16", "auto"] if cuda else ["1", "16"]
    parser.add_argument("--settings", nargs="*", default=settings, help="lm-eval's batch sizes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
