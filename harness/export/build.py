"""Merged checkpoint → ONNX, by the Model Builder of onnxruntime-genai."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...errors import InputError, MedbenchError, StageError
from ..folder.store import atomic_path
from ..orphans import lifeline
from ..ort.runtime import OrtModel
from ..ort.session import require_device
from . import artifact, estimate
from .artifact import Artifact

PAIRS = {"cpu": ("fp32", "int8", "int4"), "cuda": ("fp16", "bf16", "int4")}
"""Precisions that are known to work, by provider. For others the builder exits with success and
leaves a graph that is invalid (fp32/cuda) or fails when it runs (fp16/cpu, bf16/cpu)."""

MAX_POSITIONS = 8192
"""Longest context of an export. The builder stores a table of rotary angles for every position that
the config allows: at 131,072 positions it would outweigh a small model several times."""

UNSUPPORTED = 3
"""Exit code of the builder's process for an architecture it does not know."""
PEAK = "peak.json"
"""Where that process leaves its peak memory, beside the graph's folder."""

# Position encodings exported right. Of the others the builder (0.18) silently drops the scaling for
# Llama (linear and YaRN: logits wrong by more than their own size), and with some the angles depend
# on the longest length, which is cut here.
_ROPE = ("default", "llama3")
_BUILDER_NEEDS = ("onnxruntime_genai", "onnx", "onnx_ir", "safetensors", "torch", "tqdm")
_DISK_FULL = ("No space left on device", "Errno 28", "Errno 27", "Disk quota exceeded")
_ERROR_LINES = 15


def export_onnx(
    model_dir: Path,
    out: Path,
    *,
    precision: str = "fp32",
    provider: str = "cpu",
    trust_remote_code: bool = False,
) -> Artifact:
    """Export the checkpoint in *model_dir*, with its key-value cache, and run two steps of it.

    An export of the same content in *out*, or beside it, is taken instead of making another.

    Args:
        model_dir: A merged full-precision checkpoint with its tokenizer.
        out: Folder to make; replaced when it exists. It appears complete and working or not at all.
        precision: Of the weights; see :data:`PAIRS`.
        provider: ``cpu`` or ``cuda``; this machine must have it, as the export is run once.
        trust_remote_code: Run model code that the checkpoint ships.

    Returns:
        What was made, or found.

    Raises:
        InputError: The pair is not known to work, the checkpoint is incomplete, or there is no such
            device.
        StageError: Disk or memory have no room; the builder is not installed, does not know the
            architecture, was killed, or failed; or its graph does not run.
    """
    if precision not in PAIRS.get(provider, ()):
        pairs = ", ".join(f"{kind}/{name}" for name, kinds in PAIRS.items() for kind in kinds)
        raise InputError(
            f"export {precision}/{provider}: not known to work; use one of {pairs} "
            "(precision/provider)"
        )
    _check_checkpoint(model_dir, trust_remote_code)
    require_device(provider)
    expected = estimate.estimate(model_dir, precision, provider)
    recipe = {
        "precision": precision,
        "provider": provider,
        "builder": builder_version(),
        "max_positions": MAX_POSITIONS,
    }
    key = artifact.key_of(model_dir, recipe)
    if (found := artifact.read(out)) and found.key == key:
        return dataclasses.replace(found, reused=True)
    if found := artifact.find(out.parent, key):
        artifact.place(found, out)
        return dataclasses.replace(found, path=out, reused=True)
    estimate.check(expected, out)
    _check_builder()
    start = time.perf_counter()
    with atomic_path(out) as draft:
        flags = [f"hf_remote={str(trust_remote_code).lower()}"]
        peak = _run_builder(model_dir, draft, precision, provider, flags)
        _try(draft, provider)
        config = json.loads((draft / "genai_config.json").read_text("utf-8"))
        artifact.seal(
            draft,
            key=key,
            **(recipe | {"max_positions": int(config["model"]["context_length"])}),
            seconds=time.perf_counter() - start,
            builder_bytes=peak,
            estimate=dataclasses.asdict(expected),
        )
    made = artifact.read(out)
    if made is None:
        raise StageError(f"{out}: changed while it was written; export it again")
    return made


def builder_version() -> str:
    """Distribution and version of the Model Builder."""
    for name in ("onnxruntime-genai-cuda", "onnxruntime-genai"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "onnxruntime-genai, version unknown"


def _check_checkpoint(model_dir: Path, trust_remote_code: bool) -> None:
    """Refuse what the builder (0.18) would turn into a graph that runs and is wrong."""
    from transformers import AutoConfig

    for name in ("config.json", "tokenizer_config.json"):
        if not (model_dir / name).is_file():
            raise InputError(
                f"{model_dir / name}: missing; the export needs a checkpoint saved with its "
                "tokenizer (tokenizer.save_pretrained on the same folder adds it)"
            )
    try:
        config = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model_dir / 'config.json'}: cannot be read ({str(error).splitlines()[0]}); save the "
            "checkpoint again, or set trust_remote_code where it ships its own code"
        ) from error
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling not in _ROPE:
        raise _unsupported(model_dir, f"it would drop RoPE scaling {scaling!r}")
    window = getattr(config, "sliding_window", None)
    if (
        window
        and window < min(config.max_position_embeddings, MAX_POSITIONS)
        and getattr(config, "use_sliding_window", True)
        and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
    ):  # it looks for windows in layer_types alone
        raise _unsupported(model_dir, f"it would drop the sliding window of {window} tokens")
    for width in ("hidden_size", "intermediate_size"):
        if getattr(config, width, None) == config.vocab_size:
            # It takes every linear layer with vocab_size outputs for the language model's head.
            raise _unsupported(model_dir, f"{width} equals vocab_size, which confuses it")


def _check_builder() -> None:
    missing = [name for name in _BUILDER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise StageError(
            f"export: the ONNX Model Builder needs modules that are not installed: "
            f"{', '.join(missing)}; install medbench again with its dependencies"
        )


def _unsupported(model_dir: Path, reason: str) -> StageError:
    # torch.onnx knows more architectures, but its graphs hand the whole cache back at every step:
    # timed like that, the model would look slower than what anybody deploys.
    return StageError(
        f"{model_dir}: the ONNX Model Builder ({builder_version()}) does not support this "
        f"architecture ({reason}), and there is no other exporter whose graphs keep their cache in "
        "place; take the model out of the suite's latency.models, or time it in torch alone "
        "(latency.engines: [torch])"
    )


def _run_builder(
    model_dir: Path, out: Path, precision: str, provider: str, flags: list[str]
) -> int | None:
    """Run the builder's process; returns its peak memory in bytes."""
    program = [sys.executable, "-m", f"{__package__}.builder"]
    with lifeline() as stdin:
        done = subprocess.run(
            [*program, model_dir, out, precision, provider, *flags],
            stdin=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode == 0:
        peak: Any = json.loads((out.parent / PEAK).read_text())
        return None if peak is None else int(peak)
    said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_ERROR_LINES:])
    if done.returncode == UNSUPPORTED:
        raise _unsupported(model_dir, said.splitlines()[-1])
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        likely = " (most likely by the system, for want of memory)" if name == "SIGKILL" else ""
        raise StageError(
            f"{model_dir}: the ONNX Model Builder was killed by {name}{likely}; nothing of its "
            "graph is kept. Export where more memory is free"
        )
    if any(sign in said for sign in _DISK_FULL):
        raise StageError(
            f"{out.parent.parent}: the disk is full, so the ONNX Model Builder stopped; nothing of "
            "its graph is kept. Make room and give the same command again"
        )
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
