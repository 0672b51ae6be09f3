"""Merged checkpoint → ONNX, by the Model Builder of onnxruntime-genai, and the proof that it fits.

The builder runs in a process of its own (``python -m medbench.harness.export``): its import puts
top-level modules on ``sys.path``, it prints a lot, and its memory goes back when it ends.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, MedbenchError, StageError
from .ort import OrtModel, require_device
from .store import atomic_path

PAIRS = {"cpu": ("fp32", "int8", "int4"), "cuda": ("fp16", "bf16", "int4")}
"""Precisions that are known to work, by provider. For others the builder exits with success and
leaves a graph that is invalid (fp32/cuda) or fails when it runs (fp16/cpu, bf16/cpu)."""

MAX_POSITIONS = 8192
"""Longest context of an export. The builder stores a table of rotary angles for every position that
the config allows: at 131,072 positions it would outweigh a small model several times."""

# Position encodings exported right. Of the others the builder (0.18) silently drops the scaling for
# Llama (linear and YaRN: logits wrong by more than their own size), and with some the angles depend
# on the longest length, which is cut here.
_ROPE = ("default", "llama3")
_BUILDER_NEEDS = ("onnxruntime_genai", "onnx", "onnx_ir", "safetensors", "torch", "tqdm")
_UNSUPPORTED = 3  # exit code of the builder process for an architecture it does not know
_ERROR_LINES = 15


@dataclass(frozen=True)
class ExportInfo:
    """One finished export.

    Attributes:
        path: Folder with ``model.onnx``, its data, ``genai_config.json`` and the tokenizer.
        precision: Of the weights: fp32, fp16, bf16, int8 or int4.
        provider: cpu or cuda.
        seconds: Wall time of building, loading and the first steps.
        bytes: Size on disk.
        builder: Distribution and version of the Model Builder.
        max_positions: Longest context, prompt and output together.
    """

    path: Path
    precision: str
    provider: str
    seconds: float
    bytes: int
    builder: str
    max_positions: int


@dataclass(frozen=True)
class Parity:
    """How near an export comes to torch in float32, over *prompts* prompts.

    Attributes:
        max_abs: Largest absolute difference of a prefill logit.
        max_rel: The same over the largest absolute torch logit of that prompt; the worst prompt's.
        greedy_matched: Greedy tokens equal to torch's before the first that differs, summed.
        greedy_total: Greedy tokens compared.
        prompts: Number of prompts.
    """

    max_abs: float
    max_rel: float
    greedy_matched: int
    greedy_total: int
    prompts: int


def export_onnx(
    model_dir: Path, out: Path, *, precision: str = "fp32", provider: str = "cpu"
) -> ExportInfo:
    """Export the checkpoint in *model_dir*, with its key-value cache, and run two steps of it.

    Args:
        model_dir: A merged full-precision checkpoint with its tokenizer.
        out: Folder to make; replaced when it exists. It appears complete and working or not at all.
        precision: Of the weights; see :data:`PAIRS`.
        provider: ``cpu`` or ``cuda``; this machine must have it, as the export is run once.

    Returns:
        What was made.

    Raises:
        InputError: The pair is not known to work, the checkpoint is incomplete, or there is no
            such device.
        StageError: The builder is not installed, does not know the architecture, or failed, or its
            graph does not run.
    """
    if precision not in PAIRS.get(provider, ()):
        pairs = ", ".join(f"{kind}/{name}" for name, kinds in PAIRS.items() for kind in kinds)
        raise InputError(
            f"export {precision}/{provider}: not known to work; use one of {pairs} "
            "(precision/provider)"
        )
    _check_checkpoint(model_dir)
    require_device(provider)
    missing = [name for name in _BUILDER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise StageError(
            f"export: the ONNX Model Builder needs modules that are not installed: "
            f"{', '.join(missing)}; install medbench again with its dependencies"
        )
    start = time.perf_counter()
    with atomic_path(out) as draft:
        _run_builder(model_dir, draft, precision, provider)
        _try(draft, provider)
    config = json.loads((out / "genai_config.json").read_text("utf-8"))
    return ExportInfo(
        path=out,
        precision=precision,
        provider=provider,
        seconds=time.perf_counter() - start,
        bytes=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        builder=_builder_version(),
        max_positions=int(config["model"]["context_length"]),
    )


def check_parity(
    model_dir: Path,
    onnx_dir: Path,
    prompts: list[list[int]],
    *,
    greedy_tokens: int = 32,
    device: str = "cpu",
) -> Parity:
    """Compare an export with the checkpoint it was made from, the latter in float32.

    Args:
        model_dir: The checkpoint.
        onnx_dir: The export.
        prompts: Token ids, one list a prompt; run one by one, so they may differ in length.
        greedy_tokens: Tokens that each side generates by itself after a prompt, end tokens ignored.
        device: Where both run.

    Returns:
        The largest differences of the prefill logits and the greedy tokens in agreement.

    Raises:
        InputError: No prompts, no such device, or a prompt too long for the export.
        StageError: The export does not load, or its logits are not finite.
    """
    import torch

    from .latency_worker import TorchModel, greedy

    if not prompts or not all(prompts):
        raise InputError("parity: no prompts, or an empty one; give at least one token each")
    reference = TorchModel(model_dir, device=device, dtype="float32")
    export = OrtModel(
        onnx_dir,
        device=device,
        threads=torch.get_num_threads(),
        max_len=max(map(len, prompts)) + greedy_tokens,
    )
    max_abs = max_rel = 0.0
    matched = 0
    for prompt in prompts:
        ids = torch.tensor([prompt])
        reference.reset()
        export.reset()
        expected = reference.prefill(ids).float()
        error = float((export.prefill(ids).float() - expected).abs().max())
        if not math.isfinite(error):
            raise StageError(f"{onnx_dir}: logits are not finite; export it again in fp32")
        max_abs = max(max_abs, error)
        max_rel = max(max_rel, error / float(expected.abs().max()))
        ours, theirs = (list(greedy(engine, ids, greedy_tokens)) for engine in (export, reference))
        differs = [a != b for a, b in zip(ours, theirs, strict=True)]
        matched += differs.index(True) if any(differs) else greedy_tokens
    return Parity(max_abs, max_rel, matched, greedy_tokens * len(prompts), len(prompts))


def _check_checkpoint(model_dir: Path) -> None:
    """Refuse what the builder (0.18) would turn into a graph that runs and is wrong."""
    from transformers import AutoConfig

    for name in ("config.json", "tokenizer_config.json"):
        if not (model_dir / name).is_file():
            raise InputError(
                f"{model_dir / name}: missing; the export needs a checkpoint saved with its "
                "tokenizer (tokenizer.save_pretrained on the same folder adds it)"
            )
    config = AutoConfig.from_pretrained(model_dir)
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling not in _ROPE:
        raise _unsupported(model_dir, f"it would drop RoPE scaling {scaling!r}")
    for width in ("hidden_size", "intermediate_size"):
        if getattr(config, width, None) == config.vocab_size:
            # It takes every linear layer with vocab_size outputs for the language model's head.
            raise _unsupported(model_dir, f"{width} equals vocab_size, which confuses it")


def _unsupported(model_dir: Path, reason: str) -> StageError:
    return StageError(
        f"{model_dir}: the ONNX Model Builder ({_builder_version()}) does not support this "
        f"architecture ({reason}); take the model out of the suite's latency.models"
    )


def _run_builder(model_dir: Path, out: Path, precision: str, provider: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", __name__, model_dir, out, precision, provider],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_ERROR_LINES:])
    if done.returncode == _UNSUPPORTED:
        raise _unsupported(model_dir, said.splitlines()[-1])
    raise StageError(
        f"{model_dir}: the ONNX Model Builder failed (exit code {done.returncode}); "
        f"the end of its output:\n{said}"
    )


def _try(folder: Path, provider: str) -> None:
    """Load a new export and run a prompt and one step: a broken graph shows only then."""
    import torch

    try:
        model = OrtModel(folder, device=provider, max_len=4)
        ids = torch.tensor([[0, 1, 0]])
        logits = model.prefill(ids)
        finite = bool(logits.isfinite().all() and model.step(ids[:, :1]).isfinite().all())
    except MedbenchError:
        raise
    except Exception as error:  # the runtime's own exceptions share no narrower base
        raise StageError(
            f"export for {provider}: the graph loads but fails in its first steps; try another "
            "precision, or take the model out of the suite's latency.models. "
            f"ONNX Runtime said: {str(error).splitlines()[0]}"
        ) from error
    if not finite:
        raise StageError(
            f"export for {provider}: the graph's logits are not finite; use another precision"
        )


def _builder_version() -> str:
    for name in ("onnxruntime-genai-cuda", "onnxruntime-genai"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "onnxruntime-genai, version unknown"


def _build(source: str, out: str, precision: str, provider: str) -> int:
    """Body of the builder process. Returns its exit code."""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    cache = str(Path(out).parent / "cache")  # beside the draft, so it goes with it
    target = ("local", source, out, precision, provider, cache)
    options = parse_extra_options(*target, ["hf_token=false"])
    config = options["hf_details"]["hf_config"]
    if getattr(config, "max_position_embeddings", 0) > MAX_POSITIONS:
        config.max_position_embeddings = MAX_POSITIONS
    try:
        create_model(*target, **options)
    except NotImplementedError as error:
        sys.stderr.write(f"{error}\n")
        return _UNSUPPORTED
    return 0


if __name__ == "__main__":
    sys.exit(_build(*sys.argv[1:]))
