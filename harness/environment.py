"""What this machine is and has: for the manifest of a run and for `medbench doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = [
    "medbench", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "lm-eval",
    "onnx", "onnxruntime-gpu", "onnxruntime", "onnxruntime-genai-cuda", "onnxruntime-genai",
    "unsloth", "vllm", "huggingface_hub", "accelerate",
]  # fmt: skip


def environment() -> dict[str, Any]:
    """Python, platform, processor, cores, memory, GPUs, package versions and git revision."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **hardware(),
        "packages": versions(),
        "git_revision": git_revision(),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs."""
    import psutil

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus(),
    }


def timed_on(manifest: dict[str, Any]) -> dict[str, Any]:
    """The environment of a run, with the hardware on which it measured latency.

    That is another machine's where workers of a cluster did the stages; all latencies of a run are
    measured on the same one.
    """
    stages = (manifest.get("stages") or {}).items()
    timed = [one.get("hardware") for name, one in stages if name.startswith("latency/")]
    return (manifest.get("environment") or {}) | next(filter(None, timed), {})


def versions() -> dict[str, str]:
    """Installed version of each package that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's model name, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or "unknown"


def gpus() -> list[str]:
    """Name and memory of each CUDA GPU that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in found]


def git_revision() -> str | None:
    """Commit of the working folder, ``+`` when tracked files were changed; None outside git."""
    git = shutil.which("git")
    if git is None:
        return None
    head = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run(
        [git, "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
