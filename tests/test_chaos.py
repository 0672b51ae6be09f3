"""Random faults over a whole run: whatever happens, the next run ends with the same answers.

    MEDBENCH_CHAOS=100 pytest -m slow tests/test_chaos.py

does so many faults, 20 by default, FAULTS of them on one folder before it is let finish. The seed
of a folder is its number; a failure names it. A fault is kill -9 or SIGTERM at a random moment, a
file cut off at a random place after such a moment, or a disk on which no file grows beyond a random
size.
"""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.harness.folder.store import MANIFEST, PREVIOUS, RunFolder

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("MEDBENCH_CHAOS", "20"))
FAULTS = 5
PATIENCE = 300.0
KINDS = ("kill", "terminate", "cut", "full")
PRELOADED = [
    "medbench.cli", "medbench.harness.pipeline", "medbench.harness.evaluate",
    "medbench.finetune.train", "medbench.finetune.trainer", "medbench.reports", "trl",
    "sklearn.metrics", "matplotlib.pyplot",
]  # fmt: skip


def program(arguments: list[str], log: Path, largest: int | None) -> None:
    """medbench in a process of its own; *largest* is the size beyond which no file grows."""
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["medbench", *arguments]
    from medbench import cli

    cli.main()


@dataclass
class World:
    """Where faults happen to one command."""

    arguments: list[str]
    folder: Path
    seconds: float = 0.0

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
        largest = int(10 ** rng.uniform(3, 5.5)) if kind == "full" else None
        process = self.start(out, largest)
        when = rng.uniform(0, 1.2 * self.seconds)
        process.join(PATIENCE if kind == "full" else when)
        number = signal.SIGTERM if kind == "terminate" else signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            if process.exitcode is None:
                os.kill(process.pid, number)
        process.join(PATIENCE)
        expected = {
            "kill": {-signal.SIGKILL, 0},
            "cut": {-signal.SIGKILL, 0},
            # Before the run has begun, and after it has ended, nobody waits for a signal.
            "terminate": {143, -signal.SIGTERM, 0},
            "full": {0, 1, 2},
        }
        said = self.log.read_text("utf-8", "replace")
        assert process.exitcode in expected[kind], said
        assert "Traceback" not in said, said
        if kind == "cut":
            return f"{when:.1f} s, then {cut_one(out, rng)}"
        return f"{largest} bytes" if kind == "full" else f"{when:.1f} s → {process.exitcode}"


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
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
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
        "tasks=[clinic_open, clinic_text]", "limit=4", "latency=null",
        f"models.tuned.adapter.recipe={folder / 'short.yaml'}",
    ]  # fmt: skip
    arguments = ["run", "--device", "cpu", *(p for one in settings for p in ("--set", one))]
    made = World(arguments, folder)
    made.finish(folder / "warm")
    started = time.monotonic()
    made.finish(folder / "undisturbed")
    made.seconds = time.monotonic() - started
    return made


def answers(out: Path) -> pd.DataFrame:
    return RunFolder.open(out).samples()


@pytest.mark.parametrize("seed", range(-(-COUNT // FAULTS)))
def test_every_resumed_run_ends_with_the_same_answers(
    world: World, seed: int, record_property: Any
) -> None:
    rng = random.Random(seed)
    out = world.folder / f"R{seed}"
    told: list[str] = []
    for _ in range(FAULTS):
        kind = rng.choice(KINDS)
        told.append(f"{kind}: {world.disturb(kind, out, rng)}")
    world.finish(out)
    record_property("faults", json.dumps(Counter(one.partition(":")[0] for one in told)))
    print(f"seed {seed}: " + "; ".join(told))  # noqa: T201  (pytest -s shows it)
    pd.testing.assert_frame_equal(answers(out), answers(world.folder / "undisturbed"))
    manifest = RunFolder(out).manifest()
    assert manifest["status"] == "done"
    assert {record["status"] for record in manifest["stages"].values()} == {"done"}
    assert not list(out.rglob(".*")), "no draft and no lock is left behind"
