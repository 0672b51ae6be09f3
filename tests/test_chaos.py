"""Random faults over a whole run: whatever happens, the next run ends with the same answers.

    MEDBENCH_CHAOS=100 pytest -m slow tests/test_chaos.py

does so many faults, 20 by default, FAULTS of them on one folder before it is let finish. The seed
of a folder is its number; a failure names it. The run has every stage: overlap, tune, score, merge,
export to two formats, score of an export, latency. Tasks are scored in units of a few questions
with a part after each, so that faults hit journals as well.

A fault is kill -9 or SIGTERM at a random moment, a file cut off at a random place after such a
moment, or a disk with a random number of bytes free. That disk is a file system of its own in a
file (``mount -o loop``), filled by a ballast file. Who may not mount has a disk on which no file
grows beyond a random size.
"""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from medbench.harness.folder.store import MANIFEST, PREVIOUS, RunFolder

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("MEDBENCH_CHAOS", "20"))
FAULTS = 5
PATIENCE = 300.0
KINDS = ("kill", "terminate", "cut", "full")
VOLUME = 192 * 2**20
"""Bytes of the file system; a run takes about a fifth of that, with drafts beside it."""
PRELOADED = [
    "medbench.cli", "medbench.harness.pipeline", "medbench.harness.evaluate",
    "medbench.finetune.train", "medbench.finetune.trainer", "medbench.finetune.merge",
    "medbench.harness.export", "medbench.harness.latency", "medbench.harness.ort.fidelity",
    "medbench.reports", "trl", "sklearn.metrics", "matplotlib.pyplot",
]  # fmt: skip
SAME = [
    "model", "engine", "format", "provider", "batch", "prompt_tokens", "output_tokens", "iteration",
    "warmup", "threads", "hardware",
]  # fmt: skip
"""What two timings of the same thing have in common."""


def program(arguments: list[str], log: Path, largest: int | None) -> None:
    """medbench in a process of its own; *largest* is the size beyond which no file grows."""
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["medbench", *arguments]
    from medbench import cli
    from medbench.harness.folder import journal
    from medbench.harness.models import answered

    answered.MINUTE, journal.EVERY = {"cpu": 2e7}, 0
    cli.main()


@dataclass
class World:
    """Where faults happen to one command."""

    arguments: list[str]
    folder: Path
    volume: Path | None = None
    start_up: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, out: Path, largest: int | None = None) -> Any:
        command = [*self.arguments, "--out", str(out)]
        process = self.context.Process(target=program, args=(command, self.log, largest))
        process.start()
        return process

    @property
    def log(self) -> Path:
        return self.folder / "said"

    def finish(self, out: Path) -> None:
        """Run the command and let it finish."""
        process = self.start(out)
        process.join(PATIENCE)
        assert process.exitcode == 0, self.log.read_text("utf-8", "replace")

    def disturb(self, kind: str, out: Path, rng: random.Random) -> str:
        """Start the command and let *kind* happen to it; what happened, in words."""
        if kind == "full":
            return self.fill(out, rng)
        process = self.start(out)
        when = rng.uniform(0, 1.2 * self.left(out))
        process.join(when)
        number = signal.SIGTERM if kind == "terminate" else signal.SIGKILL
        family = []
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if process.exitcode is None:
                family = psutil.Process(process.pid).children(recursive=True)
                os.kill(process.pid, number)
        process.join(PATIENCE)
        assert psutil.wait_procs(family, timeout=20)[1] == [], "orphans"
        expected = {
            "kill": {-signal.SIGKILL, 0},
            "cut": {-signal.SIGKILL, 0},
            # Before the run has begun, and after it has ended, nobody waits for a signal.
            "terminate": {143, -signal.SIGTERM, 0},
        }
        self.check(process, expected[kind])
        if kind == "cut":
            return f"{when:.1f} s, then {cut_one(out, rng)}"
        return f"{when:.1f} s → {process.exitcode}"

    def left(self, out: Path) -> float:
        """Seconds that the command takes from where *out* is, if nothing happens to it."""
        known = (RunFolder(out).last_manifest() or {}).get("stages", {})
        done = {name for name, record in known.items() if record["status"] == "done"}
        return self.start_up + sum(s for name, s in self.stages.items() if name not in done)

    def fill(self, out: Path, rng: random.Random) -> str:
        """Run the command on a disk that has not enough room; what happened, in words."""
        if self.volume is None:
            largest = int(10 ** rng.uniform(3, 7))
            process = self.start(out, largest)
            process.join(PATIENCE)
            self.check(process, {0, 1, 2})
            return f"no file beyond {largest} bytes → {process.exitcode}"
        left = int(10 ** rng.uniform(3, 7.5))
        with ballast(self.volume, left) as free:
            process = self.start(out)
            process.join(PATIENCE)
        self.check(process, {0, 1, 2})
        return f"{free} bytes free → {process.exitcode}"

    def check(self, process: Any, expected: set[int]) -> None:
        """Check how it ended, and that it said so in words."""
        said = self.log.read_text("utf-8", "replace")
        assert process.exitcode in expected, said
        assert "Traceback" not in said, said


@contextlib.contextmanager
def ballast(volume: Path, left: int) -> Iterator[int]:
    """Fill *volume* so that about *left* bytes are free; yields how many are."""
    file = volume / "ballast"
    about = os.statvfs(volume)
    with file.open("wb") as opened:
        size = max(about.f_bavail * about.f_frsize - left, 0)
        if size:
            os.posix_fallocate(opened.fileno(), 0, size)
    about = os.statvfs(volume)
    try:
        yield about.f_bavail * about.f_frsize
    finally:
        file.unlink()


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path | None]:
    """A file system of :data:`VOLUME` bytes; None where this user may not mount."""
    image, volume = folder / "image", folder / "volume"
    volume.mkdir()
    with image.open("wb") as opened:
        opened.truncate(VOLUME)
    commands: list[list[str | Path]] = [
        ["mkfs.ext4", "-q", "-m", "0", image],
        ["mount", "-o", "loop", image, volume],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield volume
    finally:
        subprocess.run(["umount", "--lazy", volume], check=True)


def cut_one(out: Path, rng: random.Random) -> str:
    """Cut off some file of the run folder *out*, but never both copies of the manifest."""
    spared = {MANIFEST, PREVIOUS} if RunFolder(out).manifest_damaged() else set()
    if not (out / PREVIOUS).is_file():
        spared.add(MANIFEST)
    names = sorted(
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.is_file() and path.stat().st_size and path.name != ".lock"
    )
    names = [name for name in names if name not in spared]
    if not names:
        return "nothing there to cut"
    name = rng.choice(names)
    size = (out / name).stat().st_size
    kept = rng.randrange(size)
    os.truncate(out / name, kept)
    return f"{name} cut from {size} to {kept} bytes"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chaos")
    from medbench.finetune.recipe import RECIPES

    changes = {"steps:": 4, "logging_steps:": 1, "  validation_rows:": 0, "checkpoint_steps:": 2}
    lines = (RECIPES / "clinic.yaml").read_text("utf-8").splitlines()
    short = [
        next((f"{key} {new}" for key, new in changes.items() if line.startswith(key)), line)
        for line in lines
    ]
    (folder / "short.yaml").write_text("\n".join(short) + "\n", "utf-8")
    settings = [
        "tasks=[clinic_open, clinic_text]", "limit=4",
        "latency.formats=[fp32, int8]", "latency.output_tokens=4", "latency.warmup=1",
        "latency.iterations=2", "latency.memory=false", "latency.engines=[onnxruntime]",
        f"models.tuned.adapter.recipe={folder / 'short.yaml'}",
    ]  # fmt: skip
    arguments = ["run", "--device", "cpu", *(p for one in settings for p in ("--set", one))]
    arguments += ["--models", "base,tuned,tuned@onnx-int8"]
    with mounted(folder) as volume:
        made = World(arguments, folder, volume)
        made.finish(folder / "undisturbed")
        started = time.monotonic()
        made.finish(folder / "timed")
        stages = RunFolder(folder / "timed").manifest()["stages"]
        made.stages = {name: record["seconds"] for name, record in stages.items()}
        made.start_up = time.monotonic() - started - sum(made.stages.values())
        yield made


@pytest.mark.parametrize("seed", range(-(-COUNT // FAULTS)))
def test_every_resumed_run_ends_with_the_same_answers(
    world: World, seed: int, record_property: Any
) -> None:
    rng = random.Random(seed)
    out = (world.volume or world.folder) / f"R{seed}"
    told: list[str] = []
    for _ in range(FAULTS):
        kind = rng.choice(KINDS)
        told.append(f"{kind}: {world.disturb(kind, out, rng)}")
    world.finish(out)
    record_property("faults", json.dumps(Counter(one.partition(":")[0] for one in told)))
    print(f"seed {seed}: " + "; ".join(told))  # noqa: T201  (pytest -s shows it)
    run, whole = RunFolder.open(out), RunFolder.open(world.folder / "undisturbed")
    pd.testing.assert_frame_equal(run.samples(), whole.samples())
    pd.testing.assert_frame_equal(run.timings()[SAME], whole.timings()[SAME])
    manifest = RunFolder(out).manifest()
    assert manifest["status"] == "done"
    assert {record["status"] for record in manifest["stages"].values()} == {"done"}
    assert not list(out.rglob(".*")), "no draft and no lock is left behind"
    assert not list(out.glob("parts/answers/*/*/*")), "nor what was only needed to go on"
    shutil.rmtree(out)
