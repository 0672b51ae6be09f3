"""Runs a plan: tune → score → merge → export → latency, each stage once.

A stage is skipped when it finished before with the same fingerprint (everything it depends on) and
its outputs are still there. The manifest is written before and after each stage, so a killed run
goes on where it stopped when the same command is given again.

With several processes (ranks.py) the first does all this, and the others follow it through the
stages that are shared.
"""

from __future__ import annotations

import shutil
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError, MedbenchError, StageError
from .pipeline import Pipeline, Stage
from .plan import Plan
from .progress import Tick, silent
from .ranks import Ranks
from .results import derive
from .store import FORMAT, RunFolder


class Watcher(Protocol):
    """Hears how a run goes."""

    def begin(self, stage: str) -> Tick:
        """A stage starts; the tick returned hears of its progress."""

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        """A stage is done; *seconds* is None when it had been done before."""


def open_folder(path: Path, plan: Plan, *, fresh: bool) -> RunFolder:
    """The run folder at *path*, new or to be continued.

    Raises:
        InputError: The folder holds something else, or the run of another suite.
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
        shutil.rmtree(path)
        return run
    before = RunFolder.open(path).manifest().get("suite", {}).get("name")
    if before != plan.suite.name:
        raise InputError(
            f"--out {path}: holds a run of suite {before!r}, not {plan.suite.name!r}; "
            "choose another --out, or --fresh to replace it"
        )
    return run


def check_launch(plan: Plan, ranks: Ranks) -> None:
    """Check that *plan* can be done by so many processes.

    Raises:
        InputError: A model's engine shares its work out by itself, or a batch cannot be shared.
    """
    if ranks.size == 1:
        return
    for name in plan.models:
        backend = plan.backend(name)
        if not (backend.torch or backend.remote):
            raise InputError(
                f"models.{name}: back end {backend.name} spreads over GPUs by its own args (e.g. "
                "tensor_parallel_size); start medbench without a launcher"
            )
    for recipe in plan.recipes.values():
        if recipe.batch_size % ranks.size:
            raise InputError(
                f"recipe {recipe.name!r}: batch_size {recipe.batch_size} cannot be shared evenly "
                f"by {ranks.size} processes; start as many as divide it"
            )


def execute(plan: Plan, run: RunFolder, watcher: Watcher, ranks: Ranks | None = None) -> None:
    """Run every stage of *plan* that is not done, then derive the tables and results.

    Args:
        ranks: The processes of this run, of which this is the first.

    Raises:
        MedbenchError: A stage failed. What was finished is kept, and the manifest says which.
    """
    ranks = ranks or Ranks()
    started = time.monotonic()
    ranks.connect(plan.device)
    run.sweep()
    manifest = _manifest(plan, run)
    pipeline = Pipeline(plan, run)
    done: set[str] = set()
    stages = pipeline.stages()
    planned = [stage.name for stage in stages]
    known = manifest["kept"] | manifest["stages"]
    manifest["stages"] = {name: known[name] for name in planned if name in known}
    manifest["kept"] = {
        name: record
        for name, record in known.items()
        if name not in planned and record["status"] == "done"
    }
    ranks.last_words = lambda message: _give_up(run, manifest, message)
    try:
        for stage in stages:
            _advance(stage, run, manifest, watcher, ranks)
            done.update(stage.outputs)
        ranks.tell(None)
        manifest["status"] = "done"
    finally:
        if manifest["status"] != "done":
            manifest["status"] = "failed"
        pipeline.close()
        try:
            derive(plan, run, done)
        except BaseException:
            manifest["status"] = "failed"
            raise
        finally:
            manifest["seconds"] = time.monotonic() - started
            _save(run, manifest)


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


def _give_up(run: RunFolder, manifest: dict[str, Any], message: str) -> None:
    """Leave a manifest that says what has ended the run, of which another process failed."""
    manifest["status"] = "failed"
    for record in manifest["stages"].values():
        if record["status"] == "running":
            record["status"], record["error"] = "failed", message
    _save(run, manifest)


def _advance(
    stage: Stage, run: RunFolder, manifest: dict[str, Any], watcher: Watcher, ranks: Ranks
) -> None:
    record = manifest["stages"].get(stage.name, {})
    if (
        record.get("status") == "done"
        and record["fingerprint"] == stage.fingerprint
        and all((run / output).exists() for output in stage.outputs)
    ):
        watcher.end(stage.name, None, record["detail"])
        return
    record = {
        "status": "running",
        "fingerprint": stage.fingerprint,
        "started": _now(),
        "seconds": None,
        "error": None,
        "detail": {},
    }
    manifest["stages"][stage.name] = record
    _save(run, manifest)
    started = time.monotonic()
    try:
        if stage.shared:
            ranks.tell(stage.name)
        record["detail"] = stage.work(watcher.begin(stage.name))
        record["status"] = "done"
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = str(error) or type(error).__name__
        if isinstance(error, MedbenchError) or not isinstance(error, Exception):
            raise
        traceback.print_exc()  # into run.log
        raise StageError(
            f"{stage.name} failed: {type(error).__name__}: {error} (traceback in {run / 'run.log'})"
        ) from error
    finally:
        record["seconds"] = time.monotonic() - started
        _save(run, manifest)
    watcher.end(stage.name, record["seconds"], record["detail"])


def _manifest(plan: Plan, run: RunFolder) -> dict[str, Any]:
    """The manifest to start with: this plan, and the stages of an earlier try."""
    from .environment import environment

    before = run.manifest() if (run / "manifest.json").is_file() else {}
    manifest = {
        "format": FORMAT,
        "status": "running",
        "command": plan.command,
        "created": before.get("created", _now()),
        "updated": _now(),
        "seconds": None,
        "models": plan.models,
        "suite": plan.suite.model_dump(),
        "notes": plan.notes(),
        "stages": before.get("stages", {}),
        "kept": before.get("kept", {}),
        "environment": {"device": plan.device, **environment()},
    }
    _save(run, manifest)
    return manifest


def _save(run: RunFolder, manifest: dict[str, Any]) -> None:
    manifest["updated"] = _now()
    run.write_json("manifest.json", manifest)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
