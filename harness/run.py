"""Runs a plan: tune → score → merge → export → latency, each stage once.

A stage is skipped when it finished before with the same fingerprint (everything it depends on) and
its outputs are what it left. The manifest is written before and after each stage, so a killed run
goes on where it stopped when the same command is given again.

With several processes (ranks.py) the first does all this, and the others follow it through the
stages that are shared.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError, MedbenchError, StageError
from .folder.checksum import checksums, damage
from .folder.lock import NAME, Held, held
from .folder.manifest import Manifest, Record, now
from .folder.store import FORMAT, RunFolder, explain_unwritable
from .notes import notes
from .pipeline import Pipeline, Stage
from .planning.plan import Plan
from .progress import Tick, silent
from .ranks import Ranks
from .results import derive


class Watcher(Protocol):
    """Hears how a run goes."""

    def begin(self, stage: str) -> Tick:
        """A stage starts; the tick returned hears of its progress."""

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        """A stage is done; *seconds* is None when it had been done before."""


def open_folder(path: Path, plan: Plan, *, fresh: bool) -> RunFolder:
    """The run folder at *path*, new or to be continued.

    Raises:
        InputError: The folder holds something else, the run of another suite or of another format
            version, or is in use.
    """
    run = RunFolder(path)
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
    ranks: Ranks | None = None,
    lock: Held | None = None,
) -> None:
    """Run every stage of *plan* that is not done, then derive the tables and results.

    Args:
        plan: What is done.
        run: Where.
        watcher: Hears how it goes.
        ranks: The processes of this run, of which this is the first.
        lock: The folder's, where the caller holds it.

    Raises:
        MedbenchError: A stage failed. What was finished is kept, and the manifest says which.
    """
    with contextlib.ExitStack() as stack:
        lock = lock or stack.enter_context(held(run.path))
        _execute(plan, run, watcher, ranks or Ranks(), lock)


def _execute(plan: Plan, run: RunFolder, watcher: Watcher, ranks: Ranks, lock: Held) -> None:
    started = time.monotonic()
    ranks.connect(plan.device)
    run.sweep()
    pipeline = Pipeline(plan, run)
    stages = pipeline.stages()
    manifest = Manifest(run, lock, _about(plan), [stage.name for stage in stages])
    manifest.save()
    ranks.last_words = lambda message: _give_up(manifest, message)
    done: set[str] = set()
    try:
        for stage in stages:
            _advance(stage, run, manifest, watcher, ranks)
            done.update(stage.outputs)
        ranks.tell(None)
        pipeline.close()
        derive(plan, run, done)
        manifest.end("done", time.monotonic() - started)
    except BaseException as error:
        # What is known is put down as far as the disk takes it; what went wrong first is told.
        with contextlib.suppress(MedbenchError, OSError):
            pipeline.close()
            derive(plan, run, done)
        with contextlib.suppress(MedbenchError):
            manifest.end("failed", time.monotonic() - started)
        if isinstance(error, OSError) and (told := explain_unwritable(error, run.path)):
            raise told from error
        raise


def follow(plan: Plan, run: RunFolder, ranks: Ranks) -> None:
    """Take this process's part in the stages that the first one calls; nothing is written.

    Raises:
        MedbenchError: A stage failed here.
    """
    ranks.connect(plan.device)
    pipeline = Pipeline(plan, run)
    stages = {stage.name: stage for stage in pipeline.stages()}
    while (name := ranks.hear()) is not None:
        try:
            stages[name].work(silent)
        except MedbenchError as error:
            raise type(error)(f"{name}: {error}") from error
    pipeline.close()


def _give_up(manifest: Manifest, message: str) -> None:
    """Leave a manifest that says what has ended the run, of which another process failed."""
    manifest.status = "failed"
    for name, record in manifest.stages.items():
        if record["status"] == "running":
            manifest.record(name, record | {"status": "failed", "error": message})
    manifest.save()


def _advance(
    stage: Stage, run: RunFolder, manifest: Manifest, watcher: Watcher, ranks: Ranks
) -> None:
    before = manifest.stages.get(stage.name, {})
    damaged = None
    finished = before.get("status") == "done" and "files" in before
    if finished and before["fingerprint"] == stage.fingerprint:
        damaged = damage(run.path, before["files"])
        if damaged is None:
            run.discard(stage.scratch)
            watcher.end(stage.name, None, before["detail"])
            return
    record: Record = {
        "status": "running",
        "fingerprint": stage.fingerprint,
        "started": now(),
        "seconds": None,
        "error": None,
        "redone": damaged,
        "detail": {},
        "files": {},
    }
    started = time.monotonic()
    try:
        manifest.record(stage.name, record)
        if stage.shared:
            ranks.tell(stage.name)
        record["detail"] = stage.work(watcher.begin(stage.name))
        record["files"] = checksums(run.path, stage.outputs)
        record["status"] = "done"
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = str(error) or type(error).__name__
        if isinstance(error, MedbenchError) or not isinstance(error, Exception):
            raise
        traceback.print_exc()  # into run.log
        raise _explained(stage.name, error, run) from error
    finally:
        record["seconds"] = time.monotonic() - started
        manifest.record(stage.name, record)
    run.discard(stage.scratch)
    said = {"redone": damaged} if damaged else {}
    watcher.end(stage.name, record["seconds"], record["detail"] | said)


def _explained(stage: str, error: Exception, run: RunFolder) -> StageError:
    """What nobody foresaw, in one line."""
    if told := explain_unwritable(error, run.path):
        return StageError(f"{stage} failed: {told}")
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return StageError(
            f"{stage} failed: out of memory ({words[:160] or 'of the host'}); a smaller batch_size "
            "or a base with quantization: nf4 needs less"
        )
    return StageError(
        f"{stage} failed: {type(error).__name__}: {words} (traceback in {run / 'run.log'})"
    )


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
