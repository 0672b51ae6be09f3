"""An exporter in a process of its own: its memory goes back, and its noise stays there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...errors import StageError
from ..orphans import lifeline

UNSUPPORTED = 3
"""Exit code for a model that the exporter cannot export; the last line it wrote says why."""
PEAK = "peak.json"
"""Where the process leaves its peak memory, beside the graph's folder."""

_DISK_FULL = ("No space left on device", "Errno 28", "Errno 27", "Disk quota exceeded")
_ERROR_LINES = 15


class UnsupportedError(StageError):
    """The exporter cannot export this model; the message is the reason alone."""


def run(exporter: str, module: str, model_dir: Path, out: Path, *arguments: str) -> int | None:
    """Run *module* with *model_dir*, *out* and *arguments*; returns its peak memory in bytes.

    Args:
        exporter: What messages call it.
        module: A module of this package.
        model_dir: The checkpoint.
        out: Folder for the graph, in a folder of its own.
        arguments: What else it takes.

    Raises:
        UnsupportedError: It cannot export this model.
        StageError: It was killed, or failed.
    """
    program = [sys.executable, "-m", f"{__package__}.{module}"]
    with lifeline() as stdin:
        done = subprocess.run(
            [*program, model_dir, out, *arguments],
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
        raise UnsupportedError(said.splitlines()[-1])
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        likely = " (most likely by the system, for want of memory)" if name == "SIGKILL" else ""
        raise StageError(
            f"{model_dir}: {exporter} was killed by {name}{likely}; nothing of its "
            "graph is kept. Export where more memory is free"
        )
    if any(sign in said for sign in _DISK_FULL):
        raise StageError(
            f"{out.parent.parent}: the disk is full, so {exporter} stopped; nothing of "
            "its graph is kept. Make room and give the same command again"
        )
    raise StageError(
        f"{model_dir}: {exporter} failed (exit code {done.returncode}); "
        f"the end of its output:\n{said}"
    )
