"""What this machine has for medbench, what it lacks, and the command that adds it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .environment import gpus, processor, versions

NEEDED = [
    "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "lm-eval", "onnx",
]  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing looked at; *remedy* is what to do about it, where something can be done."""

    name: str
    found: str
    good: bool = True
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at one thing after another; never raises."""
    for look in (
        _python, _packages, _torch, _gpu, _memory, _disk, _onnxruntime, _unsloth, _ray, _hub,
    ):  # fmt: skip
        try:
            yield from look()
        except Exception as error:
            # A doctor that falls ill with the patient is no use: say so and look at the next thing.
            yield Finding(look.__name__.strip("_"), f"{type(error).__name__}: {error}", good=False)


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        good,
        "" if good else "install Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    have = versions()
    missing = [name for name in NEEDED if name not in have]
    text = ", ".join(f"{name} {have[name]}" for name in NEEDED if name in have)
    yield Finding(
        "packages",
        text + (f"; missing: {', '.join(missing)}" if missing else ""),
        not missing,
        f"pip install -c constraints.txt {' '.join(missing)}" if missing else "",
    )


def _torch() -> Iterator[Finding]:
    import torch

    cuda = torch.version.cuda
    yield Finding(
        "torch build", f"{torch.__version__}, " + (f"CUDA {cuda}" if cuda else "CPU only")
    )


def _gpu() -> Iterator[Finding]:
    import torch

    found = gpus()
    if found:
        free = [torch.cuda.mem_get_info(n)[0] / 2**30 for n in range(len(found))]
        text = "; ".join(f"{gpu}, {f:.0f} free" for gpu, f in zip(found, free, strict=True))
        yield Finding("GPU", text)
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            "a driver is installed, but torch cannot use a GPU",
            good=False,
            remedy="install a CUDA build of torch: pytorch.org/get-started/locally",
        )
    else:
        yield Finding("GPU", "none; the quickstart needs none, an 8B model does", good=False)


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield Finding(
        "memory",
        f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, "
        f"{os.cpu_count()} cores, {processor()}",
    )


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("disk", f"{free:.0f} GiB free here", free > 5, "" if free > 5 else "free 5 GiB")


def _onnxruntime() -> Iterator[Finding]:
    import onnxruntime

    both = [n for n in ("onnxruntime", "onnxruntime-gpu") if _installed(n)]
    providers = [
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    ]
    if "CUDA" in providers and not _loads("libcuda.so.1"):
        providers[providers.index("CUDA")] = "CUDA (built in; no driver here)"
    yield Finding(
        "onnxruntime",
        f"{onnxruntime.__version__}: {', '.join(providers)}",
        len(both) == 1,
        "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall -y onnxruntime "
        "onnxruntime-gpu && pip install -c constraints.txt onnxruntime-gpu"
        if len(both) > 1
        else "",
    )
    builder = importlib.util.find_spec("onnxruntime_genai") is not None
    yield Finding(
        "ONNX export",
        "Model Builder present" if builder else "Model Builder missing",
        builder,
        "" if builder else "pip install -c constraints.txt onnxruntime-genai-cuda",
    )


def _unsloth() -> Iterator[Finding]:
    if _installed("unsloth"):
        yield Finding("unsloth", metadata.version("unsloth"))
    else:
        yield Finding(
            "unsloth",
            "not installed (optional)",
            good=False,
            remedy="pip install -c constraints.txt unsloth",
        )


def _ray() -> Iterator[Finding]:
    if _installed("ray"):
        at = os.environ.get("RAY_ADDRESS")
        where = f"cluster {at} by RAY_ADDRESS" if at else "workers on this machine"
        yield Finding("ray", f"{metadata.version('ray')}, {where}")
    else:
        yield Finding(
            "ray",
            "not installed (optional, for executor: ray)",
            good=False,
            remedy="pip install -c constraints.txt ray",
        )


def _hub() -> Iterator[Finding]:
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    token = "a token is set" if get_token() else "no token"
    if HF_HUB_OFFLINE:
        yield Finding("Hub", f"offline by HF_HUB_OFFLINE; {token}", good=False)
        return
    try:
        with urllib.request.urlopen(f"{ENDPOINT}/api/models?limit=1", timeout=3):  # noqa: S310
            yield Finding("Hub", f"{ENDPOINT} answers; {token}")
    except (OSError, urllib.error.URLError) as error:
        yield Finding(
            "Hub",
            f"{ENDPOINT} cannot be reached ({error}); {token}",
            good=False,
            remedy="the quickstart needs no network; elsewhere use local models and --data-dir",
        )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
