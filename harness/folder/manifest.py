"""The manifest while a run goes on: what is done, what runs, what failed.

It is written before and after each stage. A stage is one line of the file, made once, so that a run
of a thousand stages does not spend its time on writing what it wrote before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ..secrets import redact
from . import store
from .lock import Held
from .store import FORMAT, RunFolder, explain_unwritable

Record = dict[str, Any]


class Manifest:
    """manifest.json of *run*, which this process holds.

    Attributes:
        status: ``running``, ``done`` or ``failed``.
        seconds: Wall time of the run, once it has ended.
        stages: The record of each stage of the plan that was begun.
        kept: Finished stages of earlier plans in this folder.
    """

    def __init__(
        self, run: RunFolder, lock: Held, about: dict[str, Any], planned: list[str]
    ) -> None:
        before = run.last_manifest() or {}
        known: dict[str, Record] = before.get("kept", {}) | before.get("stages", {})
        self._run, self._lock, self._planned = run, lock, planned
        self.status = "running"
        self.seconds: float | None = None
        self.stages = {name: known[name] for name in planned if name in known}
        self.kept = {
            name: record
            for name, record in known.items()
            if name not in planned and record["status"] == "done"
        }
        self._created = before.get("created", now())
        self._about = _members(about)
        self._lines = {name: _line(name, record) for name, record in self.stages.items()}
        self._kept = _block(_line(name, record) for name, record in self.kept.items())

    def record(self, name: str, record: Record) -> None:
        """Put down what is known of stage *name*, and save."""
        self.stages[name] = record
        self._lines[name] = _line(name, record)
        # That a stage has begun may be lost with the power; that it is done may not.
        self.save(sync=record["status"] != "running")

    def give_up(self, message: str) -> None:
        """Leave a file that says what has ended the run, also of stages that still ran."""
        self.status = "failed"
        for name, record in self.stages.items():
            if record["status"] == "running":
                self.record(name, record | {"status": "failed", "error": message})
        self.save()

    def end(self, status: str, seconds: float) -> None:
        """Put down how the run has ended, and save.

        Every line is made anew: a signal may have come while a stage was put down.
        """
        self.status, self.seconds = status, seconds
        self._lines = {name: _line(name, record) for name, record in self.stages.items()}
        self.save()

    def save(self, *, sync: bool = True) -> None:
        """Write the file; with *sync*, wait until it has reached the disk.

        Raises:
            StageError: The disk is full or read-only, or another process has taken the folder.
        """
        self._lock.check()
        head = {
            "format": FORMAT,
            "status": self.status,
            "created": self._created,
            "updated": now(),
            "seconds": self.seconds,
        }
        lines = self._lines
        stages = _block(lines[name] for name in self._planned if name in lines)
        text = (
            f'{{\n{_members(head)},\n{self._about},\n  "stages": {stages},\n'
            f'  "kept": {self._kept}\n}}\n'
        )
        try:
            self._run.write_manifest(redact(text), sync=sync)
        except OSError as error:
            raise explain_unwritable(error, self._run.path) or error from error


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _members(value: dict[str, Any]) -> str:
    """The members of an object as JSON, without the braces around them."""
    return store.as_json(value).removeprefix("{\n").removesuffix("\n}\n")


def _line(name: str, record: Record) -> str:
    return f"    {json.dumps(name)}: {json.dumps(store.finite(record), ensure_ascii=False)}"


def _block(lines: Iterable[str]) -> str:
    joined = ",\n".join(lines)
    return f"{{\n{joined}\n  }}" if joined else "{}"
