"""What requests run on, and how busy it is: recorded beside every one of them."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ...errors import InputError
from ..environment import processor
from .settings import LatencySettings


def hardware(device: str) -> str:
    """The processor and its cores, or the GPU; times of two machines are compared when equal."""
    if not device.startswith("cuda"):
        return f"{processor()}, {os.cpu_count()} cores"
    import torch

    about = torch.cuda.get_device_properties(device)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


def load_average() -> float:
    """Of the last minute; NaN where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def clock_mhz(device: str) -> float:
    """The present clock of the GPU, or the mean of the cores; NaN where it is not told."""
    if device.startswith("cuda"):
        return _gpu_clock(device.partition(":")[2] or "0")
    import psutil

    with contextlib.suppress(OSError, NotImplementedError):
        found = psutil.cpu_freq()
        return float(found.current) if found else math.nan
    return math.nan


def check_settings(settings: LatencySettings, device: str) -> None:
    """Check that what *settings* ask of the machine can be had on *device*.

    Raises:
        InputError: A CUDA graph is asked for without CUDA, or cores that are not there.
    """
    if settings.cuda_graph and not device.startswith("cuda"):
        raise InputError(f"latency.cuda_graph: needs device cuda, not {device}; leave it out")
    check_cores(settings.cores, settings.threads)


def check_cores(cores: list[int] | None, threads: int) -> None:
    """Check that a process may run on *cores*.

    Raises:
        InputError: They are not this machine's, are fewer than the threads, or the system cannot.
    """
    if cores is None:
        return
    if not hasattr(os, "sched_getaffinity"):
        raise InputError("latency.cores: this system binds no process to cores; leave it out")
    there = os.sched_getaffinity(0)
    if not set(cores) <= there or len(set(cores)) < threads:
        raise InputError(
            f"latency.cores {cores}: expected at least {threads} (latency.threads) of "
            f"{sorted(there)}"
        )


class Peak:
    """The most memory used since this was made, beyond what was used then, in bytes.

    On a CPU it is resident memory. On a GPU it is what is no longer free: torch's and ONNX
    Runtime's allocators keep what they once took; another process must not use the GPU meanwhile.
    """

    def __init__(self, device: str) -> None:
        self._device = device if device.startswith("cuda") else None
        self._before = self._used()
        if not self._device:
            # From here on the kernel notes the highest resident memory anew: proc(5), clear_refs.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """None where the system does not tell."""
        after = self._used() if self._device else status("VmHWM")
        if after is None or self._before is None:
            return None
        return max(0, after - self._before)

    def _used(self) -> int | None:
        if not self._device:
            return status("VmRSS")
        import torch

        torch.cuda.synchronize(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        return int(total - free)


def status(key: str) -> int | None:
    """Bytes that Linux tells of this process: ``VmRSS``, ``VmHWM`` (its peak); None elsewhere.

    getrusage(2) would not do: its peak outlives exec, so a child starts with its parent's.
    """
    if not sys.platform.startswith("linux"):
        return None
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _gpu_clock(index: str) -> float:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return math.nan
    asked = [tool, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "-i", index]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return float(said) if said.isdigit() else math.nan
