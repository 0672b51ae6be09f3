"""Answers put down while a stage still asks, so that a killed run loses a minute and not a stage.

A journal is a folder of parts, one JSON file each, ``{key: answers}``, named by the sha256 of its
content: a part that was cut off or altered does not bear its own name, is removed, and what it held
is asked again. Parts are written under a temporary name, reach the disk and are renamed. Several
processes may write into one journal, since what is in a part decides what it is called.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .store import atomic_path

EVERY = 30.0
"""Seconds after which what is new becomes a part. Shorter stages write none."""


class Journal:
    """Answers by key, in memory and in the parts of *folder*.

    Args:
        folder: Where parts lie, and nothing else; made when there is something to write.

    Attributes:
        damaged: The parts that were removed because they were not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        self._written = time.monotonic()
        self.damaged: list[str] = []
        for part in sorted(folder.glob("*.json")):
            self._read(part)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> list[Any]:
        return self._known[key]

    def add(self, key: str, answers: list[Any]) -> None:
        """Know *answers*, as JSON has them (lists, no tuples), from now on.

        Raises:
            OSError: A part was due and cannot be written.
        """
        self._known[key] = self._new[key] = answers
        if time.monotonic() - self._written >= EVERY:
            self.write()

    def write(self) -> None:
        """Make a part of what is new."""
        if not self._new:
            return
        content = json.dumps(self._new).encode()
        with atomic_path(self._folder / _name(content)) as draft:
            draft.write_bytes(content)
        self._new = {}
        self._written = time.monotonic()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Write what is new when the block ends early; a full disk does not hide why it did."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self.write()
            raise

    def _read(self, part: Path) -> None:
        try:
            content = part.read_bytes()
        except FileNotFoundError:  # another process has found it damaged
            return
        if _name(content) == part.name:
            self._known |= json.loads(content)
        else:
            part.unlink(missing_ok=True)
            self.damaged.append(part.name)


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}.json"
