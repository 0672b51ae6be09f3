"""ONNX Runtime beside torch, eager and compiled, in turn: how much faster, and how near the floor.

    python benchmarks/latency.py --model embedded --model 100m --threads 1 --json latency.json
    python benchmarks/latency.py --model 8b --device cuda --prompt-tokens 128,512,2048 \
        --batch 1,16 --json latency-8b.json

``embedded`` is the trained model of the package; the others have random weights, which is honest
for speed and memory alone. Prompts are questions of the embedded clinic. With --work the
checkpoints and exports are kept there and found again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medbench.harness.environment import environment
from medbench.harness.export import PAIRS, as_detail, export_onnx
from medbench.harness.latency import LatencyJob, LatencySettings, measure, summarise
from medbench.harness.latency.folder import read_prompts
from medbench.harness.suite import EMBEDDED

CLINIC = EMBEDDED["embedded:clinic"]
SHAPES: dict[str, dict[str, Any]] = {
    "100m": {
        "vocab_size": 32000, "hidden_size": 640, "intermediate_size": 1728,
        "num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 10,
        "max_position_embeddings": 4096,
    },
    "1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
}  # fmt: skip
"""A Llama of 100 million parameters; the shapes of Llama-3.2-1B and Llama-3.1-8B."""


def checkpoint(name: str, work: Path, device: str) -> Path:
    """The folder of model *name*; made in *work* with random weights where it is not there."""
    if name == "embedded":
        return CLINIC
    folder = work / name
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = LlamaConfig(**SHAPES[name], dtype=dtype)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    draft = work / f"{name}.draft"
    model.save_pretrained(draft)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLINIC / file, draft)
    draft.replace(folder)
    del model
    return folder


def run(name: str, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Export and measure one model."""
    folder = checkpoint(name, work, given.device)
    formats = PAIRS[given.device] if given.formats == "all" else given.formats.split(",")
    exports, made = {}, {}
    for kind in formats:
        info = export_onnx(
            folder, work / f"exports/{name}-{kind}", precision=kind, provider=given.device
        )
        exports[kind], made[kind] = info.path, as_detail(info)
        say(f"{name} {kind}: {info.bytes / 1e6:.0f} MB, {info.seconds:.0f} s")
    if given.prepare:
        return {"model": name, "exports": made}
    settings = LatencySettings(
        prompt_tokens=numbers(given.prompt_tokens),
        output_tokens=given.output_tokens,
        batch=numbers(given.batch),
        warmup=given.warmup,
        iterations=given.iterations,
        min_seconds=given.min_seconds,
        threads=given.threads,
        engines=given.engines.split(","),
        cuda_graph=False if given.no_cuda_graph else None,
        session_options=dict(one.split("=", 1) for one in given.session_option),
        memory=not given.no_memory,
    )
    job = LatencyJob(
        model=name,
        model_dir=folder,
        onnx=exports,
        prompts=read_prompts(None),
        settings=settings,
        device=given.device,
    )
    timings = measure(job)
    rows = summarise(timings)
    show(rows)
    found = {str(key): value for key, value in timings.attrs.items()}
    claims = verdicts(name, rows) if given.device == "cpu" else []
    for claim in claims:
        say(f"  {claim['claim']} – {claim['verdict']}")
    return {
        "model": name,
        "settings": settings.model_dump(),
        "exports": made,
        **found,
        "latency": rows,
        "claims": claims,
    }


def say(line: str) -> None:
    """A line on the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def show(rows: list[dict[str, Any]]) -> None:
    """One line a series, and one for each ratio of its time per token."""
    for row in rows:
        floor = row["token_floor_ms"]
        share = f", {100 * floor / row['tpot_ms_p50']:.0f} % of the floor" if floor else ""
        first = row["ttft_floor_ms"]
        share1 = f" ({100 * first / row['ttft_ms_p50']:.0f} % of the floor)" if first else ""
        memory = f", {row['peak_bytes'] / 1e6:.0f} MB" if row["peak_bytes"] else ""
        say(
            f"{row['model']} {row['engine']} {row['format']} "
            f"{row['batch']}×{row['prompt_tokens']}→{row['output_tokens']}: "
            f"first {row['ttft_ms_p50']:.2f} ms{share1}, then {row['tpot_ms_p50']:.3f} ms"
            f"{share}{memory}, load {row['load_1m']:.1f}{', unstable' if row['unstable'] else ''}"
        )
        for one in row["ratios"]:
            ends = "" if one["low"] is None else f" ({one['low']:.2f} to {one['high']:.2f})"
            say(f"    {one['figure']} {one['ratio']:.2f}×{ends} {one['engine']} {one['format']}")


def verdicts(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What issue and README claim of decoding on a CPU, each decided by its interval's low end."""
    wanted = [("fp32", "torch", 1.0), ("fp32", "torch-compiled", 1.0)]
    wanted += [("int4", "torch", 3.0)] if name == "100m" else []
    found = []
    for kind, engine, least in wanted:
        for row in rows:
            for one in row["ratios"] if row["format"] == kind else []:
                if (one["figure"], one["engine"]) != ("tpot", engine):
                    continue
                low, high = one["low"] or 0.0, one["high"] or float("inf")
                said = "shown" if low >= least else "refuted" if high < least else "not shown"
                claim = (
                    f"{row['prompt_tokens']}→{row['output_tokens']}, batch {row['batch']}: ONNX "
                    f"{kind} at least {least:g} times as fast a token as {engine}"
                )
                found.append({"claim": claim, "verdict": said, **one})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=["embedded", *SHAPES])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--formats", default="all")
    parser.add_argument("--engines", default="onnxruntime,torch,torch-compiled")
    parser.add_argument("--prompt-tokens", default="128")
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--min-seconds", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-cuda-graph", action="store_true")
    parser.add_argument("--session-option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="export only")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        found = [run(name, given, work) for name in given.model or ["embedded", "100m"]]
    if given.json:
        result = {"environment": environment(), "models": found}
        given.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
