"""Keeps two processes out of one run folder: a file ``.lock`` that says whose the folder is.

filelock's lease does the work. The file names host, process and the time that process started, and
its holder touches it every twenty seconds. A holder that is dead (same host) or has not been heard
of for a minute (another host) loses the folder to the next who wants it. That minute is counted on
the waiting process's own monotonic clock, so clocks that differ or jump take no folder away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import psutil
from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from ...errors import InputError, StageError

NAME = ".lock"

LEASE = 60.0
"""Seconds without a sign of life after which a holder is taken for dead."""


class Held:
    """A folder that is this process's until the block of :func:`held` ends."""

    def __init__(self, folder: Path, lease: SoftFileLease) -> None:
        self._folder = folder
        self._lease = lease

    def check(self) -> None:
        """Raise where the folder is not ours any more.

        Raises:
            StageError: This process stood still for so long that another one took the folder.
        """
        if not self._lease.is_lock_held_by_us:
            raise StageError(
                f"{self._folder}: this process gave no sign of life for over {LEASE:.0f} s, and "
                f"the folder is now in use by {_owner(self._lease)}; this one stops and writes no "
                "more"
            )


@contextlib.contextmanager
def held(folder: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[Held]:
    """Hold *folder*, which exists, until the block ends.

    Args:
        folder: What is held.
        say: Hears why it takes a minute, where it does.

    Raises:
        InputError: Another process holds it, or it cannot be written to.
    """
    lease = SoftFileLease(folder / NAME, lease_duration=LEASE)
    try:
        _take(folder, lease, say)
    except LeaseSettingsMismatch:
        raise InputError(_taken(folder, lease)) from None
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror or error}); choose another "
            "folder, or make it writable and free space"
        ) from None
    try:
        yield Held(folder, lease)
    finally:
        if lease.is_lock_held_by_us:  # else it is another process's by now
            lease.release()


def _take(folder: Path, lease: SoftFileLease, say: Callable[[str], None]) -> None:
    with contextlib.suppress(Timeout):
        lease.acquire(timeout=LEASE / 300, poll_interval=LEASE / 1200)
        return
    age = _age(lease)
    if age is None or 0 <= age <= LEASE:
        raise InputError(_taken(folder, lease))
    # A clock that jumped makes a live holder look old as well; only watching it tells them apart.
    say(f"{_taken(folder, lease)}. Taking it over unless a sign of life comes within {LEASE:.0f} s")
    try:
        lease.acquire(timeout=LEASE * 1.25, poll_interval=LEASE / 60)
    except Timeout:
        raise InputError(_taken(folder, lease)) from None


def _taken(folder: Path, lease: SoftFileLease) -> str:
    return (
        f"{folder}: in use by {_owner(lease)}; wait for it or end it, or choose another folder "
        f"(if no such process exists, remove {folder / NAME})"
    )


def _owner(lease: SoftFileLease) -> str:
    """The holder in words: process, host, when it started and when it was last heard of."""
    owner, age = lease.owner, _age(lease)
    if owner is None:
        return "another process"
    told = f"process {owner.pid} on {owner.hostname.partition('?')[0]}"
    if _here(owner.hostname):
        with contextlib.suppress(psutil.Error):
            began = datetime.fromtimestamp(psutil.Process(owner.pid).create_time())
            told += f", started {began:%Y-%m-%d %H:%M:%S}"
    if age is not None and age >= 0:
        told += f", last sign of life {age:.0f} s ago"
    return told


def _here(host: str) -> bool:
    import socket

    return host.partition("?")[0] == socket.gethostname()


def _age(lease: SoftFileLease) -> float | None:
    """Seconds since the holder's last sign of life by this machine's clock; None without one."""
    try:
        return time.time() - Path(lease.lock_file).stat().st_mtime
    except FileNotFoundError:
        return None
