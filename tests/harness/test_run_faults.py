"""What disk, power and people do to a run: it says so once and goes on with the same answers."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError, StageError
from medbench.harness import evaluate
from medbench.harness.folder.lock import held
from medbench.harness.folder.store import MANIFEST, RunFolder
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import Tick, silent
from medbench.harness.run import execute, open_folder
from medbench.harness.suite import load_suite

SETTINGS = ["tasks=[clinic_open, clinic_text]", "limit=4", "latency=null"]
STAGES = ["overlap", "score/base/clinic_open", "score/base/clinic_text"]
PART = "parts/samples/base/clinic_text.parquet"
COMMAND = ["run", "--device", "cpu", "--models", "base"] + [
    part for one in SETTINGS for part in ("--set", one)
]


class Heard:
    """A watcher that remembers what ran and what was said to be wrong."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.redone: dict[str, str] = {}

    def begin(self, stage: str) -> Tick:
        self.ran.append(stage)
        return silent

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        if "redone" in detail:
            self.redone[stage] = detail["redone"]


def plan() -> Plan:
    suite = load_suite("quickstart", SETTINGS)
    return make_plan(suite, models="base", tasks=None, device="cpu", command="test")


def go(path: Path) -> Heard:
    heard = Heard()
    made = plan()
    execute(made, open_folder(path, made, fresh=False), heard)
    return heard


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "R"
    assert go(out).ran == STAGES
    return out


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished run to do harm to."""
    return shutil.copytree(undisturbed, tmp_path / "R")


def same_answers(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(RunFolder(one).samples(), RunFolder(other).samples())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [(cut, "bytes instead of"), (flip, "another sha256"), (Path.unlink, "missing")],
)
def test_a_damaged_part_is_done_again_and_said_once(
    undisturbed: Path, finished: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(finished / PART)
    heard = go(finished)
    assert heard.ran == ["score/base/clinic_text"]
    assert PART in heard.redone["score/base/clinic_text"]
    assert said in heard.redone["score/base/clinic_text"]
    same_answers(finished, undisturbed)
    again = go(finished)
    assert (again.ran, again.redone) == ([], {})


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_damaged_manifest_costs_nothing_that_was_done(
    undisturbed: Path, finished: Path, harm: Callable[[Path], None]
) -> None:
    harm(finished / MANIFEST)
    assert RunFolder(finished).manifest_damaged()
    assert go(finished).ran == []
    assert not RunFolder(finished).manifest_damaged()
    same_answers(finished, undisturbed)


def test_a_damaged_table_is_said_to_readers_and_made_again(
    undisturbed: Path, finished: Path
) -> None:
    cut(finished / "samples.parquet")
    with pytest.raises(InputError, match=r"samples.parquet: damaged.*give the command that made"):
        RunFolder.open(finished).samples()
    assert go(finished).ran == []
    same_answers(finished, undisturbed)


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond *size* bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(
    undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "R"
    with full_after(12_000), pytest.raises(StageError) as caught:
        go(out)
    assert "score/base/clinic_open failed" in str(caught.value)
    assert "cannot be written (File too large); free space there" in str(caught.value)
    assert "\n" not in str(caught.value)
    manifest = RunFolder(out).manifest()
    assert manifest["status"] == "failed"
    assert manifest["stages"]["overlap"]["status"] == "done"
    assert not list(out.rglob(".*")), "no draft and no lock is left"
    assert go(out).ran == STAGES[1:]
    same_answers(out, undisturbed)


def test_a_disk_too_full_for_the_manifest_is_one_line_too(tmp_path: Path) -> None:
    with full_after(1000), pytest.raises(StageError, match="cannot be written") as caught:
        go(tmp_path / "R")
    assert "\n" not in str(caught.value)


def test_a_clock_that_jumps_changes_neither_answers_nor_durations(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock finds it a day on, or back where it was."""
    clock, jumps = time.time, cycle([0.0, 86400.0, -86400.0])
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() + next(jumps))
        assert go(tmp_path / "R").ran == STAGES
        assert go(tmp_path / "R").ran == []
    took = time.monotonic() - started
    manifest = RunFolder(tmp_path / "R").manifest()
    seconds = [one["seconds"] for one in manifest["stages"].values()]
    assert all(0 < one < took for one in [*seconds, manifest["seconds"]])
    assert sum(seconds) < took
    same_answers(tmp_path / "R", undisturbed)


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_out_of_memory_is_one_line_with_what_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise kind("Tried to allocate 20.00 GiB.\nOf the allocated memory ...")

    monkeypatch.setattr(evaluate, "score", full)
    with pytest.raises(
        StageError, match=r"clinic_open failed: out of memory.*batch_size"
    ) as caught:
        go(tmp_path / "R")
    assert "\n" not in str(caught.value)


def test_a_read_only_folder_is_refused() -> None:
    places = [Path("/sys/kernel/debug"), Path("/sys/fs/fuse/connections"), Path("/sys/fs/bpf")]
    empty = [one for one in places if one.is_dir() and not any(one.iterdir())]
    if not empty:
        pytest.skip("no empty folder of a file system that nobody can write to")
    with pytest.raises(InputError, match=rf"{empty[0]}: cannot be written to"):
        go(empty[0])


def test_a_folder_in_use_is_refused_and_left_alone(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with held(finished):
        for fresh in ([], ["--fresh"]):
            done = CliRunner().invoke(app, [*COMMAND, "--out", str(finished), *fresh])
            assert isinstance(done.exception, InputError)
            assert "in use by process" in str(done.exception)
        (finished / ".lock").unlink()
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_fresh_removes_everything_and_only_when_nobody_else_is_there(finished: Path) -> None:
    with held(finished), pytest.raises(InputError, match="in use"):
        open_folder(finished, plan(), fresh=True)
    assert (finished / MANIFEST).is_file()
    assert list(open_folder(finished, plan(), fresh=True).path.iterdir()) == []


def test_an_older_folder_is_read_and_not_continued(finished: Path) -> None:
    """Format 1 had no columns `subject` and `problem`."""
    run = RunFolder(finished)
    run.write_table("samples.parquet", run.samples().drop(columns=["subject", "problem"]))
    manifest = run.manifest() | {"format": 1}
    for record in manifest["stages"].values():
        del record["files"], record["redone"]
    run.write_json(MANIFEST, manifest)
    done = CliRunner().invoke(app, ["report", str(finished)])
    assert done.exit_code == 0, done.output
    assert (finished / "report.html").is_file()
    table = RunFolder.open(finished).samples()
    assert table["problem"].notna().tolist() == table["unparsed"].tolist()
    assert table["subject"].isna().all()
    with pytest.raises(InputError, match=r"format 1.*`medbench report` reads it.*--fresh"):
        go(finished)


def test_a_link_out_of_the_folder_is_not_followed(finished: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(finished / "parts", outside)
    (finished / "parts").symlink_to(outside)
    before = sorted(path.name for path in outside.rglob("*"))
    with pytest.raises(InputError, match=r"parts: a link out of the run folder, to .*outside"):
        go(finished)
    done = CliRunner().invoke(app, ["report", str(finished)])
    assert isinstance(done.exception, InputError)
    open_folder(finished, plan(), fresh=True)
    assert sorted(path.name for path in outside.rglob("*")) == before, "--fresh follows none either"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_in_order(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "R"
    command = [sys.executable, "-m", "medbench", *COMMAND, "--set", "limit=null", "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not (out / MANIFEST).is_file() or '"score/base' not in (out / MANIFEST).read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.send_signal(number)  # the impatient are heard once
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert f"Interrupted. What is done is kept in {out}; to go on:\n  medbench run" in said
    assert "Traceback" not in said
    manifest = RunFolder(out).manifest()
    assert manifest["status"] == "failed"
    assert manifest["stages"]["overlap"]["status"] == "done"
    ends = {(one["status"], one["error"]) for one in manifest["stages"].values()}
    assert ends <= {("done", None), ("failed", signal.Signals(number).name)}
    assert not (out / ".lock").exists()
