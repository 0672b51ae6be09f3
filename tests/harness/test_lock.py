"""One folder, one process: also when the other one is dead, far away, or its clock is wrong."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import OwnerRecord

from medbench.errors import InputError, StageError
from medbench.harness.folder import lock
from medbench.harness.folder.lock import held

HOLD = """
import sys, time
from pathlib import Path
from medbench.harness.folder.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds *folder*."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def stranger(folder: Path, *, age: float) -> Path:
    """The lock of a process on another host that was last heard of *age* seconds ago."""
    from filelock._marker import encode_marker

    path = folder / lock.NAME
    owner = OwnerRecord(4711, "elsewhere", "lease", "ab" * 16, lock.LEASE, 1)
    path.write_bytes(encode_marker(owner))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_held_folder_is_refused_and_the_holder_named(tmp_path: Path) -> None:
    with (
        another(tmp_path) as holder,
        pytest.raises(InputError, match=rf"in use by process {holder.pid} on ") as caught,
        held(tmp_path),
    ):
        pass
    assert "started 2" in str(caught.value)
    assert "last sign of life 0 s ago" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_a_killed_process_it_is_taken_at_once(tmp_path: Path) -> None:
    with another(tmp_path) as holder:
        holder.kill()
        holder.wait()
    assert (tmp_path / lock.NAME).exists(), "kill -9 leaves it"
    started = time.monotonic()
    with held(tmp_path) as mine:
        mine.check()
    assert time.monotonic() - started < 2


def test_of_many_that_want_a_dead_ones_folder_one_gets_it(tmp_path: Path) -> None:
    with another(tmp_path) as holder:
        holder.kill()
        holder.wait()
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    many = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    try:
        refused = 0
        deadline = time.monotonic() + 60
        while refused < len(many) - 1 and time.monotonic() < deadline:
            refused = sum(one.poll() is not None for one in many)
            time.sleep(0.05)
        holding = [one for one in many if one.poll() is None]
        assert len(holding) == 1
    finally:
        for one in many:
            one.kill()
    said = [one.communicate() for one in many]
    assert sum(out == "held\n" for out, _ in said) == 1
    assert sum("in use by process" in err for _, err in said) == len(many) - 1


@pytest.mark.parametrize("way", ["end", "error", "interrupt"])
def test_it_is_let_go_however_the_block_ends(tmp_path: Path, way: str) -> None:
    errors = {"error": RuntimeError, "interrupt": KeyboardInterrupt}

    def work() -> None:
        with held(tmp_path):
            if way in errors:
                raise errors[way]

    if way in errors:
        with pytest.raises(errors[way]):
            work()
    else:
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_living_holder_elsewhere_is_believed_at_once(tmp_path: Path) -> None:
    path = stranger(tmp_path, age=5)
    before = path.read_bytes()
    with pytest.raises(InputError, match="process 4711 on elsewhere, last sign of life 5 s ago"):
        held(tmp_path).__enter__()
    assert path.read_bytes() == before


@pytest.mark.parametrize("age", [3600, -3600], ids=["an hour ago", "in an hour"])
def test_a_silent_holder_elsewhere_is_watched_and_then_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """Also one that died when its clock, or ours, was an hour wrong."""
    monkeypatch.setattr(lock, "LEASE", 1.0)
    stranger(tmp_path, age=age)
    heard: list[str] = []
    started = time.monotonic()
    with held(tmp_path, heard.append) as mine:
        mine.check()
    assert time.monotonic() - started >= 1
    assert ["process 4711 on elsewhere" in line for line in heard] == [True]


@pytest.mark.parametrize("age", [3600, -3600])
def test_a_clock_that_jumped_takes_no_folder_from_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """Its times are an hour off, but they go on changing."""
    monkeypatch.setattr(lock, "LEASE", 1.0)
    path = stranger(tmp_path, age=age)
    beat = (
        "import os, sys, time\n"
        "while True:\n"
        f"    os.utime(sys.argv[1], (time.time() - {age},) * 2)\n"
        "    time.sleep(0.1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", beat, str(path)]) as holder:
        try:
            with pytest.raises(InputError, match="process 4711 on elsewhere"):
                held(tmp_path).__enter__()
        finally:
            holder.kill()


def test_who_lost_the_folder_writes_no_more(tmp_path: Path) -> None:
    """A process that stood still (a laptop asleep) finds the folder taken when it wakes."""
    with held(tmp_path) as mine:
        stranger(tmp_path, age=0)
        with pytest.raises(StageError, match=r"now in use by process 4711 on elsewhere"):
            mine.check()
    assert "elsewhere" in (tmp_path / lock.NAME).read_text(), "the new holder's lock stays"


def test_a_lock_of_garbage_does_not_lock_forever(tmp_path: Path) -> None:
    """Power failed while it was written."""
    path = tmp_path / lock.NAME
    path.write_bytes(b"\0" * 40)
    os.utime(path, (time.time() - 3600,) * 2)
    with held(tmp_path) as mine:
        mine.check()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written to"):
        held(Path("/proc/self/task")).__enter__()
