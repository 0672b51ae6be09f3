"""What one more adapter and one more order of the options cost.

    python benchmarks/sharing.py --json

Letters without examples, as in scoring.py. First one order of the options, then all four cyclic
shifts, whose stem is shared and whose options are not. Then three LoRA adapters (r=16 on all seven
projections, random) on the one base that is loaded: base plus three, over the base alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import load, processor, wait  # type: ignore[import-not-found]
from peft import LoraConfig, get_peft_model
from scoring import DATA, build, read_questions  # type: ignore[import-not-found]

from medbench.harness.scorer.lm import PackedLM

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of text")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="8b" if cuda else "48m", help="8b, 1b, 48m or a folder")
    parser.add_argument("--data", type=Path, default=DATA, help="MedQA questions, JSON Lines")
    parser.add_argument("--questions", type=int, default=400 if cuda else 32)
    parser.add_argument("--repeat", type=int, default=3, help="runs; the quickest counts")
    options = parser.parse_args()
    everything = read_questions(options.data)
    questions = everything[: options.questions]
    texts = [" ".join([stem, *rest]) for stem, rest, _ in everything]
    model, tokenizer = load(options.model, options.device, texts)

    one = seconds(model, tokenizer, build(questions, [], "letters"), options.repeat)
    shifted = [
        (stem, choices[shift:] + choices[:shift], (right - shift) % 4)
        for stem, choices, right in questions
        for shift in range(4)
    ]
    orders = seconds(model, tokenizer, build(shifted, [], "letters"), options.repeat)

    config = LoraConfig(
        r=16, target_modules=PROJECTIONS, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(model, config, adapter_name="first")
    tuned.add_adapter("second", config)
    tuned.add_adapter("third", config)
    tuned.eval()
    with tuned.disable_adapter():
        base = seconds(tuned, tokenizer, build(questions, [], "letters"), options.repeat)
    adapters = []
    for name in ("first", "second", "third"):
        tuned.set_adapter(name)
        requests = build(questions, [], "letters")
        adapters.append(seconds(tuned, tokenizer, requests, options.repeat))
    report = {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "model": options.model,
        "questions": len(questions),
        "one_order_s": one,
        "four_orders_s": orders,
        "orders_ratio": orders / one,
        "base_s": base,
        "adapters_s": adapters,
        "base_and_three_ratio": (base + sum(adapters)) / one,
    }
    lines = [f"{key}: {value}" for key, value in report.items()]
    sys.stdout.write((json.dumps(report, indent=1) if options.json else "\n".join(lines)) + "\n")


def seconds(model: Any, tokenizer: Any, requests: list[Any], repeat: int) -> float:
    """The quickest of *repeat* runs over *requests*, after one on a few."""
    scorer = PackedLM(pretrained=model, tokenizer=tokenizer)
    scorer.loglikelihood(requests[:16], disable_tqdm=True)
    times = []
    for _ in range(repeat):
        wait()
        started = time.perf_counter()
        scorer.loglikelihood(requests, disable_tqdm=True)
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
