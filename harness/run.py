"""Runs a plan: tune → score → merge → export → latency, each stage once.

A stage is skipped when it finished before with the same fingerprint (everything it depends on) and
its outputs are still there. The manifest is written before and after each stage, so a killed run
goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError, MedbenchError, StageError
from ..tasks.catalog import Task
from . import fingerprint
from .plan import Plan, identity
from .progress import Tick
from .results import derive, samples_part, timings_part
from .store import FORMAT, RunFolder

PARITY_FP32 = 1e-3
"""Largest relative logit difference that float32 rounding explains; measured exports show 1e-5."""


@dataclass(frozen=True)
class Stage:
    """One unit of work that is done or not done.

    Attributes:
        name: Its key in the manifest.
        fingerprint: Hash of everything its outcome depends on.
        outputs: What it leaves in the run folder, relative to it.
        work: Does it, and returns what the manifest keeps of it.
    """

    name: str
    fingerprint: str
    outputs: list[str]
    work: Callable[[Tick], dict[str, Any]]


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
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return run
    if not (run / "manifest.json").is_file():
        raise InputError(
            f"--out {path}: exists and is no run folder (no manifest.json in it); "
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


def execute(plan: Plan, run: RunFolder, watcher: Watcher) -> None:
    """Run every stage of *plan* that is not done, then derive the tables and results.

    Raises:
        MedbenchError: A stage failed. What was finished is kept, and the manifest says which.
    """
    started = time.monotonic()
    manifest = _manifest(plan, run)
    pipeline = Pipeline(plan, run)
    done: set[str] = set()
    stages = pipeline.stages()
    planned = {stage.name for stage in stages}
    manifest["stages"] = {
        name: record
        for name, record in manifest["stages"].items()
        if name in planned or record["status"] == "done"  # what an earlier plan left unfinished
    }
    try:
        for stage in stages:
            _advance(stage, run, manifest, watcher)
            done.update(stage.outputs)
        manifest["status"] = "done"
    except BaseException:
        manifest["status"] = "failed"
        raise
    finally:
        pipeline.close()
        derive(plan, run, done)
        manifest["seconds"] = time.monotonic() - started
        _save(run, manifest)


def _advance(stage: Stage, run: RunFolder, manifest: dict[str, Any], watcher: Watcher) -> None:
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
        "environment": {"device": plan.device, **environment()},
    }
    _save(run, manifest)
    return manifest


def _save(run: RunFolder, manifest: dict[str, Any]) -> None:
    manifest["updated"] = _now()
    run.write_json("manifest.json", manifest)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Pipeline:
    """The stages of one plan over one run folder, and the models they share."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        from .models import ScoringPool

        self._plan = plan
        self._run = run
        self._adapters = {name: self._adapter(name) for name in plan.models if plan.spec(name).base}
        self._pool = ScoringPool(plan.suite.models, self._adapters, plan.device)
        self._identity = {
            name: identity(plan.spec(name)) for name in {plan.base_of(m) for m in plan.models}
        }

    def close(self) -> None:
        self._pool.close()

    def stages(self) -> list[Stage]:
        """All stages in the order they run."""
        plan = self._plan
        stages = [self._tune(name) for name in plan.recipes]
        stages += [self._score(name, task) for name in plan.models for task in plan.tasks]
        for name in plan.timed():
            if plan.spec(name).base:
                stages.append(self._merge(name))
            stages += [self._export(name, kind) for kind in plan.formats()]
            stages.append(self._latency(name))
        return stages

    def _adapter(self, name: str) -> Path:
        adapter = self._plan.spec(name).adapter
        return Path(adapter.path) if adapter and adapter.path else self._run / f"adapters/{name}"

    def _weights(self, name: str) -> str:
        """Hash of what model *name* is made of."""
        parts: list[Any] = [self._identity[self._plan.base_of(name)], self._plan.device]
        if name in self._plan.recipes:
            recipe = self._plan.recipes[name]
            parts += [
                recipe.model_dump(),
                fingerprint.of_code("finetune"),
                self._data(recipe.data.source),
            ]
        elif name in self._adapters:
            parts.append(fingerprint.of_path(self._adapters[name]))
        return fingerprint.of(parts)

    def _data(self, source: str) -> str:
        """Hash of what a data source is: the code that makes or reads it, and its local file."""
        from ..tasks import sources

        if source in sources.SOURCES:
            local = sources.local_file(source)
        else:
            local = Path(source) if Path(source).is_file() else None
        return fingerprint.of_code("tasks") + (fingerprint.of_path(local) if local else "")

    def _tune(self, name: str) -> Stage:
        plan, recipe = self._plan, self._plan.recipes[name]

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.train import tune

            base = plan.spec(plan.base_of(name))
            return tune(base, recipe, self._adapters[name], device=plan.device, tick=tick)

        return Stage(f"tune/{name}", self._weights(name), [f"adapters/{name}"], work)

    def _score(self, name: str, task: Task) -> Stage:
        suite = self._plan.suite
        part = samples_part(name, task.name)

        def work(tick: Tick) -> dict[str, Any]:
            from .evaluate import Asking, score

            asking = Asking(suite.limit, suite.orders, suite.batch_size)
            with self._pool.use(name) as (model, tokenizer):
                samples = score(name, model, tokenizer, task, asking, tick)
            self._run.write_table(part, samples)
            return {
                "n": len(samples),
                "value": samples["score"].sum() / samples["weight"].sum(),
                "adapter_change": self._pool.changes.get(name),
            }

        depends = [
            self._weights(name),
            fingerprint.of_path(task.spec),
            self._data(task.data),
            [suite.limit, suite.orders, suite.batch_size],
        ]
        return Stage(f"score/{name}/{task.name}", fingerprint.of(depends), [part], work)

    def _merge(self, name: str) -> Stage:
        plan = self._plan
        base = plan.spec(plan.base_of(name))

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.merge import merge_adapter

            self._pool.close()
            merge_adapter(
                base.source,
                self._adapters[name],
                self._run / f"merged/{name}",
                dtype="float32" if plan.device == "cpu" else "auto",
                revision=base.revision,
                trust_remote_code=base.trust_remote_code,
            )
            return {}

        return Stage(f"merge/{name}", self._weights(name), [f"merged/{name}"], work)

    def _checkpoint(self, name: str) -> Path:
        """The folder of model *name* in full precision, without an adapter beside it."""
        if name in self._adapters:
            return self._run / f"merged/{name}"
        spec = self._plan.spec(name)
        if Path(spec.source).is_dir():
            return Path(spec.source)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(spec.source, revision=spec.revision))

    def _export(self, name: str, kind: str) -> Stage:
        out = f"exports/{name}-{kind}"

        def work(tick: Tick) -> dict[str, Any]:
            from .export import check_parity, export_onnx

            checkpoint = self._checkpoint(name)
            info = export_onnx(
                checkpoint, self._run / out, precision=kind, provider=self._plan.device
            )
            prompts = self._tokens(checkpoint)
            parity = check_parity(checkpoint, info.path, prompts, device=self._plan.device)
            if kind == "fp32" and parity.max_rel > PARITY_FP32:
                raise StageError(
                    f"export of {name} to fp32 differs from torch by {parity.max_rel:.2g} of the "
                    f"largest logit (at most {PARITY_FP32:g} is rounding); do not deploy it, and "
                    "report the architecture"
                )
            return {
                "seconds": info.seconds,
                "bytes": info.bytes,
                "precision": info.precision,
                "provider": info.provider,
                "builder": info.builder,
                "parity": vars(parity),
            }

        return Stage(
            f"export/{name}/{kind}", fingerprint.of([self._weights(name), kind]), [out], work
        )

    def _latency(self, name: str) -> Stage:
        plan = self._plan
        latency = plan.suite.latency
        part = timings_part(name)

        def work(tick: Tick) -> dict[str, Any]:
            from .latency import LatencyJob, LatencySettings, measure

            assert latency is not None  # noqa: S101  (a stage of a suite with latency)
            settings = LatencySettings.model_validate(
                latency.model_dump(include=set(LatencySettings.model_fields))
            )
            job = LatencyJob(
                model=name,
                model_dir=self._checkpoint(name),
                onnx={kind: self._run / f"exports/{name}-{kind}" for kind in plan.formats()},
                prompts=self._prompts(),
                settings=settings,
                device=plan.device,
            )
            timings = measure(job, tick)
            self._run.write_table(part, timings)
            return {"requests": len(timings)}

        depends = [
            self._weights(name),
            plan.formats(),
            latency.model_dump() if latency else None,
            [task.name for task in plan.tasks],
        ]
        return Stage(f"latency/{name}", fingerprint.of(depends), [part], work)

    def _prompts(self) -> list[str]:
        """The prompts that the models were scored on, each once, in order."""
        first = self._plan.models[0]
        tables = [
            self._run.table(samples_part(first, task.name))["prompt"] for task in self._plan.tasks
        ]
        return list(dict.fromkeys(prompt for table in tables for prompt in table))

    def _tokens(self, checkpoint: Path, count: int = 4) -> list[list[int]]:
        """The first prompts as token ids, for the parity check; at most 512 tokens each."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        ids: list[list[int]] = [tokenizer(text)["input_ids"] for text in self._prompts()[:count]]
        return [one[:512] for one in ids]
