"""Runs a plan: tune → score → merge → export → latency, each stage once.

What is common to all executors: the folder is opened and held, the manifest is written before and
after each stage, so that a killed run goes on where it stopped when the same command is given
again, and the tables are derived at the end.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError, MedbenchError
from . import graph
from .attempt import Book, Watcher
from .executors.local import Local
from .folder.lock import NAME, Held, held
from .folder.manifest import Manifest
from .folder.store import FORMAT, RunFolder, explain_unwritable
from .notes import notes
from .planning.plan import Plan
from .ranks import Ranks
from .results import derive


class Executor(Protocol):
    """Who does the stages.

    Attributes:
        extent: On how much it does them, in words that follow the device; empty for one process.
    """

    @property
    def extent(self) -> str: ...

    def carry_out(self, plan: Plan, book: Book) -> None:
        """Do what is due of *plan*, and put it down in *book*.

        Raises:
            MedbenchError: A stage failed.
        """


def open_folder(path: Path, plan: Plan, *, fresh: bool) -> RunFolder:
    """The run folder at *path*, new or to be continued.

    Raises:
        InputError: The folder holds something else, the run of another suite or of another format
            version, or is in use.
    """
    run = RunFolder(path)
    if path.parts and path.parts[0].endswith(":"):  # what a Path makes of s3://bucket
        raise InputError(
            f"--out {path}: a run folder lies on a file system, not behind a URL; mount what is "
            "there, or copy the folder there when the run is done"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be made a folder ({error})") from None
    if not any(path.iterdir()):
        return run
    if path.is_symlink() or not run.is_run():
        raise InputError(
            f"--out {path}: holds something that is no run folder of medbench; "
            "choose another name, nothing was changed"
        )
    if fresh:
        with held(path):
            run.clear(keep=NAME)
        return run
    run.check_links()
    before = run.last_manifest() or {}
    if (version := before.get("format")) != FORMAT:
        raise InputError(
            f"--out {path}: holds a run of format {version!r}, and this medbench goes on with "
            f"format {FORMAT} only (`medbench report` reads it); choose another --out, or --fresh "
            "to replace it"
        )
    if (name := before["suite"].get("name")) != plan.suite.name:
        raise InputError(
            f"--out {path}: holds a run of suite {name!r}, not {plan.suite.name!r}; "
            "choose another --out, or --fresh to replace it"
        )
    return run


def execute(
    plan: Plan,
    run: RunFolder,
    watcher: Watcher,
    lock: Held | None = None,
    executor: Executor | None = None,
) -> None:
    """Run every stage of *plan* that is not done, then derive the tables and results.

    Args:
        plan: What is done.
        run: Where.
        watcher: Hears how it goes.
        lock: The folder's, where the caller holds it.
        executor: Who does the stages; this process when None.

    Raises:
        MedbenchError: A stage failed. What was finished is kept, and the manifest says which.
    """
    with contextlib.ExitStack() as stack:
        lock = lock or stack.enter_context(held(run.path))
        run.sweep()
        manifest = Manifest(run, lock, _about(plan), [node.name for node in graph.nodes(plan)])
        manifest.save()
        _execute(plan, Book(run, manifest, watcher), executor or Local(Ranks()))


def _execute(plan: Plan, book: Book, executor: Executor) -> None:
    run, manifest, started = book.run, book.manifest, time.monotonic()
    try:
        executor.carry_out(plan, book)
        derive(plan, run, book.done)
        manifest.end("done", time.monotonic() - started)
    except BaseException as error:
        # What is known is put down as far as the disk takes it; what went wrong first is told.
        with contextlib.suppress(MedbenchError, OSError):
            derive(plan, run, book.done)
        with contextlib.suppress(MedbenchError):
            manifest.give_up(str(error) or type(error).__name__)
            manifest.end("failed", time.monotonic() - started)
        if isinstance(error, OSError) and (told := explain_unwritable(error, run.path)):
            raise told from error
        raise


def _about(plan: Plan) -> dict[str, Any]:
    """What the manifest says of the run beside its stages."""
    from .environment import environment

    return {
        "command": plan.command,
        "models": plan.models,
        "suite": plan.suite.model_dump(),
        "notes": notes(plan),
        "environment": {"device": plan.device, **environment()},
    }
